// CR-RoPE, Context-Reset RoPE: kept keys move to positions 0, 1, 2, ... without drift.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/detail/copy_row.hpp"
#include "infinipot/element.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Where one lane's survivors have their keys as the engine first wrote them. Every re-indexing starts from
/// these: a key rotated and rounded again and again would decay. An entry keeps its row while it lives. Heads
/// of a lane share all of this but the rows themselves.
struct KeyOrigins {
  std::span<Index> row;            ///< (max_keep) of every entry below `survivors`
  std::span<Index> position;       ///< (max_keep) that each row was rotated for
  std::span<std::uint8_t> in_use;  ///< (max_keep) whether a row is; scratch
  std::size_t survivors = 0;       ///< entries from here on are still as first written
};

/// Gives rows to the kept entries: survivors keep theirs, the others take the free ones. row[j] then belongs
/// to the entry that is still at kept[j]. Returns how many of them had survived before; these come first.
/// Preconditions: `kept` ascends, kept.size() <= max_keep.
inline std::size_t assign_rows(const KeyOrigins& origins, std::span<const Index> kept) noexcept {
  std::fill(origins.in_use.begin(), origins.in_use.end(), std::uint8_t{0});
  std::size_t j = 0;
  for (; j < kept.size() && kept[j] < origins.survivors; ++j) {
    origins.row[j] = origins.row[kept[j]];
    origins.in_use[origins.row[j]] = 1;
  }
  const std::size_t survivors = j;
  for (Index row = 0; j < kept.size(); ++row) {
    if (origins.in_use[row] != 0) continue;
    origins.row[j] = row;
    origins.position[row] = kept[j++];
  }
  return survivors;
}

namespace detail {

/// Rotates a stored row back by the angles, rounded once to T.
template <Element T>
void rotate_row(const T* in, const Angles& angles, Pairing pairing, std::size_t head_dim, T* out) noexcept {
  if constexpr (std::same_as<T, float>) {
    rotate(in, angles, pairing, Turn::backward, head_dim, out);
  } else {
    // A short tile instead of a row buffer: no allocation, no limit on head_dim.
    constexpr std::size_t tile = 64;
    float both[2 * tile];
    const std::size_t pairs = angles.pairs;
    for (std::size_t i = 0; i < pairs; i += tile) {
      const std::size_t n = (std::min)(tile, pairs - i);
      const std::size_t first = angles.first + (pairing == Pairing::half_split ? i : 2 * i);
      const std::size_t second = first + (pairing == Pairing::half_split ? pairs : n);
      const Angles part{angles.cos + i, angles.sin + i, n};
      to_float(in + first, n, both);
      to_float(in + second, n, both + n);
      rotate(both, part, pairing, Turn::backward, 2 * n, both);
      from_float(both, n, out + first);
      from_float(both + n, n, out + second);
    }
    if (in == out) return;
    const std::size_t end = angles.first + 2 * pairs;
    std::copy(in, in + angles.first, out);
    std::copy(in + end, in + head_dim, out + end);
  }
}

}  // namespace detail

/// Moves one head's keys in place so that entry kept[j] stands at position j, as if rotated for it from the
/// start: row j becomes the key as first written, turned back by (its first position - j) and rounded once.
/// So survivors' error does not grow with the number of calls. `survivors` comes from assign_rows(), called
/// before. `originals` is (max_keep, head_dim).
template <Element T>
void reindex_keys(T* keys, std::ptrdiff_t stride, std::size_t head_dim, std::span<const Index> kept,
                  const KeyOrigins& origins, std::size_t survivors, T* originals, const AngleTable& angles,
                  Pairing pairing) noexcept {
  const auto key = [=](std::size_t i) { return keys + static_cast<std::ptrdiff_t>(i) * stride; };
  const auto original = [&](std::size_t j) { return originals + origins.row[j] * head_dim; };
  const detail::RowWriter<T> writer(originals, static_cast<std::ptrdiff_t>(head_dim), head_dim);
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const auto source = [&](std::size_t i) { return i < survivors ? original(i) : key(kept[i]); };
    const std::size_t next = j + detail::rows_ahead;
    if (next < kept.size()) detail::prefetch_row(source(next), head_dim);
    if (j >= survivors) writer.copy(source(j), original(j));
    if (kept[j] == j) continue;  // already there
    const std::size_t shift = origins.position[origins.row[j]] - j;
    detail::rotate_row(source(j), angles[shift], pairing, head_dim, key(j));
  }
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
