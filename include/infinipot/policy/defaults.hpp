// What a policy says, or the default for a member that it leaves out.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "infinipot/concepts.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/score_view.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {

/// The rule of a policy that names none: all of the free budget, by score, each lane on its own.
inline constexpr std::array<Rule, 1> one_rule{};

}  // namespace detail

/// Whether a policy needs NuC. Default: no.
template <Policy P>
bool uses_nuc(const P& policy) {
  if constexpr (requires { policy.uses_nuc(); })
    return policy.uses_nuc();
  else
    return false;
}

/// Its rules. Default: one.
template <Policy P>
std::span<const Rule> rules_of(const P& policy) {
  if constexpr (requires { policy.rules(); })
    return policy.rules();
  else
    return detail::one_rule;
}

/// Its scores. Default: the sum over heads of what it watches.
template <Policy P>
void score(const P& policy, std::size_t rule, const ScoreView& view, std::span<float> scores) noexcept {
  if constexpr (requires { policy.score(rule, view, scores); })
    policy.score(rule, view, scores);
  else
    view.reduce_heads(ReduceHeads::sum, scores);
}

/// Tokens of a policy's longest probe. Default: 0.
template <Policy P>
std::size_t longest_probe(const P& policy) {
  if constexpr (RunsProbes<P>)
    return policy.longest_probe();
  else
    return 0;
}

/// How many layers, from the first, a policy's probes are scored in. Default: all.
template <Policy P>
std::size_t probed_layers(const P& policy, Granularity granularity) {
  if constexpr (ProbesLowerLayers<P>)
    return policy.probe_layers(granularity);
  else
    return all_layers;
}

/// How many last queries a policy watches. Default: 0.
template <Policy P>
std::size_t watched_window(const P& policy) {
  if constexpr (watch_of<P> == Watch::last_queries)
    return policy.window();
  else
    return 0;
}

/// How many recent entries stay of `keep`: `recent`, or more if the policy wants more.
template <Policy P>
std::size_t recent_of(const P& policy, std::size_t recent, std::size_t keep) {
  if constexpr (ProtectsRecent<P>)
    return (std::max)(recent, policy.recent(keep));
  else
    return recent;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
