// Which recent entries stay in each lane, and what room that leaves for pinned ones.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "infinipot/ccd_settings.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/entries.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/selector.hpp"

namespace infinipot::detail {

class ProtectedRoom {
 public:
  /// What a lane keeps, and how many of that are its recent entries.
  struct Lane {
    std::size_t keep, recent;
  };

  /// For settings as checked_settings() returned them, where `recent` was asked for.
  template <Policy P>
  ProtectedRoom(const EntryTable& entries, const P& policy, const CcdSettings& settings, std::size_t recent)
      : sinks_(settings.sinks), recent_(settings.recent), tightest_{settings.keep, settings.recent} {
    for (const std::size_t budget : entries.budgets()) {
      const Lane lane{budget, recent_of(policy, recent, budget)};
      recents_.push_back(lane.recent);
      if (lane.keep - lane.recent < tightest_.keep - tightest_.recent) tightest_ = lane;
    }
  }

  Protection protection() const noexcept { return {sinks_, recent_, recents_}; }

  /// Throws std::invalid_argument, which begins with `what`, if so many pinned entries do not fit beside
  /// sinks and recent ones everywhere.
  template <class... Parts>
  void check_pinned(std::size_t pinned, const Parts&... what) const {
    const auto [keep, recent] = tightest_;
    if (sinks_ + recent + pinned > keep)
      invalid(what..., ": ", pinned, " pinned, ", sinks_, " sinks and ", recent, " recent exceed the ", keep,
              " entries that are kept");
  }

  /// Throws std::invalid_argument if another policy wants more recent entries than stay.
  template <Policy P>
  void check(const P& policy, const EntryTable& entries, std::size_t keep) const {
    const auto most = [&](std::size_t kept, std::size_t stay) {
      if (const std::size_t needed = recent_of(policy, 0, kept); needed > stay)
        invalid("the new policy needs ", needed, " recent entries; the first one left room for ", stay);
    };
    most(keep, recent_);
    for (std::size_t lane = 0; lane < recents_.size(); ++lane) most(entries.budgets()[lane], recents_[lane]);
  }

 private:
  std::size_t sinks_, recent_;
  std::vector<std::size_t> recents_;  // (lanes), or empty where layers have no budgets
  Lane tightest_;  // the lane with least room beside its recent entries: what fits there fits everywhere
};

/// What a store tells of the stream that it was filled from: tokens up to its newest entry, and the most that
/// are pinned in a lane, beyond the sinks.
struct Held {
  std::uint64_t read = 0;
  std::size_t pinned = 0;
};

inline Held held_by(const EntryTable& entries, std::size_t sinks) {
  Held held;
  for (std::size_t lane = 0; lane < entries.lanes() && !entries.empty(); ++lane) {
    held.read = std::max(held.read, entries.positions(lane).back() + 1);
    const auto flags = entries.pinned(lane);
    const auto evictable = flags.subspan(std::min(sinks, flags.size()));
    held.pinned = std::max(held.pinned, static_cast<std::size_t>(std::ranges::count(evictable, 1)));
  }
  return held;
}

}  // namespace infinipot::detail
