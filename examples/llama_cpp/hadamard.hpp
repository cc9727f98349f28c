// The rotation that llama.cpp gives keys and values of quantised caches.
#pragma once

#include <cmath>
#include <cstddef>

namespace llama_cpp {

/// Multiplies each `block` numbers of a row by the orthonormal Walsh-Hadamard matrix, which is its own
/// inverse. `block` is a power of two that divides `width`; with 0 the row stays as it is.
inline void hadamard(float* row, std::size_t width, std::size_t block) noexcept {
  if (block == 0) return;
  const float scale = 1 / std::sqrt(static_cast<float>(block));
  for (float* const end = row + width; row != end; row += block) {
    for (std::size_t half = 1; half < block; half *= 2)
      for (std::size_t first = 0; first < block; first += 2 * half)
        for (std::size_t i = first; i < first + half; ++i) {
          const float a = row[i], b = row[i + half];
          row[i] = a + b;
          row[i + half] = a - b;
        }
    for (std::size_t i = 0; i < block; ++i) row[i] *= scale;
  }
}

}  // namespace llama_cpp
