// The pot: at most `capacity` keys and values per layer and head, in its own memory or in an engine's.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "infinipot/compact.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/arena.hpp"
#include "infinipot/detail/pot_base.hpp"
#include "infinipot/element.hpp"
#include "infinipot/entries.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/kv_layout.hpp"
#include "infinipot/pot_settings.hpp"
#include "infinipot/reindex.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/selection.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// A fixed-size store of keys and values. The engine writes entries size() .. for new tokens and reads
/// entries 0 .. size() - 1, or with PotSettings::budgets, begin(layer) .. size() - 1. Allocates in the
/// constructor only: one block of memory, and with budgets some small tables. Meets Store and ReadableKeys.
///
/// Pot<f32>, Pot<f16> and Pot<bf16> hold rows that the engine may read and write where they are; Pot<int8>
/// and Pot<int4> (quantized_pot.hpp) hold codes.
template <class T>
class Pot;

template <Element T>
class Pot<T> : public detail::PotBase {
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
        for (std::size_t entry = begin(layer); entry < size(); ++entry) {
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

  /// Key and value rows, for the engine to read and write.
  const Rows<T>& keys() const noexcept { return memory_.keys; }
  const Rows<T>& values() const noexcept { return memory_.values; }

  /// Writes one entry from floats, rounded once, below the capacity. Rows of different entries may be written
  /// from different threads at once. The same as writing to keys() and values(), for engines that serve every
  /// kind of pot. `key` is rotated for position `entry`, or as projected, as key_storage() says.
  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept {
    detail::from_float(key, shape().head_dim, keys().row(layer, kv_head, entry));
    detail::from_float(value, shape().head_dim, values().row(layer, kv_head, entry));
  }

  /// Drops all entries from `size` on (EntryTable::truncate).
  void truncate(std::size_t size) noexcept {
    entries_.truncate(size);
    survivors_ = std::min(survivors_, size);
  }

  /// Keeps the selected entries, in place, and gives them positions kept.first(lane) .. keep - 1 (CR-RoPE).
  /// Precondition: kept.keep() <= max_keep(), kept.lanes() fits the granularity, indices ascend below size();
  /// with budgets, kept.keep() == max_keep() and what EntryTable::keep() asks for.
  template <Executor X = Serial>
  void keep(const Selection& kept, X executor = {}) noexcept {
    if (!originals_.empty())
      executor.for_each(entries_.lanes(), [&](std::size_t lane, std::size_t) {
        moved_[lane] = assign_rows(origins(lane), kept.lane(lane), kept.first(lane));
      });
    executor.for_each(shape().heads(), [&](std::size_t pair, std::size_t) {
      const std::size_t lane = pair / shape().heads_per_lane(granularity());
      keep_head(pair / shape().kv_heads, pair % shape().kv_heads, lane, kept);
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
    const T* const rows = keys.row(layer, kv_head, first);
    for (std::size_t i = 0; i < count; ++i) {
      float* const out = tile + i * d;
      detail::to_float(rows + static_cast<std::ptrdiff_t>(i) * keys.entry_stride, d, out);
      if (settings_.key_storage == KeyStorage::unrotated) rotate_for_reading(first + i, out);
    }
    return {tile, static_cast<std::ptrdiff_t>(d)};
  }

  /// Values of entries first .. first + count - 1 in float: where they are, or converted into `tile`, (count,
  /// head_dim).
  KeyRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                     float* tile) const noexcept {
    const Rows<T>& values = memory_.values;
    if constexpr (std::same_as<T, float>) return {values.row(layer, kv_head, first), values.entry_stride};
    const std::size_t d = shape().head_dim;
    const T* const rows = values.row(layer, kv_head, first);
    for (std::size_t i = 0; i < count; ++i)
      detail::to_float(rows + static_cast<std::ptrdiff_t>(i) * values.entry_stride, d, tile + i * d);
    return {tile, static_cast<std::ptrdiff_t>(d)};
  }

 private:
  friend struct detail::PotAccess;

  Pot(PotSettings settings, const KvLayout<T>* memory) : PotBase(std::move(settings)) {
    const std::size_t elements = detail::product({rows(), shape().head_dim});
    const bool rotated = key_storage() == KeyStorage::rotated && rope().rotary_dim() > 0;
    const std::size_t records = rotated ? kept_records() : 0;
    const auto keys = arena_.reserve<T>(memory ? 0 : elements);
    const auto values = arena_.reserve<T>(memory ? 0 : elements);
    const auto originals = arena_.reserve<T>(rotated ? detail::product({kept_rows(), shape().head_dim}) : 0);
    const auto key_rows = arena_.reserve<Index>(records);
    const auto first_positions = arena_.reserve<Index>(records);
    const auto in_use = arena_.reserve<std::uint8_t>(records);
    const auto moved = arena_.reserve<std::size_t>(rotated ? lanes() : 0);
    allocate();
    memory_ = memory ? *memory : own(arena_.take(keys).data(), arena_.take(values).data());
    originals_ = arena_.take(originals);
    rows_ = arena_.take(key_rows);
    first_positions_ = arena_.take(first_positions);
    in_use_ = arena_.take(in_use);
    moved_ = arena_.take(moved);
  }

  KvLayout<T> own(T* keys, T* values) const noexcept {
    const auto d = static_cast<std::ptrdiff_t>(shape().head_dim);
    const auto head = static_cast<std::ptrdiff_t>(capacity()) * d;
    const auto layer = static_cast<std::ptrdiff_t>(shape().kv_heads) * head;
    return {{keys, layer, head, d, layer_rows_.places()}, {values, layer, head, d, layer_rows_.places()}};
  }

  KeyOrigins origins(std::size_t lane) const noexcept {
    const std::size_t layer = lane / lanes_per_layer();
    const std::size_t at = layer_rows_.kept(layer, lane % lanes_per_layer(), lanes_per_layer());
    const std::size_t most = layer_rows_.budget(layer);
    return {rows_.subspan(at, most), first_positions_.subspan(at, most), in_use_.subspan(at, most),
            survivors_, layer_rows_.first(layer)};
  }

  /// (budget, head_dim) keys of one head's survivors.
  T* originals(std::size_t layer, std::size_t head) const noexcept {
    return originals_.data() + layer_rows_.kept(layer, head, shape().kv_heads) * shape().head_dim;
  }

  void keep_head(std::size_t layer, std::size_t head, std::size_t lane, const Selection& kept) noexcept {
    const std::size_t d = shape().head_dim, first = kept.first(lane);
    const auto indices = kept.lane(lane);
    const Rows<T>&keys = memory_.keys, &values = memory_.values;
    compact_rows(values.row(layer, head, first), values.entry_stride, d, indices, first);
    if (originals_.empty())
      compact_rows(keys.row(layer, head, first), keys.entry_stride, d, indices, first);
    else
      reindex_keys(keys.row(layer, head, first), keys.entry_stride, d, indices, origins(lane), moved_[lane],
                   originals(layer, head), angles_, settings_.rope.pairing, first);
  }

  KvLayout<T> memory_;
  // (layers, kv_heads, budget, head_dim): survivors' keys as first written.
  std::span<T> originals_;
  // (lanes, budget): see KeyOrigins.
  std::span<Index> rows_;
  std::span<Index> first_positions_;
  std::span<std::uint8_t> in_use_;
  std::span<std::size_t> moved_;  // (lanes): of those that were just kept, how many were before
  std::size_t survivors_ = 0;     // entries below have a row among the originals
};

}  // namespace infinipot
