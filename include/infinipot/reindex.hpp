// CR-RoPE: kept keys move to positions 0, 1, 2, ... without drift.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "infinipot/element.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// Keys of one head as the engine first wrote them, for the entries that survived a distillation. A key that
/// is rotated, rounded, rotated and rounded again rots; each re-indexing therefore starts from these.
template <Element T>
struct KeyOrigins {
  T* rows = nullptr;             ///< (max_keep, head_dim)
  std::span<const Index> index;  ///< (max_keep) position that row i was rotated for
  std::size_t survivors = 0;     ///< rows in use; entries from there on are still as first written
};

namespace detail {

/// Rotates a stored row back by the angles. One rounding to T.
template <Element T>
void rotate_row(const T* in, const Angles& angles, Pairing pairing, std::size_t head_dim, T* out) noexcept {
  if constexpr (std::same_as<T, float>) {
    rotate(in, angles, pairing, Turn::backward, head_dim, out);
  } else {
    // A short tile instead of a row buffer: nothing to allocate and no limit on head_dim.
    constexpr std::size_t tile = 64;
    float both[2 * tile];
    const std::size_t pairs = angles.pairs;
    for (std::size_t i = 0; i < pairs; i += tile) {
      const std::size_t n = std::min(tile, pairs - i);
      const std::size_t first = pairing == Pairing::half_split ? i : 2 * i;
      const std::size_t second = pairing == Pairing::half_split ? i + pairs : 2 * i + n;
      const Angles part{angles.cos + i, angles.sin + i, n};
      to_float(in + first, n, both);
      to_float(in + second, n, both + n);
      rotate(both, part, pairing, Turn::backward, 2 * n, both);
      from_float(both, n, out + first);
      from_float(both + n, n, out + second);
    }
    if (in != out) std::copy(in + 2 * pairs, in + head_dim, out + 2 * pairs);
  }
}

}  // namespace detail

/// Moves the keys of one head so that entry kept[j] stands at position j, in place, as if it had been rotated
/// for that position from the start: row j becomes the key as first written, turned back by (its first
/// position - j), rounded once. Updates `origins.rows` for the next time (carry_origins does so for the
/// index, which heads of a lane share). Every T; survivors' error does not grow with the number of calls.
template <Element T>
void reindex_keys(T* keys, std::ptrdiff_t stride, std::size_t head_dim, std::span<const Index> kept,
                  const KeyOrigins<T>& origins, const AngleTable& angles, Pairing pairing) noexcept {
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const std::size_t i = kept[j];
    const bool survivor = i < origins.survivors;
    T* const original = origins.rows + j * head_dim;
    T* const key = keys + static_cast<std::ptrdiff_t>(j) * stride;
    const T* const source =
        survivor ? origins.rows + i * head_dim : keys + static_cast<std::ptrdiff_t>(i) * stride;
    if (source != original) std::copy_n(source, head_dim, original);
    const std::size_t shift = (survivor ? origins.index[i] : i) - j;
    // An entry at its first position has never moved: its row is still as first written.
    if (shift > 0) detail::rotate_row(original, angles[shift], pairing, head_dim, key);
  }
}

/// Moves the first positions along with the kept entries: index[j] = first position of entry kept[j].
inline void carry_origins(std::span<Index> index, std::span<const Index> kept,
                          std::size_t survivors) noexcept {
  for (std::size_t j = 0; j < kept.size(); ++j) index[j] = kept[j] < survivors ? index[kept[j]] : kept[j];
}

}  // namespace infinipot
