// InfiniPot (arXiv 2410.01518): what the Catalyst Prompt attends to (CaP) and what was new (NuC).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

class Infinipot;

/// The defaults are the paper's.
struct InfinipotSettings {
  using policy = Infinipot;

  /// Catalyst Prompts, run one after the other against the same full pot. One is usual: the question if it is
  /// known ("\n\n" and the question), else a generic one. Not needed for alpha = 1.
  std::vector<std::vector<Token>> catalysts;
  double alpha = 0.5;                         ///< share of the free budget chosen by NuC, 0 .. 1
  Reduce over_queries = Reduce::sum;          ///< of catalyst queries and the query heads of a group
  ReduceHeads over_heads = ReduceHeads::sum;  ///< of the kv heads of a lane, where it has several
  std::size_t kernel = 1;                     ///< max pooling over neighbours, of CaP and NuC both; odd
  Granularity scope = Granularity::head;      ///< who chooses together, if more than a lane (Rule::scope)
  /// If heads of several layers choose together, only attention in the model's first `layers` layers counts,
  /// and catalysts run no further (if the engine can stop there); 0 means all. Of SmolLM2-135M's 30 layers
  /// the first 24 keep what all keep (benchmarks/quality).
  std::size_t layers = 0;
  /// Tokens of the longest catalyst that may follow (Ccd::set_policy), if longer than these; the pot keeps
  /// that many entries free.
  std::size_t longest_catalyst = 0;
};

/// The paper's configuration (section 3, alpha 0.5). Use it with Granularity::head and no protected entries.
inline InfinipotSettings paper_settings(std::vector<Token> catalyst) {
  return {.catalysts = {std::move(catalyst)}};
}

/// What lost least where the question is known (benchmarks/quality); not for generic catalysts. An entry's
/// score is the largest attention that any catalyst token pays it in any head; 8 neighbours on either side
/// stay with it. Use it with Granularity::shared and a few sinks; with Granularity::head every head would
/// choose by its own attention alone, so over_heads would mean nothing: then take paper_settings(). The best
/// catalyst is all that will follow the text: the question, the chat template's answer header, the answer's
/// first words.
inline InfinipotSettings recommended_settings(std::vector<Token> catalyst) {
  return {.catalysts = {std::move(catalyst)},
          .alpha = 0,
          .over_queries = Reduce::max,
          .over_heads = ReduceHeads::max,
          .kernel = 17};
}

/// T = floor(alpha * free) entries by NuC, the rest by CaP. Needs logits (alpha > 0) and attention (alpha <
/// 1).
class Infinipot {
 public:
  /// Throws std::invalid_argument for alpha outside 0 .. 1, an even kernel, and an empty or missing catalyst.
  Infinipot(InfinipotSettings settings) : settings_(checked(std::move(settings))) {
    const Smoothing smoothing{Pooling::max, settings_.kernel};
    rules_[0] = {.share = settings_.alpha, .scope = settings_.scope, .smoothing = smoothing};
    rules_[1] = {.scope = settings_.scope, .smoothing = smoothing};
  }

  std::string_view name() const noexcept { return "infinipot"; }
  bool uses_nuc() const noexcept { return settings_.alpha > 0; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  Reduce reduce() const noexcept { return settings_.over_queries; }

  std::size_t longest_probe() const noexcept {
    std::size_t longest = settings_.longest_catalyst;
    if (settings_.alpha < 1)
      for (const auto& catalyst : settings_.catalysts) longest = (std::max)(longest, catalyst.size());
    return longest;
  }

  /// InfinipotSettings::layers; all if layers or heads choose on their own.
  std::size_t probe_layers(Granularity granularity) const noexcept {
    const bool together = (std::max)(granularity, settings_.scope) == Granularity::shared;
    return settings_.layers == 0 || !together ? all_layers : settings_.layers;
  }

  std::span<const Token> probe(std::size_t i, const ProbeContext& /*context*/) const noexcept {
    if (settings_.alpha == 1 || i >= settings_.catalysts.size()) return {};
    return settings_.catalysts[i];
  }

  void score(std::size_t rule, const ScoreView& view, std::span<float> scores) const noexcept {
    if (rule == 0)
      for (std::size_t t = 0; t < view.size(); ++t) scores[t] = view.nuc(t);
    else
      view.reduce_heads(settings_.over_heads, heads_that_count(view), scores);
  }

 private:
  static InfinipotSettings checked(InfinipotSettings settings) {
    if (detail::is_nan(settings.alpha) || settings.alpha < 0 || settings.alpha > 1)
      detail::invalid("alpha ", settings.alpha, " is out of range 0 .. 1");
    if (settings.alpha < 1 && settings.catalysts.empty())
      detail::invalid("no catalyst prompt: alpha ", settings.alpha,
                      " chooses by its attention; give one or set alpha 1");
    for (const auto& catalyst : settings.catalysts)
      if (catalyst.empty()) detail::invalid("a catalyst prompt is empty; it must have at least 1 token");
    Smoothing{Pooling::max, settings.kernel}.validate();
    return settings;
  }

  std::size_t heads_that_count(const ScoreView& view) const noexcept {
    const std::size_t low = view.heads_below(settings_.layers);
    return low == 0 ? view.heads() : low;
  }

  InfinipotSettings settings_;
  std::array<Rule, 2> rules_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
