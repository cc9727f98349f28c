#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "gguf_error.hpp"

namespace smollm2 {

static_assert(std::endian::native == std::endian::little, "GGUF files are read as little-endian");

/// One little-endian value from the front of `bytes`, which need not be aligned and must be long enough.
template <typename Value>
Value load(std::span<const std::byte> bytes) {
  static_assert(std::is_trivially_copyable_v<Value>);
  Value value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// A cursor over a file's bytes that never passes their end: every read that would throws GgufError
/// naming the file, the field being read (see in()) and the byte offset.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  /// Names the field that the next reads belong to, for messages.
  void in(std::string field) { field_ = std::move(field); }
  const std::string& field() const { return field_; }

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }
  std::span<const std::byte> since(std::uint64_t start) const {
    return bytes_.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(position_ - start));
  }

  template <typename Value>
  Value read() {
    return load<Value>(take(sizeof(Value), "value size"));
  }

  /// A byte string preceded by its 64-bit length, as a view into the file.
  std::string_view string() {
    const std::span<const std::byte> bytes = take(read<std::uint64_t>(), "string length");
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// Skips `count` items of `size` bytes each; the product cannot overflow.
  void skip(std::uint64_t count, std::uint64_t size) {
    if (count > remaining() / size) overrun("array length", count);
    position_ += count * size;
  }

  /// Refuses a count that the rest of the file cannot hold, before anything is reserved for it.
  void require_room(std::uint64_t count, std::uint64_t smallest_size, std::string_view what) const {
    if (count > remaining() / smallest_size) overrun(what, count);
  }

  [[noreturn]] void fail(const std::string& problem) const {
    throw GgufError(std::string(file_) + ": " + field_ + ": " + problem);
  }

 private:
  std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (size > remaining()) overrun(what, size);
    const auto taken = bytes_.subspan(static_cast<std::size_t>(position_), static_cast<std::size_t>(size));
    position_ += size;
    return taken;
  }

  [[noreturn]] void overrun(std::string_view what, std::uint64_t amount) const {
    fail(std::string(what) + " " + std::to_string(amount) + " at byte " + std::to_string(position_) +
         " exceeds what the file has left (" + std::to_string(remaining()) + " bytes)");
  }

  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::string field_ = "header";
  std::uint64_t position_ = 0;
};

}  // namespace smollm2
