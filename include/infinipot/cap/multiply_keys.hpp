// The products of keys and queries, by vectors.
#pragma once

#include <cstddef>
#include <utility>

#include "infinipot/detail/simd.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// out[r][w] = sum over k of keys[r][k] * queries[k][w], for `rows` keys and `packets` packets of queries.
/// Not inline: this loop needs nearly all registers; sharing them with a caller would halve its speed.
template <std::size_t packets, std::size_t... row>
[[gnu::noinline]] void dot_rows(std::index_sequence<row...>, const float* keys, std::ptrdiff_t stride,
                                const float* queries, std::size_t head_dim, float* out) noexcept {
  static_assert(packets == 1 || packets == 2);
  constexpr std::size_t width = packets * packet_size;
  Packet left[sizeof...(row)] = {((void)row, broadcast(0))...};
  Packet right[sizeof...(row)] = {((void)row, broadcast(0))...};
  for (std::size_t k = 0; k < head_dim; ++k) {
    const Packet q0 = load(queries + k * width);
    const Packet q1 = load(queries + (k + 1) * width - packet_size);
    const auto step = [&](std::size_t r) {
      const Packet key =
          broadcast(keys[static_cast<std::ptrdiff_t>(r) * stride + static_cast<std::ptrdiff_t>(k)]);
      left[r] = multiply_add(key, q0, left[r]);
      if constexpr (packets == 2) right[r] = multiply_add(key, q1, right[r]);
    };
    (step(row), ...);
  }
  (store(out + row * width, left[row]), ...);
  if constexpr (packets == 2) (store(out + row * width + packet_size, right[row]), ...);
}

/// out[r * out_stride] = sum over k of keys[r][k] * query[k], for a few keys and one query. Precondition:
/// head_dim is a multiple of packet_size.
template <std::size_t... row>
[[gnu::noinline]] void dot_query(std::index_sequence<row...>, const float* keys, std::ptrdiff_t stride,
                                 const float* query, std::size_t head_dim, float* out,
                                 std::size_t out_stride) noexcept {
  Packet sums[sizeof...(row)] = {((void)row, broadcast(0))...};
  for (std::size_t k = 0; k < head_dim; k += packet_size) {
    const Packet q = load(query + k);
    ((sums[row] = multiply_add(
          load(keys + static_cast<std::ptrdiff_t>(row) * stride + static_cast<std::ptrdiff_t>(k)), q,
          sums[row])),
     ...);
  }
  ((out[row * out_stride] = sum(sums[row])), ...);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
