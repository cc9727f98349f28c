#include "gguf_value.hpp"

#include <array>
#include <limits>

namespace smollm2 {
namespace {

struct TypeInfo {
  std::string_view name;
  std::uint32_t bytes;  // of one element; 0 where that varies
};

constexpr std::array<TypeInfo, 13> type_infos{{{"u8", 1},
                                               {"i8", 1},
                                               {"u16", 2},
                                               {"i16", 2},
                                               {"u32", 4},
                                               {"i32", 4},
                                               {"f32", 4},
                                               {"bool", 1},
                                               {"string", 0},
                                               {"array", 0},
                                               {"u64", 8},
                                               {"i64", 8},
                                               {"f64", 8}}};

const TypeInfo& info(GgufType type) { return type_infos[static_cast<std::size_t>(type)]; }

GgufType read_type(ByteReader& reader) {
  const auto id = reader.read<std::uint32_t>();
  if (id >= type_infos.size()) reader.fail("unknown value type " + std::to_string(id));
  return static_cast<GgufType>(id);
}

void skip_strings(ByteReader& reader, std::uint64_t count) {
  constexpr std::uint64_t empty_string_bytes = 8;
  reader.require_room(count, empty_string_bytes, "array length");
  for (std::uint64_t i = 0; i < count; ++i) reader.string();
}

void check_bools(const ByteReader& reader, std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    if (std::to_integer<int>(byte) > 1) {
      reader.fail("bool value " + std::to_string(std::to_integer<int>(byte)) + " is neither 0 nor 1");
    }
  }
}

// u64 values beyond the signed range are empty here; as_unsigned() reads that type itself.
std::optional<std::int64_t> signed_at(GgufType type, std::span<const std::byte> bytes) {
  switch (type) {
    case GgufType::u8:
      return load<std::uint8_t>(bytes);
    case GgufType::i8:
      return load<std::int8_t>(bytes);
    case GgufType::u16:
      return load<std::uint16_t>(bytes);
    case GgufType::i16:
      return load<std::int16_t>(bytes);
    case GgufType::u32:
      return load<std::uint32_t>(bytes);
    case GgufType::i32:
      return load<std::int32_t>(bytes);
    case GgufType::i64:
      return load<std::int64_t>(bytes);
    case GgufType::u64: {
      const auto value = load<std::uint64_t>(bytes);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

bool fits_int32(std::int64_t value) {
  return value >= std::numeric_limits<std::int32_t>::min() &&
         value <= std::numeric_limits<std::int32_t>::max();
}

}  // namespace

GgufValue read_value(ByteReader& reader) {
  GgufValue value;
  value.type = value.element = read_type(reader);
  if (value.type == GgufType::array) {
    value.element = read_type(reader);
    if (value.element == GgufType::array) reader.fail("arrays of arrays are not supported");
    value.count = reader.read<std::uint64_t>();
  }
  const std::uint64_t start = reader.position();
  if (value.element == GgufType::string) {
    skip_strings(reader, value.count);
  } else {
    reader.skip(value.count, info(value.element).bytes);
  }
  value.bytes = reader.since(start);
  if (value.element == GgufType::boolean) check_bools(reader, value.bytes);
  return value;
}

std::string describe_type(const GgufValue& value) {
  if (value.type != GgufType::array) return std::string(info(value.type).name);
  return "array of " + std::string(info(value.element).name);
}

std::optional<std::uint64_t> as_unsigned(const GgufValue& value) {
  if (value.type == GgufType::u64) return load<std::uint64_t>(value.bytes);
  const std::optional<std::int64_t> found = signed_at(value.type, value.bytes);
  if (!found || *found < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*found);
}

std::optional<double> as_float(const GgufValue& value) {
  if (value.type == GgufType::f32) return load<float>(value.bytes);
  if (value.type == GgufType::f64) return load<double>(value.bytes);
  return std::nullopt;
}

std::optional<bool> as_bool(const GgufValue& value) {
  if (value.type != GgufType::boolean) return std::nullopt;
  return value.bytes.front() == std::byte{1};
}

std::optional<std::string_view> as_string(const GgufValue& value) {
  if (value.type != GgufType::string) return std::nullopt;
  return ByteReader(value.bytes, {}).string();
}

std::optional<std::vector<std::string_view>> as_strings(const GgufValue& value) {
  if (value.type != GgufType::array || value.element != GgufType::string) return std::nullopt;
  std::vector<std::string_view> strings;
  strings.reserve(static_cast<std::size_t>(value.count));
  ByteReader reader(value.bytes, {});
  for (std::uint64_t i = 0; i < value.count; ++i) strings.push_back(reader.string());
  return strings;
}

std::optional<std::vector<std::int32_t>> as_ints(const GgufValue& value) {
  const std::size_t size = info(value.element).bytes;
  if (value.type != GgufType::array || size == 0) return std::nullopt;
  std::vector<std::int32_t> ints;
  ints.reserve(static_cast<std::size_t>(value.count));
  for (std::size_t at = 0; at < value.bytes.size(); at += size) {
    const std::optional<std::int64_t> found = signed_at(value.element, value.bytes.subspan(at));
    if (!found || !fits_int32(*found)) return std::nullopt;
    ints.push_back(static_cast<std::int32_t>(*found));
  }
  return ints;
}

}  // namespace smollm2
