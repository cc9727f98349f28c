// From the command line to a policy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "options.hpp"

namespace reading {

/// Texts of a kind, such as the catalyst prompts of a turn.
using TokenTexts = std::vector<std::vector<infinipot::Token>>;

/// What a distillation for a turn goes by.
struct Aim {
  TokenTexts catalysts;
  std::vector<infinipot::Token> terms;  ///< of its question; none if that is not known while reading
};

/// Of each turn.
using Aims = std::vector<Aim>;

inline std::size_t longest(const TokenTexts& texts) {
  std::size_t most = 0;
  for (const auto& text : texts) most = std::max(most, text.size());
  return most;
}

inline std::size_t longest_catalyst(const Aims& aims) {
  std::size_t most = 0;
  for (const Aim& aim : aims) most = std::max(most, longest(aim.catalysts));
  return most;
}

inline infinipot::Granularity granularity_of(const Options& options) {
  using infinipot::Granularity;
  if (options.granularity == "layer") return Granularity::layer;
  if (options.granularity == "shared") return Granularity::shared;
  return Granularity::head;
}

inline infinipot::ReduceHeads over_heads_of(const Options& options) {
  using infinipot::ReduceHeads;
  return options.over_heads == "sum"   ? ReduceHeads::sum
         : options.over_heads == "max" ? ReduceHeads::max
                                       : ReduceHeads::max_share;
}

/// The policy context_shift: the first entries stay, as many as there are sinks or tokens of the header, and
/// of the rest the later half, rounded up. Sets `keep`. Throws UsageError.
inline void fit_context_shift(Options& options, std::size_t header) {
  const std::size_t first = std::max(options.sinks, header);
  const std::string stay = " (" + std::to_string(first) + " entries always stay: the header or the sinks)";
  if (options.pot < first + 2)
    throw UsageError("--pot " + std::to_string(options.pot) + " is too small; it must be at least " +
                     std::to_string(first + 2) + stay);
  const std::size_t dropped = (options.pot - first) / 2;
  options.keep = options.pot - dropped;
  if (const std::size_t latest = options.keep - first; options.recent > latest)
    throw UsageError("--recent " + std::to_string(options.recent) + " is out of range 0 .. " +
                     std::to_string(latest) + " for context_shift and --pot " + std::to_string(options.pot) +
                     stay);
}

inline infinipot::Smoothing usual_smoothing(const std::string& policy, std::size_t keep) {
  if (policy == "infinipot" || policy == "cap" || policy == "nuc")
    return infinipot::recommended_smoothing(keep);
  return {.kernel = std::size_t{policy == "reread" ? 9U : policy == "snapkv" ? 5U : 1U}};
}

/// A policy's smoothing where the options may name another. Of a kernel that is named the lag is none, if it
/// is not named too.
inline infinipot::Smoothing smoothing_of(const Options& options, const std::string& policy) {
  infinipot::Smoothing smoothing = usual_smoothing(policy, options.keep);
  if (options.kernel != 0) smoothing = {.kernel = options.kernel};
  if (options.lag) smoothing.lag = *options.lag;
  return smoothing;
}

inline std::size_t usual_layers(const std::string& policy) { return policy == "reread" ? 8 : 0; }

/// What decides which entries stay, if it is not said: with an archive, reading costs nothing beside.
inline constexpr const char *usual_policy = "infinipot", *usual_policy_of_archive = "streaming_llm";

/// Fills in what depends on other options and was not given. Throws UsageError for options that exclude
/// each other.
inline void complete(Options& options, const Program& program) {
  const bool archives = !options.archive.empty();
  if (options.policy.empty()) options.policy = archives ? usual_policy_of_archive : usual_policy;
  if (!options.recall) options.recall = archives ? usual_recall : 0;
  if (options.policy == "cap") options.alpha = 0;
  if (options.policy == "nuc") options.alpha = 1;
  const bool infinipot = options.policy == "infinipot" || options.policy == "cap" ||
                         options.policy == "nuc" || options.policy == "reread";
  if (options.policy == "context_shift") {
    if (options.keep != 0)
      throw UsageError("--keep: context_shift keeps the header and the later half of what follows it, not " +
                       std::to_string(options.keep) + " entries");
    fit_context_shift(options, 0);
  }
  if (options.keep == 0) options.keep = options.pot / 2;
  if (options.policy == "reread" && options.catalysts.size() > 1)
    throw UsageError("--catalyst: given " + std::to_string(options.catalysts.size()) +
                     " times, but with --policy reread it may be given once");
  const bool cells = options.policy == "context_shift";
  if (options.granularity.empty()) options.granularity = infinipot || archives || cells ? "shared" : "head";
  if (program.granularities.size() == 1) options.granularity = program.granularities.front();
  const infinipot::Smoothing own = smoothing_of(options, options.policy),
                             of_recalls = smoothing_of(options, usual_policy);
  if (of_recalls.lag > of_recalls.kernel / 2)
    throw UsageError("--lag: must be at most half of --kernel, which is " +
                     std::to_string(of_recalls.kernel / 2) + ", not " + std::to_string(of_recalls.lag));
  options.kernel = own.kernel;
  options.lag = own.lag;
  options.recall_kernel = of_recalls.kernel;
  options.recall_lag = of_recalls.lag;
  options.recall_layers = options.layers.value_or(usual_layers(usual_policy));
  if (!options.layers) options.layers = usual_layers(options.policy);
}

/// Settings of the policy infinipot for one turn, which allow for the longest catalyst of any turn.
inline infinipot::InfinipotSettings infinipot_settings(const Options& options, const Aims& aims,
                                                       std::size_t turn) {
  const Aim& aim = aims.at(turn);
  return {.catalysts = aim.catalysts,
          .alpha = options.alpha,
          .terms = aim.terms,
          .term_share = aim.terms.empty() ? 0 : options.term_share,
          .over_queries = options.over_queries == "max" ? infinipot::Reduce::max : infinipot::Reduce::sum,
          .over_heads = over_heads_of(options),
          .kernel = options.kernel,
          .lag = options.lag.value_or(0),
          .layers = options.layers.value_or(usual_layers(options.policy)),
          .longest_catalyst = options.alpha < 1 ? longest_catalyst(aims) : 0};
}

inline infinipot::Infinipot infinipot_policy(const Options& options, const Aims& aims, std::size_t turn) {
  return infinipot::Infinipot(infinipot_settings(options, aims, turn));
}

/// Calls run(policy) with the policy that the options name, for the first turn. `rope` is the model's, which
/// only expected_attention uses, and only once it reads. Throws std::invalid_argument for bad settings.
template <class Run>
auto with_policy(const Options& options, const Aims& aims, const Run& run, const infinipot::Rope& rope = {}) {
  if (options.policy == "snapkv") return run(infinipot::SnapKv(options.window, options.kernel));
  if (options.policy == "reread")
    return run(infinipot::Reread({.instruction = aims.at(0).catalysts.at(0),
                                  .block = options.block,
                                  .over_heads = over_heads_of(options),
                                  .layers = options.layers.value_or(usual_layers(options.policy)),
                                  .smoothing = {infinipot::Pooling::mean, options.kernel}}));
  if (options.policy == "tova") return run(infinipot::Tova());
  if (options.policy == "h2o") return run(infinipot::H2o());
  if (options.policy == "sirllm") return run(infinipot::SirLlm(options.decay));
  if (options.policy == "truncation") return run(infinipot::Truncation());
  if (options.policy == "knorm") return run(infinipot::KNorm());
  if (options.policy == "keydiff") return run(infinipot::KeyDiff());
  if (options.policy == "value_norm") return run(infinipot::ValueNorm());
  if (options.policy == "expected_attention")
    return run(
        infinipot::ExpectedAttention({.rope = rope, .future = options.future, .sinks = options.sinks}));
  if (options.policy == "temporal_redundancy")
    return run(infinipot::TemporalRedundancy(options.period, options.frames));
  if (options.policy == "infinipot" || options.policy == "cap" || options.policy == "nuc")
    return run(infinipot_policy(options, aims, 0));
  return run(
      infinipot::StreamingLlm());  // context_shift, which differs in keep, and full, whose pot never fills
}

/// What always stays of the `keep` entries of a layer: the prompt's header (`header` tokens) or the sinks,
/// and recent ones.
template <infinipot::Policy P>
std::size_t always_stay(const P& policy, const Options& options, std::size_t header, std::size_t keep) {
  return std::max(header, options.sinks) + infinipot::recent_of(policy, options.recent, keep);
}

/// Throws UsageError unless pot and keep have entries for what always stays (`header` is the prompt's
/// header, in tokens) and for what the policy needs to score. Options must be complete.
template <infinipot::Policy P>
void check_fits(const P& policy, const Options& options, std::size_t header) {
  const auto stays = [&](std::size_t keep) { return always_stay(policy, options, header, keep); };
  std::size_t least = 1;  // entries to keep; what stays may grow with them, more slowly
  while (stays(least) > least) least = stays(least);

  const std::size_t catalyst = infinipot::longest_probe(policy),
                    window = std::max<std::size_t>(1, infinipot::watched_window(policy));
  const std::size_t spare = catalyst + window;
  const std::string why = " (" + std::to_string(least) +
                          " entries always stay: the header, sinks and recent ones; " +
                          std::to_string(catalyst) + " are for the catalyst, " + std::to_string(window) +
                          " for what is read between distillations)";
  if (options.pot < least + spare)
    throw UsageError("--pot " + std::to_string(options.pot) + " is too small; it must be at least " +
                     std::to_string(least + spare) + why);
  if (options.keep < least || options.keep > options.pot - spare)
    throw UsageError("--keep " + std::to_string(options.keep) + " is out of range " + std::to_string(least) +
                     " .. " + std::to_string(options.pot - spare) + " for --pot " +
                     std::to_string(options.pot) + why);
}

}  // namespace reading
