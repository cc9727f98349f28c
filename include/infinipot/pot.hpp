// The pot: at most `capacity` keys and values per layer and head, in its own memory or in an engine's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "infinipot/compact.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/arena.hpp"
#include "infinipot/element.hpp"
#include "infinipot/entries.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/kv_layout.hpp"
#include "infinipot/reindex.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/selection.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// How the engine wants to find its keys.
enum class KeyStorage : std::uint8_t {
  rotated,   ///< rotated for their positions; a distillation rotates them anew, from the key as first written
  unrotated  ///< as projected; the engine rotates them when it reads, by their index
};

struct PotSettings {
  Shape shape;
  std::size_t capacity = 0;  ///< M: entries per (layer, kv head)
  /// The most entries that a distillation may keep; 0 means capacity / 2. A pot of rotated keys remembers for
  /// so many entries the key as it was first written, which is what keeps repeated shifts free of drift.
  std::size_t max_keep = 0;
  Granularity granularity = Granularity::head;
  KeyStorage key_storage = KeyStorage::rotated;
  Rope rope = {};  ///< the model's; without frequencies keys have no position (ALiBi, NoPE)
};

/// A fixed-size store of keys and values. The engine writes rows size() .. for new tokens and
/// reads rows 0 .. size() - 1. Allocates once, in the constructor. Meets Store and ReadableKeys.
template <Element T>
class Pot {
 public:
  using element = T;

  /// A pot that owns its memory. Throws std::invalid_argument for settings out of range, std::bad_alloc.
  explicit Pot(PotSettings settings) : Pot(std::move(settings), nullptr) {}

  /// A pot over an engine's memory, which must hold `capacity` rows per (layer, kv head) and outlive the pot.
  Pot(PotSettings settings, const KvLayout<T>& memory) : Pot(std::move(settings), &memory) {}

  Pot(Pot&&) noexcept = default;
  Pot& operator=(Pot&&) noexcept = default;

  /// A pot that owns a copy of everything this one holds. Throws std::bad_alloc.
  Pot fork() const {
    Pot copy(settings_);
    for (std::size_t layer = 0; layer < shape().layers; ++layer)
      for (std::size_t head = 0; head < shape().kv_heads; ++head)
        for (std::size_t entry = 0; entry < size(); ++entry) {
          std::copy_n(keys().row(layer, head, entry), shape().head_dim, copy.keys().row(layer, head, entry));
          std::copy_n(values().row(layer, head, entry), shape().head_dim,
                      copy.values().row(layer, head, entry));
        }
    std::copy(originals_.begin(), originals_.end(), copy.originals_.begin());
    std::copy(rows_.begin(), rows_.end(), copy.rows_.begin());
    std::copy(first_positions_.begin(), first_positions_.end(), copy.first_positions_.begin());
    copy.entries_.assign(entries_);
    copy.survivors_ = survivors_;
    return copy;
  }

  const Shape& shape() const noexcept { return settings_.shape; }
  std::size_t capacity() const noexcept { return settings_.capacity; }
  std::size_t max_keep() const noexcept { return settings_.max_keep; }
  Granularity granularity() const noexcept { return settings_.granularity; }
  KeyStorage key_storage() const noexcept { return settings_.key_storage; }
  const Rope& rope() const noexcept { return settings_.rope; }

  /// Entries held, the same in every lane.
  std::size_t size() const noexcept { return entries_.size(); }
  const EntryTable& entries() const noexcept { return entries_; }

  /// Bytes that the pot allocated (all but an engine's own keys and values).
  std::size_t bytes() const noexcept { return arena_.bytes(); }

  /// Key and value rows, for the engine to read and write.
  const Rows<T>& keys() const noexcept { return memory_.keys; }
  const Rows<T>& values() const noexcept { return memory_.values; }

  /// Cosines and sines of positions 0 .. capacity - 1, without the attention factor.
  const AngleTable& angles() const noexcept { return angles_; }

  /// Takes in entries whose rows the engine has written at size(). Precondition: they fit.
  void append(std::span<const Entry> added) noexcept { entries_.append(added); }

  /// Drops all entries from `size` on.
  void truncate(std::size_t size) noexcept {
    entries_.truncate(size);
    survivors_ = std::min(survivors_, size);
  }

  /// Keeps the selected entries, in place, and gives them positions 0 .. keep - 1 (CR-RoPE).
  /// Precondition: kept.keep() <= max_keep(), kept.lanes() fits the granularity, indices ascend below size().
  template <Executor X = Serial>
  void keep(const Selection& kept, X executor = {}) noexcept {
    if (!originals_.empty())
      executor.for_each(entries_.lanes(), [&](std::size_t lane, std::size_t) {
        moved_[lane] = assign_rows(origins(lane), kept.lane(lane));
      });
    executor.for_each(shape().heads(), [&](std::size_t pair, std::size_t) {
      const std::size_t lane = pair / shape().heads_per_lane(granularity());
      keep_head(pair / shape().kv_heads, pair % shape().kv_heads, lane, kept.lane(lane));
    });
    entries_.keep(kept, executor);
    survivors_ = kept.keep();
  }

  /// Keys of entries first .. first + count - 1 in float, rotated for their positions: where they stand if
  /// they are rotated floats already, else converted into `tile`, (count, head_dim).
  KeyRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                   float* tile) const noexcept {
    const Rows<T>& keys = memory_.keys;
    if constexpr (std::same_as<T, float>)
      if (settings_.key_storage == KeyStorage::rotated)
        return {keys.row(layer, kv_head, first), keys.entry_stride};
    const std::size_t d = shape().head_dim;
    for (std::size_t i = 0; i < count; ++i) {
      float* const out = tile + i * d;
      detail::to_float(keys.row(layer, kv_head, first + i), d, out);
      if (settings_.key_storage == KeyStorage::unrotated) rotate_for_reading(first + i, out);
    }
    return {tile, static_cast<std::ptrdiff_t>(d)};
  }

 private:
  Pot(PotSettings settings, const KvLayout<T>* memory) : settings_(checked(std::move(settings))) {
    const std::size_t lanes = shape().lanes(granularity());
    const std::size_t rows =
        detail::product({shape().layers, shape().kv_heads, capacity(), shape().head_dim});
    const bool rotated = settings_.key_storage == KeyStorage::rotated && settings_.rope.rotary_dim() > 0;
    const std::size_t originals = rotated ? shape().heads() * max_keep() * shape().head_dim : 0;
    const auto keys = arena_.template reserve<T>(memory ? 0 : rows);
    const auto values = arena_.template reserve<T>(memory ? 0 : rows);
    const auto firsts = arena_.template reserve<T>(originals);
    const std::size_t records = rotated ? detail::product({lanes, max_keep()}) : 0;
    const auto key_rows = arena_.template reserve<Index>(records);
    const auto first_positions = arena_.template reserve<Index>(records);
    const auto in_use = arena_.template reserve<std::uint8_t>(records);
    const auto moved = arena_.template reserve<std::size_t>(rotated ? lanes : 0);
    const auto angles = arena_.template reserve<float>(AngleTable::floats(settings_.rope, capacity()));
    const auto table = EntryTable::reserve(arena_, lanes, capacity());
    arena_.allocate();
    memory_ = memory ? *memory : own(arena_.take(keys).data(), arena_.take(values).data());
    originals_ = arena_.take(firsts);
    rows_ = arena_.take(key_rows);
    first_positions_ = arena_.take(first_positions);
    in_use_ = arena_.take(in_use);
    moved_ = arena_.take(moved);
    angles_ = AngleTable(settings_.rope, capacity(), arena_.take(angles));
    entries_ = EntryTable(arena_, table, lanes, capacity());
  }

  static PotSettings checked(PotSettings settings) {
    settings.shape.validate();
    settings.rope.validate(settings.shape.head_dim);
    if (settings.capacity < 2 || settings.capacity > std::numeric_limits<Index>::max())
      detail::invalid("pot capacity ", settings.capacity, " is out of range 2 .. 4294967295");
    if (settings.max_keep == 0) settings.max_keep = settings.capacity / 2;
    if (settings.max_keep >= settings.capacity)
      detail::invalid("max_keep ", settings.max_keep, " must be below the pot's capacity ",
                      settings.capacity);
    return settings;
  }

  KvLayout<T> own(T* keys, T* values) const noexcept {
    const auto d = static_cast<std::ptrdiff_t>(shape().head_dim);
    const auto head = static_cast<std::ptrdiff_t>(capacity()) * d;
    const auto layer = static_cast<std::ptrdiff_t>(shape().kv_heads) * head;
    return {{keys, layer, head, d}, {values, layer, head, d}};
  }

  KeyOrigins origins(std::size_t lane) const noexcept {
    const std::size_t at = lane * max_keep();
    return {rows_.subspan(at, max_keep()), first_positions_.subspan(at, max_keep()),
            in_use_.subspan(at, max_keep()), survivors_};
  }

  void keep_head(std::size_t layer, std::size_t head, std::size_t lane,
                 std::span<const Index> kept) noexcept {
    const std::size_t d = shape().head_dim;
    compact_rows(memory_.values.head(layer, head), memory_.values.entry_stride, d, kept);
    if (originals_.empty()) {
      compact_rows(memory_.keys.head(layer, head), memory_.keys.entry_stride, d, kept);
      return;
    }
    T* const originals = originals_.data() + shape().head_of(layer, head) * max_keep() * d;
    reindex_keys(memory_.keys.head(layer, head), memory_.keys.entry_stride, d, kept, origins(lane),
                 moved_[lane], originals, angles_, settings_.rope.pairing);
  }

  void rotate_for_reading(std::size_t position, float* key) const noexcept {
    const std::size_t turning = settings_.rope.rotary_dim();
    rotate(key, angles_[position], settings_.rope.pairing, Turn::forward, shape().head_dim, key);
    if (settings_.rope.attention_factor == 1) return;
    const auto factor = static_cast<float>(settings_.rope.attention_factor);
    std::for_each_n(key, turning, [factor](float& channel) { channel *= factor; });
  }

  PotSettings settings_;
  detail::Arena arena_;
  KvLayout<T> memory_;
  std::span<T> originals_;  // (layers, kv_heads, max_keep, head_dim): survivors' keys as first written
  // (lanes, max_keep): see KeyOrigins.
  std::span<Index> rows_;
  std::span<Index> first_positions_;
  std::span<std::uint8_t> in_use_;
  std::span<std::size_t> moved_;  // (lanes): of those that were just kept, how many were before
  AngleTable angles_;
  EntryTable entries_;
  std::size_t survivors_ = 0;  // entries 0 .. survivors_ - 1 have a row among the originals
};

}  // namespace infinipot
