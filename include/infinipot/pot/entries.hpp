// What a pot records of each entry besides key and value.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/detail/arena.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/pot/compact.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {
class PotBase;
struct PotAccess;
}  // namespace detail

/// The record of one entry.
struct Entry {
  std::uint64_t position = 0;  ///< index of the token in the whole stream, from 0
  Token token = 0;
  float nuc = 0;        ///< -log p(token | what the pot held), nats; 0 for a stream's first or if unused
  bool pinned = false;  ///< never dropped
};

/// Records of all entries, lane by lane, since lanes keep different tokens. Every lane holds size() entries,
/// at positions 0 .. size() - 1. Allocates in the constructor only.
class EntryTable {
 public:
  /// Throws std::invalid_argument if the table would be too large.
  EntryTable(std::size_t lanes, std::size_t capacity) : EntryTable(own(lanes, capacity)) {}

  EntryTable(EntryTable&&) noexcept = default;
  EntryTable& operator=(EntryTable&&) noexcept = default;

  std::size_t lanes() const noexcept { return lanes_; }
  std::size_t capacity() const noexcept { return capacity_; }

  /// Entries in every lane; also the position of the next one.
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

  /// A number that is another after every change, so that a reader notices changes by others.
  std::uint64_t revision() const noexcept { return revision_; }

  /// (size) records of one lane, in text order.
  std::span<const std::uint64_t> positions(std::size_t lane) const noexcept { return row(positions_, lane); }
  std::span<const Token> tokens(std::size_t lane) const noexcept { return row(tokens_, lane); }
  std::span<const float> nuc(std::size_t lane) const noexcept { return row(nuc_, lane); }
  std::span<const std::uint8_t> pinned(std::size_t lane) const noexcept { return row(pinned_, lane); }
  /// How many distillations each entry has survived.
  std::span<const std::uint32_t> survived(std::size_t lane) const noexcept { return row(survived_, lane); }

  /// Adds entries at the end of every lane. Precondition: size() + added.size() <= capacity().
  void append(std::span<const Entry> added) noexcept {
    for (std::size_t lane = 0; lane < lanes_; ++lane) {
      std::size_t at = lane * capacity_ + size_;
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
    ++revision_;
  }

  /// Becomes a copy of the first `count` entries of a table of the same lanes. Precondition: count <=
  /// other.size(), count <= capacity().
  void assign(const EntryTable& other, std::size_t count) noexcept {
    size_ = count;
    for (std::size_t lane = 0; lane < lanes_; ++lane) {
      std::ranges::copy(other.positions(lane).first(count), row(positions_, lane).begin());
      std::ranges::copy(other.tokens(lane).first(count), row(tokens_, lane).begin());
      std::ranges::copy(other.nuc(lane).first(count), row(nuc_, lane).begin());
      std::ranges::copy(other.pinned(lane).first(count), row(pinned_, lane).begin());
      std::ranges::copy(other.survived(lane).first(count), row(survived_, lane).begin());
    }
    ++revision_;
  }

  /// Drops the entries from `size` on. No effect if there are none.
  void truncate(std::size_t size) noexcept {
    if (size >= size_) return;
    size_ = size;
    ++revision_;
  }

  /// Keeps only the selected entries, at indices 0 .. kept.keep() - 1.
  /// Precondition: kept.lanes() == lanes(), indices below size().
  template <Executor X = Serial>
  void keep(const Selection& kept, X executor = {}) noexcept {
    executor.for_each(lanes_, [&](std::size_t lane, std::size_t) {
      const auto indices = kept.lane(lane);
      compact(row(positions_, lane), indices);
      compact(row(tokens_, lane), indices);
      compact(row(nuc_, lane), indices);
      compact(row(pinned_, lane), indices);
      compact(row(survived_, lane), indices);
      for (auto& count : row(survived_, lane).first(indices.size())) ++count;
    });
    size_ = kept.keep();
    ++revision_;
  }

 private:
  friend class detail::PotBase;
  friend struct detail::PotAccess;

  EntryTable() = default;  // no lanes, no allocation

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

  template <class T>
  std::span<T> row(std::span<T> table, std::size_t lane) const noexcept {
    return table.subspan(lane * capacity_, size_);
  }

  detail::Arena arena_;  // empty when the memory is a pot's
  std::size_t lanes_ = 0;
  std::size_t capacity_ = 0;
  std::size_t size_ = 0;
  std::uint64_t revision_ = 0;
  std::span<std::uint64_t> positions_;  // (lanes, capacity), like the others
  std::span<Token> tokens_;
  std::span<float> nuc_;
  std::span<std::uint8_t> pinned_;
  std::span<std::uint32_t> survived_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
