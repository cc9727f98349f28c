// From the command line to a policy.
#pragma once

#include <algorithm>
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

/// Fills in what depends on the policy and was not given.
inline void complete(Options& options) {
  const bool infinipot = options.policy == "infinipot";
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

}  // namespace reading
