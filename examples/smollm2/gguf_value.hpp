#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "byte_reader.hpp"

namespace smollm2 {

/// Kinds of metadata value, by the id a GGUF file uses.
enum class GgufType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

/// One metadata value, checked when it was read and decoded when it is asked for; a view into the file.
struct GgufValue {
  GgufType type = GgufType::u8;      ///< array, or the type of the single value
  GgufType element = GgufType::u8;   ///< type of an array's elements; equals `type` otherwise
  std::uint64_t count = 1;           ///< number of elements; 1 for a single value
  std::span<const std::byte> bytes;  ///< the encoded elements
};

/// Reads a value with its leading type id. Throws GgufError for an unknown type, an array of arrays, a
/// bool other than 0 or 1, or anything that runs past the end of the file.
GgufValue read_value(ByteReader& reader);

/// "u32", "array of string", ... for messages.
std::string describe_type(const GgufValue& value);

/// The conversions below are empty when the value is of another kind or out of the result's range.
std::optional<std::uint64_t> as_unsigned(const GgufValue& value);
std::optional<double> as_float(const GgufValue& value);
std::optional<bool> as_bool(const GgufValue& value);
std::optional<std::string_view> as_string(const GgufValue& value);
std::optional<std::vector<std::string_view>> as_strings(const GgufValue& value);
/// Any array of integers whose every element fits.
std::optional<std::vector<std::int32_t>> as_ints(const GgufValue& value);

}  // namespace smollm2
