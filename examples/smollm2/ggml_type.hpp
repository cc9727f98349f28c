#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace smollm2 {

/// How a tensor's numbers are stored, by the id a GGUF file uses. The named ones are those that
/// dequantize() reads; a file may hold any other type that block_layout() knows.
enum class GgmlType : std::uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, bf16 = 30 };

/// The unit a tensor's rows are made of: `values` numbers stored in `bytes` bytes.
struct BlockLayout {
  std::string_view name;
  std::uint32_t values;
  std::uint32_t bytes;
};

/// Layout of a type's blocks; empty for an id that is no known type.
std::optional<BlockLayout> block_layout(GgmlType type);

}  // namespace smollm2
