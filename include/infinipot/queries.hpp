// Queries of a forward pass and rows of keys or values, as strided views of others' memory.
#pragma once

#include <cstddef>

#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Query vectors of one layer, (count, query_heads, head_dim), after RoPE. Strides count floats.
struct Queries {
  const float* data = nullptr;
  std::size_t count = 0;            ///< tokens
  std::ptrdiff_t token_stride = 0;  ///< from one token to the next
  std::ptrdiff_t head_stride = 0;   ///< from one query head to the next

  const float* at(std::size_t token, std::size_t head) const noexcept {
    return data + static_cast<std::ptrdiff_t>(token) * token_stride +
           static_cast<std::ptrdiff_t>(head) * head_stride;
  }
};

/// Contiguous queries, (count, query_heads, head_dim).
inline Queries contiguous_queries(const float* data, std::size_t count, const Shape& shape) noexcept {
  return {data, count, static_cast<std::ptrdiff_t>(shape.query_heads * shape.head_dim),
          static_cast<std::ptrdiff_t>(shape.head_dim)};
}

/// Keys or values of one (layer, kv head) as floats, (count, head_dim), `stride` floats apart. Keys are
/// rotated for their positions.
struct FloatRows {
  const float* data = nullptr;
  std::ptrdiff_t stride = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
