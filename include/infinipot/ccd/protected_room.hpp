// Which entries always stay, and how many pinned ones fit beside them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/policy/selector.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

class ProtectedRoom {
 public:
  /// For settings from checked_settings().
  explicit ProtectedRoom(const CcdSettings& settings) noexcept
      : protection_{settings.sinks, settings.recent}, keep_(settings.keep) {}

  const Protection& protection() const noexcept { return protection_; }

  /// Throws std::invalid_argument, its text beginning with `what`, if `pinned` entries do not fit beside
  /// sinks and recent ones.
  template <class... Parts>
  void check_pinned(std::size_t pinned, const Parts&... what) const {
    const auto [sinks, recent] = protection_;
    if (sinks + recent + pinned > keep_)
      invalid(what..., ": ", pinned, " pinned, ", sinks, " sinks and ", recent, " recent exceed the ", keep_,
              " entries that are kept");
  }

  /// Throws std::invalid_argument if another policy wants more recent entries than stay, or more than these
  /// tokens for a probe or queries to watch.
  template <Policy P>
  void check(const P& policy, std::size_t for_probes, std::size_t for_window) const {
    const auto most = [](std::size_t needed, const char* what, std::size_t available) {
      if (needed > available)
        invalid("the new policy needs ", needed, ' ', what, "; the first one left room for ", available);
    };
    most(longest_probe(policy), "tokens for a probe", for_probes);
    most(watched_window(policy), "queries to watch", for_window);
    most(recent_of(policy, 0, keep_), "recent entries", protection_.recent);
  }

 private:
  Protection protection_;
  std::size_t keep_;
};

/// What a store tells of its stream: tokens up to its newest entry, and the most pinned ones of a lane,
/// beyond the sinks.
struct Held {
  std::uint64_t read = 0;
  std::size_t pinned = 0;
};

inline Held held_by(const EntryTable& entries, std::size_t sinks) {
  Held held;
  for (std::size_t lane = 0; lane < entries.lanes() && !entries.empty(); ++lane) {
    held.read = (std::max)(held.read, entries.positions(lane).back() + 1);
    const auto flags = entries.pinned(lane);
    const auto evictable = flags.subspan((std::min)(sinks, flags.size()));
    held.pinned = (std::max)(held.pinned, static_cast<std::size_t>(std::ranges::count(evictable, 1)));
  }
  return held;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
