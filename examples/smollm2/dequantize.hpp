#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ggml_type.hpp"

namespace smollm2 {

/// IEEE half precision to single: exact for every value, subnormals, infinities and NaN included.
float half_to_float(std::uint16_t bits);

/// bfloat16 to single: exact.
float bfloat16_to_float(std::uint16_t bits);

/// Decodes stored numbers to floats: out[i] is the i-th number of `blocks`.
/// Reads F32, F16, BF16, Q8_0, Q4_0 and Q4_1; any other type throws GgufError naming it.
/// `out` must be a whole number of the type's blocks long (32 numbers for the Q types) and `blocks` must
/// hold exactly that many blocks, or std::invalid_argument is thrown. Neither need be aligned beyond
/// its element type. Results are the same bits on every platform.
void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace smollm2
