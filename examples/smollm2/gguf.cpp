#include "gguf.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace smollm2 {
namespace {

constexpr std::string_view alignment_key = "general.alignment";
constexpr std::uint64_t default_alignment = 32;

// The least a metadata pair (key length, type, one byte of value) and a table entry (name length,
// number of dimensions, one dimension, type, offset) can take: bounds for the counts in the header.
constexpr std::uint64_t smallest_pair_bytes = 8 + 4 + 1;
constexpr std::uint64_t smallest_entry_bytes = 8 + 4 + 8 + 4 + 8;

void read_magic_and_version(ByteReader& reader) {
  constexpr std::uint32_t magic = 0x46554747;  // "GGUF"
  if (reader.read<std::uint32_t>() != magic) reader.fail("not a GGUF file (it does not begin with \"GGUF\")");
  const auto version = reader.read<std::uint32_t>();
  if (version == 2 || version == 3) return;
  const bool swapped = version != 0 && (version & 0xffffU) == 0;
  reader.fail("version " + std::to_string(version) + " is not supported (2 and 3 are)" +
              (swapped ? "; the file seems to be big-endian" : ""));
}

std::string tensor_field(std::string_view name) { return "tensor " + quoted(name); }

std::uint64_t checked_product(const ByteReader& reader, std::uint64_t a, std::uint64_t b) {
  if (a > std::numeric_limits<std::uint64_t>::max() / b)
    reader.fail("the product of the dimensions overflows");
  return a * b;
}

void read_dims(ByteReader& reader, GgufTensor& tensor) {
  const auto count = reader.read<std::uint32_t>();
  if (count < 1 || count > tensor.dims.size()) {
    reader.fail(std::to_string(count) + " dimensions, but 1 to 4 are supported");
  }
  for (std::size_t i = 0; i < count; ++i) {
    tensor.dims[i] = reader.read<std::uint64_t>();
    if (tensor.dims[i] == 0) reader.fail("dimension " + std::to_string(i) + " is 0");
  }
}

std::uint64_t encoded_bytes(const ByteReader& reader, const GgufTensor& tensor) {
  const std::optional<BlockLayout> layout = block_layout(tensor.type);
  if (!layout) reader.fail("unknown type " + std::to_string(static_cast<std::uint32_t>(tensor.type)));
  if (tensor.columns() % layout->values != 0) {
    reader.fail("row length " + std::to_string(tensor.columns()) + " is not a multiple of " +
                std::string(layout->name) + "'s block of " + std::to_string(layout->values));
  }
  std::uint64_t bytes = checked_product(reader, tensor.columns() / layout->values, layout->bytes);
  for (std::size_t i = 1; i < tensor.dims.size(); ++i) bytes = checked_product(reader, bytes, tensor.dims[i]);
  return bytes;
}

template <class Map>
std::vector<std::string_view> sorted_keys(const Map& map) {
  std::vector<std::string_view> keys;
  keys.reserve(map.size());
  for (const auto& [key, value] : map) keys.push_back(key);
  std::ranges::sort(keys);
  return keys;
}

}  // namespace

struct GgufFile::PlacedTensor {
  GgufTensor tensor;
  std::uint64_t offset;  // from the start of the data section
  std::uint64_t bytes;
};

GgufFile::GgufFile(const std::filesystem::path& path) : mapping_(std::in_place, path), name_(path.string()) {
  parse(mapping_->bytes());
}

GgufFile::GgufFile(std::span<const std::byte> bytes, std::string name) : name_(std::move(name)) {
  parse(bytes);
}

void GgufFile::parse(std::span<const std::byte> bytes) {
  ByteReader reader(bytes, name_);
  read_magic_and_version(reader);
  const auto tensor_count = reader.read<std::uint64_t>();
  const auto value_count = reader.read<std::uint64_t>();
  read_metadata(reader, value_count);
  const std::vector<PlacedTensor> tensors = read_tensor_table(reader, tensor_count);
  place_tensors(bytes, reader.position(), tensors);
}

void GgufFile::read_metadata(ByteReader& reader, std::uint64_t count) {
  reader.require_room(count, smallest_pair_bytes, "number of metadata keys");
  values_.reserve(static_cast<std::size_t>(count));
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string field = "metadata key " + std::to_string(i);
    reader.in(field);
    const std::string_view key = reader.string();
    reader.in(field + " " + quoted(key));
    const GgufValue value = read_value(reader);
    if (!values_.emplace(key, value).second) reader.fail("the key occurs twice");
  }
}

std::vector<GgufFile::PlacedTensor> GgufFile::read_tensor_table(ByteReader& reader, std::uint64_t count) {
  reader.in("header");
  reader.require_room(count, smallest_entry_bytes, "number of tensors");
  std::vector<PlacedTensor> tensors;
  tensors.reserve(static_cast<std::size_t>(count));
  for (std::uint64_t i = 0; i < count; ++i) {
    reader.in("tensor " + std::to_string(i));
    GgufTensor tensor;
    tensor.name = reader.string();
    reader.in(tensor_field(tensor.name));
    read_dims(reader, tensor);
    tensor.type = static_cast<GgmlType>(reader.read<std::uint32_t>());
    const auto offset = reader.read<std::uint64_t>();
    tensors.push_back({tensor, offset, encoded_bytes(reader, tensor)});
  }
  return tensors;
}

std::uint64_t GgufFile::alignment() const {
  const std::uint64_t found = unsigned_value(alignment_key, default_alignment);
  if (!std::has_single_bit(found) || found > std::numeric_limits<std::uint32_t>::max()) {
    fail("metadata key " + quoted(alignment_key), std::to_string(found) + " is not a 32-bit power of two");
  }
  return found;
}

void GgufFile::place_tensors(std::span<const std::byte> bytes, std::uint64_t table_end,
                             const std::vector<PlacedTensor>& tensors) {
  const std::uint64_t align = alignment();
  // Cannot overflow: a file in memory is far smaller than 2^63 bytes and align below 2^32.
  const std::uint64_t data_start = (table_end + align - 1) / align * align;
  const std::uint64_t data_bytes = bytes.size() > data_start ? bytes.size() - data_start : 0;
  tensors_.reserve(tensors.size());
  for (const PlacedTensor& placed : tensors) {
    GgufTensor tensor = placed.tensor;
    if (placed.offset % align != 0) {
      fail(tensor_field(tensor.name), "offset " + std::to_string(placed.offset) +
                                          " is not a multiple of the alignment " + std::to_string(align));
    }
    if (placed.offset > data_bytes || placed.bytes > data_bytes - placed.offset) {
      fail(tensor_field(tensor.name), "offset " + std::to_string(placed.offset) + " + size " +
                                          std::to_string(placed.bytes) + " exceeds the file's " +
                                          std::to_string(data_bytes) + " bytes of tensor data");
    }
    tensor.data = bytes.subspan(static_cast<std::size_t>(data_start + placed.offset),
                                static_cast<std::size_t>(placed.bytes));
    if (!tensors_.emplace(tensor.name, tensor).second)
      fail(tensor_field(tensor.name), "the name occurs twice");
  }
}

void GgufFile::fail(const std::string& field, const std::string& problem) const {
  throw GgufError(name_ + ": " + field + ": " + problem);
}

const GgufValue& GgufFile::value(std::string_view key, std::string_view wanted) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    fail("metadata key " + quoted(key), "wanted " + std::string(wanted) + ", but the key is missing");
  }
  return found->second;
}

template <typename Result>
Result GgufFile::convert(std::string_view key, std::string_view wanted,
                         std::optional<Result> (*conversion)(const GgufValue&)) const {
  const GgufValue& stored = value(key, wanted);
  std::optional<Result> result = conversion(stored);
  if (!result) {
    fail("metadata key " + quoted(key), "wanted " + std::string(wanted) + ", found " + describe_type(stored));
  }
  return std::move(*result);
}

std::uint64_t GgufFile::unsigned_value(std::string_view key) const {
  return convert(key, "a non-negative integer", as_unsigned);
}

std::uint64_t GgufFile::unsigned_value(std::string_view key, std::uint64_t fallback) const {
  return has(key) ? unsigned_value(key) : fallback;
}

float GgufFile::float_value(std::string_view key) const {
  return static_cast<float>(convert(key, "a floating-point number", as_float));
}

float GgufFile::float_value(std::string_view key, float fallback) const {
  return has(key) ? float_value(key) : fallback;
}

bool GgufFile::bool_value(std::string_view key) const { return convert(key, "a bool", as_bool); }

bool GgufFile::bool_value(std::string_view key, bool fallback) const {
  return has(key) ? bool_value(key) : fallback;
}

std::string_view GgufFile::string_value(std::string_view key) const {
  return convert(key, "a string", as_string);
}

std::vector<std::string_view> GgufFile::strings(std::string_view key) const {
  return convert(key, "an array of strings", as_strings);
}

std::vector<std::int32_t> GgufFile::ints(std::string_view key) const {
  return convert(key, "an array of 32-bit integers", as_ints);
}

std::vector<std::string_view> GgufFile::keys() const { return sorted_keys(values_); }

std::vector<std::string_view> GgufFile::tensor_names() const { return sorted_keys(tensors_); }

const GgufTensor& GgufFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail(tensor_field(name), "the file has no such tensor");
  return found->second;
}

}  // namespace smollm2
