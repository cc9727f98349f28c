// What a pot remembers of each entry beside its key and value.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/compact.hpp"
#include "infinipot/detail/arena.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/layer_rows.hpp"
#include "infinipot/selection.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {
namespace detail {
class PotBase;
struct PotAccess;
}  // namespace detail

/// What is known of one entry.
struct Entry {
  std::uint64_t position = 0;  ///< index of the token in the whole stream, from 0
  Token token = 0;
  float nuc = 0;        ///< -log p(token | what the pot held before it), nats; 0 for the first of a stream
  bool pinned = false;  ///< never dropped
};

/// Records of all entries, one row per lane, since lanes keep different tokens. Every lane holds the same
/// number of entries, unless layers have budgets of their own (PotSettings::budgets): then all end at the
/// same place, size(), but each begins at its own. Allocates in the constructor only.
class EntryTable {
 public:
  /// Throws std::invalid_argument if the table would be too large.
  EntryTable(std::size_t lanes, std::size_t capacity) : EntryTable(own(lanes, capacity)) {}

  EntryTable(EntryTable&&) noexcept = default;
  EntryTable& operator=(EntryTable&&) noexcept = default;

  std::size_t lanes() const noexcept { return lanes_; }
  std::size_t capacity() const noexcept { return capacity_; }

  /// The index and position that the next entry will have, in every lane; so the number of entries where
  /// lanes begin at 0.
  std::size_t size() const noexcept { return size_; }

  /// The index of a lane's first entry, at most size(): 0 unless layers have budgets.
  std::size_t begin(std::size_t lane) const noexcept { return begins_.empty() ? 0 : begins_[lane]; }

  /// The index of the first entry of a stream, in every lane: 0 unless layers have budgets.
  std::size_t start() const noexcept { return start_; }

  bool empty() const noexcept { return size_ == start_; }

  /// (lanes) the most entries that a distillation leaves in each; empty if layers have no budgets.
  std::span<const std::size_t> budgets() const noexcept { return budgets_; }

  /// Whether another table of as many lanes has entries at the same indices, and the same budgets.
  bool fills_as(const EntryTable& other) const noexcept {
    return size_ == other.size_ && begins_ == other.begins_ && budgets_ == other.budgets_;
  }

  /// (size - begin) records of one lane, in the order of the text.
  std::span<const std::uint64_t> positions(std::size_t lane) const noexcept { return row(positions_, lane); }
  std::span<const Token> tokens(std::size_t lane) const noexcept { return row(tokens_, lane); }
  std::span<const float> nuc(std::size_t lane) const noexcept { return row(nuc_, lane); }
  std::span<const std::uint8_t> pinned(std::size_t lane) const noexcept { return row(pinned_, lane); }
  /// How many distillations each entry has survived.
  std::span<const std::uint32_t> survived(std::size_t lane) const noexcept { return row(survived_, lane); }

  /// Adds entries at the end of every lane. Precondition: size() + added.size() <= capacity().
  void append(std::span<const Entry> added) noexcept {
    for (std::size_t lane = 0; lane < lanes_; ++lane) {
      std::size_t at = place(lane) + size_;
      for (const Entry& entry : added) {
        positions_[at] = entry.position;
        tokens_[at] = entry.token;
        nuc_[at] = entry.nuc;
        pinned_[at] = entry.pinned;
        survived_[at] = 0;
        ++at;
      }
    }
    size_ += added.size();
  }

  /// Becomes a copy of a table of the same lanes and capacity.
  void assign(const EntryTable& other) noexcept {
    std::copy(other.positions_.begin(), other.positions_.end(), positions_.begin());
    std::copy(other.tokens_.begin(), other.tokens_.end(), tokens_.begin());
    std::copy(other.nuc_.begin(), other.nuc_.end(), nuc_.begin());
    std::copy(other.pinned_.begin(), other.pinned_.end(), pinned_.begin());
    std::copy(other.survived_.begin(), other.survived_.end(), survived_.begin());
    std::copy(other.begins_.begin(), other.begins_.end(), begins_.begin());
    size_ = other.size_;
  }

  /// Drops the entries from `size` on, and all of them if that is before start(). No effect if there are
  /// none.
  void truncate(std::size_t size) noexcept {
    if (size < start_) std::fill(begins_.begin(), begins_.end(), start_);
    size_ = std::max(start_, std::min(size_, size));
  }

  /// Keeps only the selected entries, at indices kept.first(lane) .. kept.keep() - 1.
  /// Precondition: kept.lanes() == lanes(), indices from begin(lane) to below size(); kept.first(lane) is 0,
  /// or where layers have budgets, at most begin(lane) and at least kept.keep() - budgets()[lane].
  template <Executor X = Serial>
  void keep(const Selection& kept, X executor = {}) noexcept {
    executor.for_each(lanes_, [&](std::size_t lane, std::size_t) {
      const auto indices = kept.lane(lane);
      const std::size_t first = kept.first(lane);
      compact(row(positions_, lane, first), indices, first);
      compact(row(tokens_, lane, first), indices, first);
      compact(row(nuc_, lane, first), indices, first);
      compact(row(pinned_, lane, first), indices, first);
      compact(row(survived_, lane, first), indices, first);
      for (auto& count : row(survived_, lane, first).first(indices.size())) ++count;
    });
    for (std::size_t lane = 0; lane < begins_.size(); ++lane) begins_[lane] = kept.first(lane);
    size_ = kept.keep();
  }

 private:
  friend class detail::PotBase;
  friend struct detail::PotAccess;

  EntryTable() = default;  // of no lanes, without an allocation

  struct Slots {
    detail::Arena::Slot<std::uint64_t> positions;
    detail::Arena::Slot<Token> tokens;
    detail::Arena::Slot<float> nuc;
    detail::Arena::Slot<std::uint8_t> pinned;
    detail::Arena::Slot<std::uint32_t> survived;
  };

  static Slots reserve(detail::Arena& arena, std::size_t count) {
    return {arena.reserve<std::uint64_t>(count), arena.reserve<Token>(count), arena.reserve<float>(count),
            arena.reserve<std::uint8_t>(count), arena.reserve<std::uint32_t>(count)};
  }

  /// Over memory of an arena that outlives the table.
  EntryTable(const detail::Arena& arena, const Slots& slots, std::size_t lanes, std::size_t capacity) noexcept
      : lanes_(lanes),
        capacity_(capacity),
        positions_(arena.take(slots.positions)),
        tokens_(arena.take(slots.tokens)),
        nuc_(arena.take(slots.nuc)),
        pinned_(arena.take(slots.pinned)),
        survived_(arena.take(slots.survived)) {}

  static EntryTable own(std::size_t lanes, std::size_t capacity) {
    detail::Arena arena;
    const Slots slots = reserve(arena, detail::product({lanes, capacity}));
    arena.allocate();
    EntryTable table(arena, slots, lanes, capacity);
    table.arena_ = std::move(arena);
    return table;
  }

  /// Layers begin where `rows` says; each has `members` lanes. Allocates if they differ.
  void set_rows(const LayerRows& rows, std::size_t members) {
    if (rows.places() == nullptr) return;
    size_ = start_ = rows.start();
    begins_.assign(lanes_, start_);
    for (std::size_t lane = 0; lane < lanes_; ++lane) {
      budgets_.push_back(rows.budget(lane / members));
      places_.push_back(rows.row(lane / members, lane % members, members, 0));
    }
  }

  /// Where index 0 of a lane stands or would stand (then it is beyond any table, but place + index is not).
  std::size_t place(std::size_t lane) const noexcept {
    return places_.empty() ? lane * capacity_ : places_[lane];
  }

  /// Records of a lane from index `first` on.
  template <class T>
  std::span<T> row(std::span<T> table, std::size_t lane, std::size_t first) const noexcept {
    return table.subspan(place(lane) + first, size_ - first);
  }
  template <class T>
  std::span<T> row(std::span<T> table, std::size_t lane) const noexcept {
    return row(table, lane, begin(lane));
  }

  detail::Arena arena_;  // empty when the memory is a pot's
  std::size_t lanes_ = 0;
  std::size_t capacity_ = 0;
  std::size_t size_ = 0;
  std::size_t start_ = 0;
  // (lanes) each, or empty where layers have no budgets.
  std::vector<std::size_t> begins_, budgets_, places_;
  std::span<std::uint64_t> positions_;  // (lanes, capacity) or less (LayerRows), and so are the others
  std::span<Token> tokens_;
  std::span<float> nuc_;
  std::span<std::uint8_t> pinned_;
  std::span<std::uint32_t> survived_;
};

}  // namespace infinipot
