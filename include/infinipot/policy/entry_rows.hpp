// The keys and values of a head's entries, for policies that score by them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/concepts.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/queries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// All entries of one (layer, kv head) of any store; entry t stands at position t. Lives only during a call
/// to score_entries().
class EntryRows {
 public:
  /// Entries converted at once, if they must be.
  static constexpr std::size_t tile_rows = 64;

  /// Floats of memory for one worker, `scratch` of them for the policy.
  static std::size_t floats(const Shape& shape, std::size_t scratch) noexcept {
    return tile_rows * channels(shape) + scratch;
  }

  template <ReadableEntries S>
  EntryRows(const S& store, std::size_t layer, std::size_t kv_head, std::span<float> memory) noexcept
      : store_(&store),
        read_keys_([](const void* from, std::size_t of_layer, std::size_t head, std::size_t first,
                      std::size_t count, float* tile) noexcept {
          return static_cast<const S*>(from)->key_rows(of_layer, head, first, count, tile);
        }),
        read_values_([](const void* from, std::size_t of_layer, std::size_t head, std::size_t first,
                        std::size_t count, float* tile) noexcept {
          return static_cast<const S*>(from)->value_rows(of_layer, head, first, count, tile);
        }),
        positions_(
            store.entries().positions(Shape(store.shape()).lane_of(layer, kv_head, store.granularity()))),
        shape_(store.shape()),
        layer_(layer),
        kv_head_(kv_head),
        memory_(memory) {}

  std::size_t size() const noexcept { return positions_.size(); }
  std::size_t head_dim() const noexcept { return shape_.head_dim; }
  std::size_t value_channels() const noexcept { return shape_.value_channels(); }
  std::size_t layer() const noexcept { return layer_; }
  std::size_t kv_head() const noexcept { return kv_head_; }

  /// Position of entry t in the whole stream, from 0.
  std::uint64_t position(std::size_t t) const noexcept { return positions_[t]; }

  /// Calls visit(t, key) for every entry in order; `key` is (head_dim), rotated for position t.
  template <class Visit>
  void for_each_key(const Visit& visit) const noexcept {
    for_each(visit, read_keys_);
  }

  /// Calls visit(t, value) for every entry in order; `value` is (value_channels).
  template <class Visit>
  void for_each_value(const Visit& visit) const noexcept {
    for_each(visit, read_values_);
  }

  /// Scratch for the policy, its values unspecified: as many floats as it asks for (SizesScratch), else
  /// head_dim.
  std::span<float> scratch() const noexcept { return memory_.subspan(tile_rows * channels(shape_)); }

 private:
  /// Of the longer of keys and values.
  static std::size_t channels(const Shape& shape) noexcept {
    return (std::max)(shape.head_dim, shape.value_channels());
  }

  using Read = FloatRows (*)(const void* store, std::size_t layer, std::size_t kv_head, std::size_t first,
                             std::size_t count, float* tile) noexcept;

  template <class Visit>
  void for_each(const Visit& visit, Read read) const noexcept {
    for (std::size_t from = 0; from < size(); from += tile_rows) {
      const std::size_t count = (std::min)(tile_rows, size() - from);
      const FloatRows tile = read(store_, layer_, kv_head_, from, count, memory_.data());
      for (std::size_t i = 0; i < count; ++i)
        visit(from + i, tile.data + static_cast<std::ptrdiff_t>(i) * tile.stride);
    }
  }

  const void* store_;
  Read read_keys_, read_values_;
  std::span<const std::uint64_t> positions_;
  Shape shape_;
  std::size_t layer_, kv_head_;
  std::span<float> memory_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
