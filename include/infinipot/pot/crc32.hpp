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

/// Product of two polynomials over GF(2) modulo the CRC's, bits reflected as in the CRC.
constexpr std::uint32_t crc_product(std::uint32_t a, std::uint32_t b) noexcept {
  std::uint32_t product = 0;
  for (std::uint32_t bit = 0x80000000U; bit != 0; bit >>= 1U) {
    product ^= (a & bit) != 0 ? b : 0;
    b = b >> 1U ^ ((b & 1U) != 0 ? 0xEDB88320U : 0);
  }
  return product;
}

/// What crc_of_both() needs of the second part: x^(8 * bytes).
constexpr std::uint32_t crc_shift(std::uint64_t bytes) noexcept {
  std::uint32_t shift = 0x80000000U;  // 1
  for (std::uint32_t power = 0x00800000U; bytes != 0; bytes >>= 1U) {
    if ((bytes & 1U) != 0) shift = crc_product(power, shift);
    power = crc_product(power, power);
  }
  return shift;
}

/// The CRC of two parts, one after the other, of the CRCs of both.
constexpr std::uint32_t crc_of_both(std::uint32_t first, std::uint32_t second, std::uint32_t shift) noexcept {
  return crc_product(shift, first) ^ second;
}

/// The CRC-32 of zlib and PNG (reflected 0xEDB88320), for other programs to check; eight bytes at a time, and
/// of long pieces three strands at once, since each step waits for the one before it.
class Crc32 {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    if constexpr (std::endian::native == std::endian::little) {
      for (; left >= 3 * strand; left -= 3 * strand, at += 3 * strand) {
        std::uint32_t second = 0, third = 0;
        for (std::size_t i = 0; i < strand; i += 8) {
          state_ = after_word(state_, at + i);
          second = after_word(second, at + strand + i);
          third = after_word(third, at + 2 * strand + i);
        }
        state_ = crc_of_both(crc_of_both(state_, second, strand_shift), third, strand_shift);
      }
      for (; left >= 8; left -= 8, at += 8) state_ = after_word(state_, at);
    }
    for (; left > 0; --left, ++at)
      state_ = state_ >> 8U ^ crc_tables[0][(state_ ^ static_cast<std::uint32_t>(*at)) & 0xFFU];
  }

  std::uint32_t value() const noexcept { return ~state_; }

 private:
  static constexpr std::size_t strand = 1024;
  static constexpr std::uint32_t strand_shift = crc_shift(strand);

  static std::uint32_t after_word(std::uint32_t state, const std::byte* bytes) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes, 8);
    word ^= state;
    std::uint32_t next = 0;
    for (std::size_t k = 0; k < 8; ++k) next ^= crc_tables[7 - k][word >> 8 * k & 0xFFU];
    return next;
  }

  std::uint32_t state_ = 0xFFFFFFFFU;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
