#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ggml_type.hpp"
#include "gguf_error.hpp"
#include "gguf_value.hpp"
#include "mapped_file.hpp"

namespace smollm2 {

/// One tensor of a model file; views into the file, valid while the GgufFile lives.
struct GgufTensor {
  std::string_view name;
  GgmlType type = GgmlType::f32;
  /// Sizes, fastest-varying first (dims[0] is the row length); unused ones are 1.
  std::array<std::uint64_t, 4> dims{1, 1, 1, 1};
  std::span<const std::byte> data;  ///< all rows, encoded as `type`, no padding between them

  std::uint64_t columns() const { return dims[0]; }
  std::uint64_t rows() const { return dims[1] * dims[2] * dims[3]; }
};

/// A GGUF model file (version 2 or 3, little-endian), opened read-only and checked as a whole: after
/// construction every view it hands out lies inside the file. A truncated or hostile file throws
/// GgufError, whatever it holds.
class GgufFile {
 public:
  /// Maps the file. Throws GgufError.
  explicit GgufFile(const std::filesystem::path& path);
  /// Reads a file already in memory, which must outlive the object; `name` is for messages.
  GgufFile(std::span<const std::byte> bytes, std::string name);

  /// The file's path or name, as messages give it.
  const std::string& name() const { return name_; }

  bool has(std::string_view key) const { return values_.contains(key); }
  /// In alphabetical order.
  std::vector<std::string_view> keys() const;
  /// Throws GgufError naming the key when the file lacks it.
  const GgufValue& value(std::string_view key) const { return value(key, "a value"); }

  /// Typed metadata. Each throws GgufError naming the key, what was wanted and what was found when the
  /// key is missing (unless a default is given) or its value is of another kind or out of range.
  /// unsigned_value takes any integer type holding a non-negative value.
  std::uint64_t unsigned_value(std::string_view key) const;
  std::uint64_t unsigned_value(std::string_view key, std::uint64_t fallback) const;
  /// f32, or f64 rounded to it.
  float float_value(std::string_view key) const;
  float float_value(std::string_view key, float fallback) const;
  bool bool_value(std::string_view key) const;
  bool bool_value(std::string_view key, bool fallback) const;
  std::string_view string_value(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;
  /// An array of any integer type whose values all fit.
  std::vector<std::int32_t> ints(std::string_view key) const;

  bool has_tensor(std::string_view name) const { return tensors_.contains(name); }
  std::size_t tensor_count() const { return tensors_.size(); }
  /// In alphabetical order.
  std::vector<std::string_view> tensor_names() const;
  /// Throws GgufError naming the tensor when the file lacks it.
  const GgufTensor& tensor(std::string_view name) const;

 private:
  struct PlacedTensor;

  void parse(std::span<const std::byte> bytes);
  void read_metadata(ByteReader& reader, std::uint64_t count);
  std::vector<PlacedTensor> read_tensor_table(ByteReader& reader, std::uint64_t count);
  std::uint64_t alignment() const;
  void place_tensors(std::span<const std::byte> bytes, std::uint64_t table_end,
                     const std::vector<PlacedTensor>& tensors);

  const GgufValue& value(std::string_view key, std::string_view wanted) const;
  template <typename Result>
  Result convert(std::string_view key, std::string_view wanted,
                 std::optional<Result> (*conversion)(const GgufValue&)) const;
  [[noreturn]] void fail(const std::string& field, const std::string& problem) const;

  std::optional<MappedFile> mapping_;
  std::string name_;
  std::unordered_map<std::string_view, GgufValue> values_;
  std::unordered_map<std::string_view, GgufTensor> tensors_;
};

}  // namespace smollm2
