// From the command line to a policy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "options.hpp"

namespace reading {

inline infinipot::Granularity granularity_of(const Options& options) {
  using infinipot::Granularity;
  if (options.granularity == "layer") return Granularity::layer;
  if (options.granularity == "shared") return Granularity::shared;
  return Granularity::head;
}

/// Fills in what depends on other options and was not given.
inline void complete(Options& options) {
  const bool infinipot = options.policy == "infinipot";
  if (options.keep == 0) options.keep = options.pot / 2;
  if (options.granularity.empty()) options.granularity = infinipot ? "shared" : "head";
  if (options.kernel == 0) options.kernel = infinipot ? 9 : options.policy == "snapkv" ? 5 : 1;
}

/// Calls run(policy) with the policy that the options name. Throws std::invalid_argument for bad settings.
template <class Run>
auto with_policy(const Options& options, std::vector<infinipot::Token> catalyst, const Run& run) {
  if (options.policy == "snapkv") return run(infinipot::SnapKv(options.window, options.kernel));
  if (options.policy == "tova") return run(infinipot::Tova());
  if (options.policy == "h2o") return run(infinipot::H2o());
  if (options.policy == "sirllm") return run(infinipot::SirLlm(options.decay));
  if (options.policy == "infinipot")
    return run(infinipot::Infinipot(
        {.catalysts = {std::move(catalyst)},
         .alpha = options.alpha,
         .over_heads = options.aggregate == "max" ? infinipot::Aggregate::max : infinipot::Aggregate::sum,
         .kernel = options.kernel}));
  return run(infinipot::StreamingLlm());  // and full, whose pot never fills
}

/// Throws UsageError unless pot and keep leave room for what always stays, of which `header` is the tokens
/// of the prompt's header, and for what the policy needs to score. Options must be complete.
template <infinipot::Policy P>
void check_room(const P& policy, const Options& options, std::size_t header) {
  const auto stays = [&](std::size_t keep) {
    std::size_t recent = options.recent;
    if constexpr (infinipot::ProtectsRecent<P>) recent = std::max(recent, policy.recent(keep));
    return std::max(header, options.sinks) + recent;
  };
  std::size_t least = 1;  // entries to keep; what stays may grow with them, more slowly
  while (stays(least) > least) least = stays(least);

  std::size_t catalyst = 0, window = 1;
  if constexpr (infinipot::RunsProbes<P>) catalyst = policy.longest_probe();
  if constexpr (infinipot::WatchesWindow<P>) window = policy.window();
  const std::size_t room = catalyst + window;
  const std::string why = " (" + std::to_string(least) +
                          " entries always stay: the header, sinks and recent ones; " +
                          std::to_string(catalyst) + " are for the catalyst, " + std::to_string(window) +
                          " for what is read between distillations)";
  if (options.pot < least + room)
    throw UsageError("--pot " + std::to_string(options.pot) + " is too small; it must be at least " +
                     std::to_string(least + room) + why);
  if (options.keep < least || options.keep > options.pot - room)
    throw UsageError("--keep " + std::to_string(options.keep) + " is out of range " + std::to_string(least) +
                     " .. " + std::to_string(options.pot - room) + " for --pot " +
                     std::to_string(options.pot) + why);
}

}  // namespace reading
