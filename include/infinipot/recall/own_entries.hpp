// What stays of a reader's own entries when it recalls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "infinipot/pot/entries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Whether all lanes hold the same token at an index.
inline bool same_in_all_lanes(const EntryTable& entries, std::size_t at) noexcept {
  for (std::size_t lane = 1; lane < entries.lanes(); ++lane)
    if (entries.positions(lane)[at] != entries.positions(0)[at]) return false;
  return true;
}

/// The first entries that always stay: sinks, and pinned ones right behind them in the text.
inline std::size_t leading_entries(const EntryTable& entries, std::size_t sinks) noexcept {
  std::size_t count = 0;
  while (count < entries.size() && (count < sinks || entries.pinned(0)[count] != 0) &&
         entries.positions(0)[count] == entries.positions(0)[0] + count && same_in_all_lanes(entries, count))
    ++count;
  return count;
}

/// The newest entries, at most `most` behind the first `leading`, down to one that lanes differ in.
inline std::vector<Entry> newest_entries(const EntryTable& entries, std::size_t leading, std::size_t most) {
  std::vector<Entry> newest;
  for (std::size_t at = entries.size(); at-- > leading && newest.size() < most;) {
    if (!same_in_all_lanes(entries, at)) break;
    newest.push_back(
        {entries.positions(0)[at], entries.tokens(0)[at], entries.nuc(0)[at], entries.pinned(0)[at] != 0});
  }
  std::ranges::reverse(newest);
  return newest;
}

/// As many entries as a lane has behind the first `leading`: those that most lanes hold, in text order; of
/// equals the earlier.
inline std::vector<Entry> most_held(const EntryTable& entries, std::size_t leading) {
  struct Counted {
    Entry entry;
    std::size_t lanes = 0;
  };
  std::vector<Entry> all;
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane)
    for (std::size_t at = leading; at < entries.size(); ++at)
      all.push_back({entries.positions(lane)[at], entries.tokens(lane)[at], entries.nuc(lane)[at],
                     entries.pinned(lane)[at] != 0});
  std::ranges::stable_sort(all, {}, &Entry::position);
  std::vector<Counted> held;
  for (const Entry& entry : all) {
    if (held.empty() || held.back().entry.position != entry.position) held.push_back({entry, 0});
    ++held.back().lanes;
  }
  std::ranges::stable_sort(held, std::ranges::greater(), &Counted::lanes);
  held.resize((std::min)(held.size(), entries.size() - leading));
  std::vector<Entry> most(held.size());
  std::ranges::transform(held, most.begin(), &Counted::entry);
  std::ranges::sort(most, {}, &Entry::position);
  return most;
}

/// Entries that the pot has anyway, so that an archive need not give them.
struct OwnEntries {
  std::vector<std::uint64_t> leading;                                ///< their positions, ascending
  std::uint64_t from = (std::numeric_limits<std::uint64_t>::max)();  ///< and all from this one on

  bool has(std::uint64_t position) const noexcept {
    return position >= from || std::ranges::binary_search(leading, position);
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
