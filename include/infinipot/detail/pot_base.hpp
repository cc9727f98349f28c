// What pots of all element types have in common: settings, one block of memory, records and angles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "infinipot/detail/arena.hpp"
#include "infinipot/entries.hpp"
#include "infinipot/layer_rows.hpp"
#include "infinipot/pot_settings.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"

namespace infinipot::detail {

struct PotAccess;  // reads and writes pots for files (pot_file.hpp)

class PotBase {
 public:
  const Shape& shape() const noexcept { return settings_.shape; }
  std::size_t capacity() const noexcept { return settings_.capacity; }
  std::size_t max_keep() const noexcept { return settings_.max_keep; }
  Granularity granularity() const noexcept { return settings_.granularity; }
  KeyStorage key_storage() const noexcept { return settings_.key_storage; }
  const Rope& rope() const noexcept { return settings_.rope; }
  /// (layers) that a distillation keeps, or empty if it keeps the same in all.
  std::span<const std::size_t> budgets() const noexcept { return settings_.budgets; }

  /// The index of the next entry; the number of those held where layers have no budgets.
  std::size_t size() const noexcept { return entries_.size(); }
  /// The first entry that a layer holds: it has begin(layer) .. size() - 1. 0 unless layers have budgets.
  std::size_t begin(std::size_t layer) const noexcept { return entries_.begin(layer * lanes_per_layer()); }
  const EntryTable& entries() const noexcept { return entries_; }

  /// Bytes that the pot allocated (all but an engine's own keys and values).
  std::size_t bytes() const noexcept { return arena_.bytes(); }

  /// Cosines and sines of positions 0 .. capacity - 1, without the attention factor.
  const AngleTable& angles() const noexcept { return angles_; }

  /// Takes in entries whose keys and values the engine has written at size(). Precondition: they fit.
  void append(std::span<const Entry> added) noexcept { entries_.append(added); }

 protected:
  friend struct PotAccess;

  explicit PotBase(PotSettings settings)
      : settings_(std::move(settings).checked()),
        layer_rows_(shape().kv_heads, capacity(), max_keep(), settings_.budgets) {}
  PotBase(PotBase&&) noexcept = default;
  PotBase& operator=(PotBase&&) noexcept = default;
  ~PotBase() = default;

  std::size_t lanes() const noexcept { return shape().lanes(granularity()); }

  /// Layers that have lanes of their own, and how many each has: one of one if a lane is of all layers.
  std::size_t lane_layers() const noexcept { return std::min(lanes(), shape().layers); }
  std::size_t lanes_per_layer() const noexcept { return lanes() / lane_layers(); }

  /// Rows of all layers and heads, and those of them that distillations may keep; the latter of records, too.
  std::size_t rows() const { return layer_rows_.all_rows(shape().layers, shape().kv_heads); }
  std::size_t kept_rows() const { return layer_rows_.all_kept(shape().layers, shape().kv_heads); }
  std::size_t kept_records() const { return layer_rows_.all_kept(lane_layers(), lanes_per_layer()); }

  /// After all other arrays were reserved: allocates, and makes angles and records.
  void allocate() {
    const auto angles = arena_.reserve<float>(AngleTable::floats(settings_.rope, capacity()));
    const auto records = EntryTable::reserve(arena_, layer_rows_.all_rows(lane_layers(), lanes_per_layer()));
    arena_.allocate();
    angles_ = AngleTable(settings_.rope, capacity(), arena_.take(angles));
    entries_ = EntryTable(arena_, records, lanes(), capacity());
    entries_.set_rows(layer_rows_, lanes_per_layer());
  }

  /// Makes a key that was projected one that can be multiplied with queries.
  void rotate_for_reading(std::size_t position, float* key) const noexcept {
    const Rope& rope = settings_.rope;
    rotate(key, angles_[position], rope.pairing, Turn::forward, shape().head_dim, key);
    if (rope.attention_factor == 1) return;
    const auto factor = static_cast<float>(rope.attention_factor);
    std::for_each_n(key, rope.rotary_dim(), [factor](float& channel) { channel *= factor; });
  }

  PotSettings settings_;
  LayerRows layer_rows_;
  Arena arena_;
  AngleTable angles_;
  EntryTable entries_;
};

}  // namespace infinipot::detail
