// CR-RoPE: kept keys move to positions 0, 1, 2, ... without drift.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/detail/copy_row.hpp"
#include "infinipot/element.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// Where the survivors of one lane have their keys as the engine first wrote them. A key that is rotated,
/// rounded, rotated and rounded again rots; each re-indexing therefore starts from these. An entry keeps its
/// row as long as it lives. Heads of a lane share all of this, but for the rows themselves.
struct KeyOrigins {
  std::span<Index> row;            ///< (max_keep) row of entry begin + i, for entries below `survivors`
  std::span<Index> position;       ///< (max_keep) that a row was rotated for
  std::span<std::uint8_t> in_use;  ///< (max_keep) scratch: whether a row is
  std::size_t survivors = 0;       ///< entries from there on are still as first written
  std::size_t begin = 0;           ///< there are no entries before this one
};

/// Gives rows to the entries that are kept, which are to be entries first, first + 1, ...: survivors have
/// theirs, the others take those that nobody needs any more. Then the row of entry first + j belongs to what
/// is entry kept[j] now. Returns how many of them had survived before; these come first. `kept` ascends.
/// Precondition: first + kept.size() <= origins.begin + max_keep, origins.begin <= first, first <= kept[0].
inline std::size_t assign_rows(const KeyOrigins& origins, std::span<const Index> kept,
                               std::size_t first = 0) noexcept {
  std::fill(origins.in_use.begin(), origins.in_use.end(), std::uint8_t{0});
  const auto rows = origins.row.subspan(first - origins.begin);
  std::size_t j = 0;
  for (; j < kept.size() && kept[j] < origins.survivors; ++j) {
    rows[j] = rows[kept[j] - first];
    origins.in_use[rows[j]] = 1;
  }
  const std::size_t survivors = j;
  for (Index row = 0; j < kept.size(); ++row) {
    if (origins.in_use[row] != 0) continue;
    rows[j] = row;
    origins.position[row] = kept[j++];
  }
  return survivors;
}

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

/// Moves the keys of one head so that entry kept[j] stands at position first + j, in place, as if it had been
/// rotated for that position from the start: row first + j becomes the key as first written, turned back by
/// (its first position - first - j), rounded once. `keys` is row `first`. Call assign_rows() before, which
/// returns `survivors`, how many of the kept have been moved here earlier. `originals` is (max_keep,
/// head_dim). Survivors' error does not grow with the number of calls.
template <Element T>
void reindex_keys(T* keys, std::ptrdiff_t stride, std::size_t head_dim, std::span<const Index> kept,
                  const KeyOrigins& origins, std::size_t survivors, T* originals, const AngleTable& angles,
                  Pairing pairing, std::size_t first = 0) noexcept {
  const auto key = [=](std::size_t i) { return keys + static_cast<std::ptrdiff_t>(i) * stride; };
  const auto rows = origins.row.subspan(first - origins.begin);
  const auto original = [=](std::size_t j) { return originals + rows[j] * head_dim; };
  const detail::RowWriter<T> writer(originals, static_cast<std::ptrdiff_t>(head_dim), head_dim);
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const auto source = [&](std::size_t i) { return i < survivors ? original(i) : key(kept[i] - first); };
    const std::size_t next = j + detail::rows_ahead;
    if (next < kept.size()) detail::prefetch_row(source(next), head_dim);
    if (j >= survivors) writer.copy(source(j), original(j));
    if (kept[j] - first == j) continue;  // stands where it stood
    const std::size_t shift = origins.position[rows[j]] - first - j;
    detail::rotate_row(source(j), angles[shift], pairing, head_dim, key(j));
  }
}

}  // namespace infinipot
