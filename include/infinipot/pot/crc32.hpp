#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// tables[k][b]: what byte b does to the state k bytes later.
using CrcTables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr CrcTables make_crc_tables() {
  CrcTables made{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t state = b;
    for (int bit = 0; bit < 8; ++bit) state = state >> 1U ^ ((state & 1U) != 0 ? 0xEDB88320U : 0);
    made[0][b] = state;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t b = 0; b < 256; ++b) made[k][b] = made[k - 1][b] >> 8U ^ made[0][made[k - 1][b] & 0xFFU];
  return made;
}

inline constexpr CrcTables crc_tables = make_crc_tables();

/// The CRC-32 of zlib and PNG (reflected 0xEDB88320), for other programs to check; eight bytes at a time.
class Crc32 {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    std::size_t i = 0;
    if constexpr (std::endian::native == std::endian::little)
      for (; i + 8 <= bytes.size(); i += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + i, 8);
        word ^= state_;
        state_ = 0;
        for (std::size_t k = 0; k < 8; ++k) state_ ^= crc_tables[7 - k][word >> 8 * k & 0xFFU];
      }
    for (; i < bytes.size(); ++i)
      state_ = state_ >> 8U ^ crc_tables[0][(state_ ^ static_cast<std::uint32_t>(bytes[i])) & 0xFFU];
  }

  std::uint32_t value() const noexcept { return ~state_; }

 private:
  std::uint32_t state_ = 0xFFFFFFFFU;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
