// Numbers in files.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Positions from here on are those of no text.
inline constexpr std::uint64_t positions_end = std::uint64_t{1} << 62U;

/// Throws std::invalid_argument unless the machine is little-endian.
inline void check_endianness() {
  if constexpr (std::endian::native != std::endian::little)
    invalid("pot files are for little-endian machines");
}

/// Appends numbers in the machine's byte order (little-endian).
class HeaderWriter {
 public:
  template <class T>
  void put(T value) {
    const auto* const first = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof value);
  }
  void put(std::string_view text) {
    for (const char c : text) put(c);
  }
  template <class T>
  void put(std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::vector<std::byte>& bytes() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads numbers from the front of a file.
class HeaderReader {
 public:
  explicit HeaderReader(std::span<const std::byte> bytes, const char* what = "pot file") noexcept
      : bytes_(bytes), what_(what) {}

  /// Throws std::invalid_argument at the file's end.
  template <class T>
  T get() {
    if (bytes_.size() - at_ < sizeof(T)) invalid("the ", what_, " ends inside its header");
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  /// `count` numbers. Throws std::invalid_argument at the file's end.
  template <class T>
  std::vector<T> get_all(std::uint64_t count) {
    if (count > (bytes_.size() - at_) / sizeof(T)) invalid("the ", what_, " is cut short");
    std::vector<T> values(static_cast<std::size_t>(count));
    if (count != 0) std::memcpy(values.data(), bytes_.data() + at_, values.size() * sizeof(T));
    at_ += values.size() * sizeof(T);
    return values;
  }

  /// One of `count` enumerators. Throws std::invalid_argument for another.
  template <class E>
  E get_choice(const char* what, std::uint32_t count) {
    const auto value = get<std::uint32_t>();
    if (value >= count) invalid("the ", what_, "'s ", what, ' ', value, " is out of range 0 .. ", count - 1);
    return static_cast<E>(value);
  }

  std::size_t at() const noexcept { return at_; }

 private:
  std::span<const std::byte> bytes_;
  const char* what_;
  std::size_t at_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
