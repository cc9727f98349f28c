// The keys and values of a head's entries, for policies that score by them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/concepts.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// A store whose keys and values can be read back at any time, which policies need that score entries by
/// them. (ReadableKeys alone need be readable only while a forward pass shows its queries.)
template <class S>
concept ReadableEntries = ReadableKeys<S> && requires(const S& store, std::size_t layer, std::size_t kv_head,
                                                      std::size_t first, std::size_t count, float* tile) {
  { store.value_rows(layer, kv_head, first, count, tile) }
  noexcept->std::same_as<KeyRows>;
};

/// Entries of one (layer, kv head), all that the store holds; entry t stands at position begin() + t. Lives
/// only during a call to score_entries().
template <class S>
class EntryRows {
 public:
  /// Entries that are converted at once, where they must be.
  static constexpr std::size_t tile_rows = 64;

  /// Floats of room for one worker, of which a policy has `scratch`.
  static std::size_t room(std::size_t head_dim, std::size_t scratch) noexcept {
    return tile_rows * head_dim + scratch;
  }

  EntryRows(const S& store, std::size_t layer, std::size_t kv_head, std::span<float> room) noexcept
      : store_(store),
        layer_(layer),
        kv_head_(kv_head),
        begin_(store.entries().begin(Shape(store.shape()).lane_of(layer, kv_head, store.granularity()))),
        room_(room) {}

  std::size_t size() const noexcept { return store_.entries().size() - begin_; }
  /// The position of entry 0: 0 unless layers have budgets.
  std::size_t begin() const noexcept { return begin_; }
  std::size_t head_dim() const noexcept { return store_.shape().head_dim; }
  std::size_t layer() const noexcept { return layer_; }
  std::size_t kv_head() const noexcept { return kv_head_; }

  /// Where entry t stood in the whole stream, from 0.
  std::uint64_t position(std::size_t t) const noexcept {
    const Shape shape = store_.shape();
    return store_.entries().positions(shape.lane_of(layer_, kv_head_, store_.granularity()))[t];
  }

  /// Calls visit(t, key) for every entry in order; `key` is (head_dim), rotated for position begin() + t.
  template <class Visit>
  void for_each_key(const Visit& visit) const noexcept {
    for_each(visit, [this](std::size_t from, std::size_t count, float* tile) {
      return store_.key_rows(layer_, kv_head_, from, count, tile);
    });
  }

  /// Calls visit(t, value) for every entry in order; `value` is (head_dim).
  template <class Visit>
  void for_each_value(const Visit& visit) const noexcept {
    for_each(visit, [this](std::size_t from, std::size_t count, float* tile) {
      return store_.value_rows(layer_, kv_head_, from, count, tile);
    });
  }

  /// Floats for the policy to use as it likes, of no particular value: as many as it asks for (SizesScratch),
  /// else head_dim.
  std::span<float> scratch() const noexcept { return room_.subspan(tile_rows * head_dim()); }

 private:
  template <class Visit, class Rows>
  void for_each(const Visit& visit, const Rows& rows) const noexcept {
    for (std::size_t from = 0; from < size(); from += tile_rows) {
      const std::size_t count = std::min(tile_rows, size() - from);
      const KeyRows tile = rows(begin_ + from, count, room_.data());
      for (std::size_t i = 0; i < count; ++i)
        visit(from + i, tile.data + static_cast<std::ptrdiff_t>(i) * tile.stride);
    }
  }

  const S& store_;
  std::size_t layer_, kv_head_, begin_;
  std::span<float> room_;
};

namespace detail {

/// Stands for any EntryRows where concepts are checked.
struct AnyEntryRows {
  std::size_t size() const noexcept;
  std::size_t begin() const noexcept;
  std::size_t head_dim() const noexcept;
  std::size_t layer() const noexcept;
  std::size_t kv_head() const noexcept;
  std::uint64_t position(std::size_t t) const noexcept;
  template <class Visit>
  void for_each_key(const Visit& visit) const noexcept;
  template <class Visit>
  void for_each_value(const Visit& visit) const noexcept;
  std::span<float> scratch() const noexcept;
};

}  // namespace detail
}  // namespace infinipot
