#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ggml_type.hpp"

namespace smollm2 {

/// IEEE half precision to single: exact for every value, subnormals, infinities and NaN included.
float half_to_float(std::uint16_t bits);

/// bfloat16 to single: exact.
float bfloat16_to_float(std::uint16_t bits);

/// A block of a Q type: 32 numbers scale * code + offset.
struct CodedBlock {
  static constexpr std::size_t size = 32;

  std::uint16_t scale;  ///< half precision, as is the offset; minus zero where the type has none
  std::uint16_t offset;
  std::array<std::int8_t, size> codes;

  /// A half's 11 significant bits times a code of 8 are exact in a float, so this rounds once, and a compiler
  /// that fuses it into one instruction changes no bit. A zero product keeps its sign if the offset is -0.
  static float number(float scale, std::int8_t code, float offset) {
    return scale * static_cast<float>(code) + offset;
  }
};

/// Whether numbers of a type come in CodedBlocks: Q8_0, Q4_0 and Q4_1.
bool is_coded(GgmlType type);

/// One block of such a type, `bytes` as long as the type's layout says.
CodedBlock read_block(GgmlType type, std::span<const std::byte> bytes);

/// Decodes stored numbers to floats: out[i] is the i-th number of `blocks`.
/// Reads F32, F16, BF16, Q8_0, Q4_0 and Q4_1; any other type throws GgufError naming it.
/// `out` must be a whole number of the type's blocks long (32 numbers for the Q types) and `blocks` must
/// hold exactly that many blocks, or std::invalid_argument is thrown. Neither need be aligned beyond
/// its element type. Results are the same bits on every platform.
void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace smollm2
