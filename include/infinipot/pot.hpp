// The pot: at most `capacity` keys and values per layer and head, in its own memory or in an engine's.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "infinipot/detail/arena.hpp"
#include "infinipot/element.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/pot/compact.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/kv_layout.hpp"
#include "infinipot/pot/pot_base.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/queries.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/rope/reindex.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// A fixed-size store of keys and values. The engine writes entries size(), size() + 1, ... for new tokens
/// and reads entries 0 .. size() - 1. Allocates one block of memory, in the constructor only. Meets Store,
/// ReadableKeys and ReadableEntries.
///
/// Pot<f32>, Pot<f16> and Pot<bf16> hold rows that the engine may read and write where they are; Pot<int8>
/// and Pot<int4> (quantized_pot.hpp) hold codes.
template <class T>
class Pot {
  static_assert(
      Element<T>,
      "infinipot: a pot holds f32 (float), f16, bf16, int8 or int4; for rows of uint16_t or _Float16 "
      "see element_cast() in infinipot/element.hpp");
};

template <Element T>
class Pot<T> : public detail::PotBase {
 public:
  using element = T;

  /// A pot that owns its memory. Throws std::invalid_argument for settings out of range, std::bad_alloc.
  explicit Pot(PotSettings settings) : Pot(std::move(settings), nullptr) {}

  /// A pot over an engine's memory, which must hold `capacity` rows per (layer, kv head) and outlive the pot.
  /// Also throws std::invalid_argument if the layout lacks a layer's table.
  Pot(PotSettings settings, const KvLayout<T>& memory) : Pot(std::move(settings), &memory) {}

  Pot(Pot&&) noexcept = default;
  Pot& operator=(Pot&&) noexcept = default;

  /// A pot that owns a copy of everything this one holds. Throws std::bad_alloc.
  Pot fork() const {
    Pot copy(settings_);
    copy.assign(*this, size());
    return copy;
  }

  /// Becomes a copy of another pot's first `count` entries, bit for bit. Throws std::invalid_argument, before
  /// anything changes, if that is of another shape, granularity, key storage or RoPE, or they do not fit.
  void assign(const Pot& other, std::size_t count) {
    const std::size_t survivors = (std::min)(other.survivors_, count), d = shape().head_dim;
    const std::size_t v = shape().value_channels();
    check_assign(other, count, originals_.empty() ? 0 : survivors);
    for (std::size_t layer = 0; layer < shape().layers; ++layer)
      for (std::size_t head = 0; head < shape().kv_heads; ++head) {
        for (std::size_t entry = 0; entry < count; ++entry) {
          std::copy_n(other.keys(layer).row(head, entry), d, keys(layer).row(head, entry));
          if (v > 0) std::copy_n(other.values(layer).row(head, entry), v, values(layer).row(head, entry));
        }
        if (originals_.empty() || !rotates(layer)) continue;
        const auto rows = other.origins(shape().head_of(layer, head) / shape().heads_per_lane(granularity()));
        for (std::size_t i = 0; i < survivors; ++i) {
          // A key first written beyond this pot's positions goes on from what it is now, rounded once more.
          const bool known = rows.position[rows.row[i]] < capacity();
          const T* const key =
              known ? other.originals(layer, head) + rows.row[i] * d : keys(layer).row(head, i);
          std::copy_n(key, d, originals(layer, head) + i * d);
        }
      }
    for (std::size_t lane = 0; lane < lanes() && !originals_.empty(); ++lane)
      for (std::size_t i = 0; i < survivors; ++i) {
        origins(lane).row[i] = static_cast<Index>(i);
        const Index first = other.origins(lane).position[other.origins(lane).row[i]];
        origins(lane).position[i] = first < capacity() ? first : static_cast<Index>(i);
      }
    entries_.assign(other.entries_, count);
    survivors_ = survivors;
  }

  /// Key and value rows of a layer, for the engine to read and write.
  const Rows<T>& keys(std::size_t layer) const noexcept { return keys_[layer]; }
  const Rows<T>& values(std::size_t layer) const noexcept { return values_[layer]; }

  /// Writes one entry from floats, rounded once. Different entries may be written from different threads at
  /// once. The same as writing to keys() and values(), for engines that serve every kind of pot. `key` is
  /// rotated for position `entry` or as projected, as key_storage() says; `value` (value_channels) may be
  /// null if that is 0. Precondition: entry < capacity().
  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept {
    detail::from_float(key, shape().head_dim, keys(layer).row(kv_head, entry));
    if (const std::size_t v = shape().value_channels(); v > 0)
      detail::from_float(value, v, values(layer).row(kv_head, entry));
  }

  /// The key of an entry as projected: before RoPE, without its attention factor; (head_dim) floats.
  void read_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) const noexcept {
    detail::to_float(keys(layer).row(kv_head, entry), shape().head_dim, key);
    if (key_storage() == KeyStorage::rotated) unrotate(layer, entry, key);
  }

  /// Writes one entry whose key is as projected, whatever key_storage() says. `key` is used as scratch.
  /// Otherwise as write().
  void write_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
                       const float* value) noexcept {
    if (key_storage() == KeyStorage::rotated) rotate_for_reading(layer, entry, key);
    write(layer, kv_head, entry, key, value);
  }

  /// Drops all entries from `size` on (EntryTable::truncate).
  void truncate(std::size_t size) noexcept {
    entries_.truncate(size);
    survivors_ = (std::min)(survivors_, size);
  }

  /// Keeps the selected entries, in place, and gives them positions 0 .. kept.keep() - 1 (CR-RoPE).
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

  /// Keys of entries first .. first + count - 1 in float, rotated for their positions: in place if stored so,
  /// else converted into `tile`, (count, head_dim).
  FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                     float* tile) const noexcept {
    const Rows<T>& keys = keys_[layer];
    const T* const rows = keys.row(kv_head, first);
    if constexpr (std::same_as<T, float>)
      if (settings_.key_storage == KeyStorage::rotated || !rotates(layer)) return {rows, keys.entry_stride};
    const std::size_t d = shape().head_dim;
    for (std::size_t i = 0; i < count; ++i) {
      float* const out = tile + i * d;
      detail::to_float(rows + static_cast<std::ptrdiff_t>(i) * keys.entry_stride, d, out);
      if (settings_.key_storage == KeyStorage::unrotated) rotate_for_reading(layer, first + i, out);
    }
    return {tile, static_cast<std::ptrdiff_t>(d)};
  }

  /// Values of entries first .. first + count - 1 in float: in place, or converted into `tile`, (count,
  /// value_channels).
  FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                       float* tile) const noexcept {
    const std::size_t v = shape().value_channels();
    if (v == 0) return {tile, 0};
    const Rows<T>& values = values_[layer];
    const T* const rows = values.row(kv_head, first);
    if constexpr (std::same_as<T, float>) return {rows, values.entry_stride};
    for (std::size_t i = 0; i < count; ++i)
      detail::to_float(rows + static_cast<std::ptrdiff_t>(i) * values.entry_stride, v, tile + i * v);
    return {tile, static_cast<std::ptrdiff_t>(v)};
  }

 private:
  friend struct detail::PotAccess;

  Pot(PotSettings settings, const KvLayout<T>* memory) : PotBase(std::move(settings)) {
    if (memory != nullptr) {
      check("keys", memory->keys);
      if (shape().value_channels() > 0) check("values", memory->values);
    }
    const bool rotated = key_storage() == KeyStorage::rotated && turned_layers() > 0;
    const std::size_t most = rotated ? max_keep() : 0, records = detail::product({lanes(), most});
    const auto tables = arena_.reserve<Rows<T>>(2 * shape().layers);
    const auto keys = arena_.reserve<T>(memory ? 0 : detail::product({rows(), shape().head_dim}));
    const auto values = arena_.reserve<T>(memory ? 0 : detail::product({rows(), shape().value_channels()}));
    const auto originals =
        arena_.reserve<T>(detail::product({turned_layers(), shape().kv_heads, most, shape().head_dim}));
    const auto key_rows = arena_.reserve<Index>(records);
    const auto first_positions = arena_.reserve<Index>(records);
    const auto in_use = arena_.reserve<std::uint8_t>(records);
    const auto moved = arena_.reserve<std::size_t>(rotated ? lanes() : 0);
    allocate();
    keys_ = arena_.take(tables).first(shape().layers);
    values_ = arena_.take(tables).last(shape().layers);
    if (memory != nullptr) {
      std::ranges::copy(memory->keys, keys_.begin());
      if (shape().value_channels() > 0) std::ranges::copy(memory->values, values_.begin());
    } else {
      lay_out(arena_.take(keys).data(), shape().head_dim, keys_);
      lay_out(arena_.take(values).data(), shape().value_channels(), values_);
    }
    originals_ = arena_.take(originals);
    rows_ = arena_.take(key_rows);
    first_positions_ = arena_.take(first_positions);
    in_use_ = arena_.take(in_use);
    moved_ = arena_.take(moved);
  }

  void check(const char* what, std::span<const Rows<T>> tables) const {
    if (tables.size() != shape().layers)
      detail::invalid("the layout has ", what, " of ", tables.size(), " layers, but the shape has ",
                      shape().layers);
    for (std::size_t layer = 0; layer < tables.size(); ++layer)
      if (tables[layer].data == nullptr)
        detail::invalid("the layout's ", what, " of layer ", layer, " are at a null pointer");
  }

  /// The tables of (layers, kv_heads, capacity, channels) elements.
  void lay_out(T* data, std::size_t channels, std::span<Rows<T>> tables) const noexcept {
    const auto entry = static_cast<std::ptrdiff_t>(channels);
    const auto head = static_cast<std::ptrdiff_t>(capacity()) * entry;
    for (Rows<T>& table : tables) {
      table = {data, head, entry};
      data += static_cast<std::ptrdiff_t>(shape().kv_heads) * head;
    }
  }

  KeyOrigins origins(std::size_t lane) const noexcept {
    const std::size_t most = max_keep(), at = lane * most;
    return {rows_.subspan(at, most), first_positions_.subspan(at, most), in_use_.subspan(at, most),
            survivors_};
  }

  /// (max_keep, head_dim) keys of one head's survivors. Precondition: rotates(layer).
  T* originals(std::size_t layer, std::size_t head) const noexcept {
    return originals_.data() + shape().head_of(turned_[layer], head) * max_keep() * shape().head_dim;
  }

  void keep_head(std::size_t layer, std::size_t head, std::size_t lane,
                 std::span<const Index> kept) noexcept {
    const std::size_t d = shape().head_dim;
    const Rows<T>&keys = keys_[layer], &values = values_[layer];
    if (const std::size_t v = shape().value_channels(); v > 0)
      compact_rows(values.row(head, 0), values.entry_stride, v, kept);
    if (originals_.empty() || !rotates(layer))
      compact_rows(keys.row(head, 0), keys.entry_stride, d, kept);
    else
      reindex_keys(keys.row(head, 0), keys.entry_stride, d, kept, origins(lane), moved_[lane],
                   originals(layer, head), angles_, settings_.rope.pairing);
  }

  std::span<Rows<T>> keys_, values_;  // (layers)
  std::span<T> originals_;  // (turned_layers, kv_heads, max_keep, head_dim): survivors' keys as first written
  // (lanes, max_keep): see KeyOrigins.
  std::span<Index> rows_;
  std::span<Index> first_positions_;
  std::span<std::uint8_t> in_use_;
  std::span<std::size_t> moved_;  // (lanes): how many of those just kept had survived before
  std::size_t survivors_ = 0;     // entries below have a row in originals_
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
