// Which recent entries stay in each lane, and what room that leaves for pinned ones.
#pragma once

#include <algorithm>
#include <cstddef>
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

  /// The lane with least room beside its recent entries: where pinned ones fit, they fit everywhere.
  Lane tightest() const noexcept { return tightest_; }

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
  Lane tightest_;
};

}  // namespace infinipot::detail
