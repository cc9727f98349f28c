#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ggml_type.hpp"
#include "gguf_value.hpp"

namespace smollm2::test {

/// A growing little-endian byte sequence.
class Bytes {
 public:
  template <typename Value>
  Bytes& put(Value value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    std::memcpy(bytes_.data() + at, &value, sizeof value);
    return *this;
  }

  Bytes& put_string(std::string_view text) {
    put(static_cast<std::uint64_t>(text.size()));
    return append(std::as_bytes(std::span(text)));
  }

  Bytes& append(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }

  void pad_to(std::size_t multiple) {
    while (bytes_.size() % multiple != 0) bytes_.push_back(std::byte{0});
  }

  std::size_t size() const { return bytes_.size(); }
  const std::vector<std::byte>& get() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Builds small GGUF files in memory, damaged ones included: nothing is checked, and the public members
/// override what the header says.
class GgufWriter {
 public:
  std::uint32_t version = 3;
  std::uint64_t extra_tensors = 0;
  std::uint64_t extra_values = 0;
  std::size_t alignment = 32;

  GgufWriter& value(std::string_view key, GgufType type, const Bytes& encoded) {
    values_.put_string(key).put(static_cast<std::uint32_t>(type)).append(encoded.get());
    ++value_count_;
    return *this;
  }
  GgufWriter& u32(std::string_view key, std::uint32_t number) {
    return value(key, GgufType::u32, Bytes().put(number));
  }
  GgufWriter& f32(std::string_view key, float number) {
    return value(key, GgufType::f32, Bytes().put(number));
  }
  GgufWriter& string(std::string_view key, std::string_view text) {
    return value(key, GgufType::string, Bytes().put_string(text));
  }
  GgufWriter& strings(std::string_view key, const std::vector<std::string>& texts) {
    Bytes encoded = array_header(GgufType::string, texts.size());
    for (const std::string& text : texts) encoded.put_string(text);
    return value(key, GgufType::array, encoded);
  }
  GgufWriter& ints(std::string_view key, const std::vector<std::int32_t>& numbers) {
    Bytes encoded = array_header(GgufType::i32, numbers.size());
    for (const std::int32_t number : numbers) encoded.put(number);
    return value(key, GgufType::array, encoded);
  }

  static Bytes array_header(GgufType element, std::uint64_t count) {
    return Bytes().put(static_cast<std::uint32_t>(element)).put(count);
  }

  /// A tensor whose data follows that of the tensors before it, aligned.
  GgufWriter& tensor(std::string_view name, GgmlType type, const std::vector<std::uint64_t>& dims,
                     std::span<const std::byte> data) {
    data_.pad_to(alignment);
    entry(name, static_cast<std::uint32_t>(type), dims, data_.size());
    data_.append(data);
    return *this;
  }

  /// A table entry alone.
  GgufWriter& entry(std::string_view name, std::uint32_t type, const std::vector<std::uint64_t>& dims,
                    std::uint64_t offset) {
    table_.put_string(name).put(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) table_.put(dim);
    table_.put(type).put(offset);
    ++tensor_count_;
    return *this;
  }

  /// The whole file; ends with the last tensor's last byte.
  std::vector<std::byte> build() const {
    Bytes file;
    file.put(std::uint32_t{0x46554747}).put(version);
    file.put(tensor_count_ + extra_tensors).put(value_count_ + extra_values);
    file.append(values_.get()).append(table_.get());
    file.pad_to(alignment);
    file.append(data_.get());
    return file.get();
  }

 private:
  Bytes values_;
  Bytes table_;
  Bytes data_;
  std::uint64_t value_count_ = 0;
  std::uint64_t tensor_count_ = 0;
};

}  // namespace smollm2::test
