// InfiniPot (arXiv 2410.01518): what the Catalyst Prompt attends to (CaP) and what was new (NuC); and, beyond
// the paper, what shares rare tokens with the question.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
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
  std::vector<std::vector<Token>> catalysts = {};
  double alpha = 0.5;  ///< share of the free budget chosen by NuC, 0 .. 1
  /// Tokens of the question alone, without instructions and answer header; in any order, those that are
  /// there twice count once. Not needed for term_share = 0.
  std::vector<Token> terms = {};
  double term_share = 0;                      ///< share of the free budget chosen by terms, 0 .. 1 - alpha
  Reduce over_queries = Reduce::sum;          ///< of catalyst queries and the query heads of a group
  ReduceHeads over_heads = ReduceHeads::sum;  ///< of the kv heads of a lane, where it has several
  std::size_t kernel = 1;                     ///< max pooling over neighbours, of CaP and NuC both; odd
  std::size_t lag = 0;                        ///< how far before an entry these lie (Smoothing::lag)
  Granularity scope = Granularity::head;      ///< who chooses together, if more than a lane (Rule::scope)
  /// If heads of several layers choose together, only attention in the model's first `layers` layers counts,
  /// and catalysts run no further (if the engine can stop there); 0 means all.
  std::size_t layers = 0;
  /// Tokens of the longest catalyst that may follow (Ccd::set_policy), if longer than these; the pot keeps
  /// that many entries free.
  std::size_t longest_catalyst = 0;
};

/// The paper's configuration (section 3, alpha 0.5). Use it with Granularity::head and no protected entries.
inline InfinipotSettings paper_settings(std::vector<Token> catalyst) {
  return {.catalysts = {std::move(catalyst)}};
}

/// What loses least where `keep` entries stay (CcdSettings::keep) and the question is known: the 8 before one
/// that is attended to stay with it, and the 40 after it, for a question names what comes first and asks for
/// what follows. Where fewer than ten such stretches fit, 8 and 8, so that there are enough of them.
constexpr Smoothing recommended_smoothing(std::size_t keep) noexcept {
  constexpr Smoothing narrow{.pooling = Pooling::max, .kernel = 17},
      wide{.pooling = Pooling::max, .kernel = 49, .lag = 16};
  return keep < 10 * wide.kernel ? narrow : wide;
}

/// What lost least where the question is known (benchmarks/quality); not for generic catalysts. An entry's
/// score is the largest attention that any catalyst token pays it in any head, smoothed as is best where
/// `keep` entries stay (recommended_smoothing(): say how many if they are fewer than 490). Use it with
/// Granularity::shared and a few sinks; with Granularity::head every head would choose by its own attention
/// alone, so over_heads would mean nothing: then take paper_settings(). The best catalyst is all that will
/// follow the text: the question, the chat template's answer header, the answer's first words.
inline InfinipotSettings recommended_settings(std::vector<Token> catalyst, std::size_t keep = 1024) {
  const Smoothing smoothing = recommended_smoothing(keep);
  return {.catalysts = {std::move(catalyst)},
          .alpha = 0,
          .over_queries = Reduce::max,
          .over_heads = ReduceHeads::max,
          .kernel = smoothing.kernel,
          .lag = smoothing.lag};
}

/// T = floor(alpha * free) entries by NuC, then floor((1 - alpha - term_share) * free) by CaP, the rest by
/// terms, or by CaP if term_share is 0. Needs logits (alpha > 0) and attention (alpha < 1).
///
/// By terms: a token of `terms` that c of the n unprotected entries in view hold weighs (1 - ln c / ln n)^4,
/// 1 if it is the only one. To that comes a tenth of the attention, of which the largest counts as 1. An
/// entry's score is the largest mean of 33 neighbours that is to be found within 8 entries.
class Infinipot {
 public:
  /// Throws std::invalid_argument for alpha or term_share out of range, an even kernel, a lag longer than
  /// half of it, and an empty or missing catalyst or missing terms.
  Infinipot(InfinipotSettings settings) : settings_(checked(std::move(settings))) {
    const Smoothing smoothing{Pooling::max, settings_.kernel, settings_.lag};
    rules_[by_nuc] = {.share = settings_.alpha, .scope = settings_.scope, .smoothing = smoothing};
    rules_[by_attention] = {.share = (std::max)(1 - settings_.alpha - settings_.term_share, 0.0),
                            .scope = settings_.scope,
                            .smoothing = smoothing};
    rules_[by_terms] = {
        .scope = settings_.scope, .smoothing = {Pooling::mean, 33}, .then = {Pooling::max, 17}};
    std::ranges::sort(settings_.terms);
    settings_.terms.erase(std::unique(settings_.terms.begin(), settings_.terms.end()), settings_.terms.end());
  }

  std::string_view name() const noexcept { return "infinipot"; }
  bool uses_nuc() const noexcept { return settings_.alpha > 0; }
  std::span<const Rule> rules() const noexcept {
    return std::span(rules_).first(settings_.term_share > 0 ? 3 : 2);
  }
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
    if (rule == by_nuc) {
      for (std::size_t t = 0; t < view.size(); ++t) scores[t] = view.nuc(t);
      return;
    }
    view.reduce_heads(settings_.over_heads, heads_that_count(view), scores);
    if (rule == by_terms) add_terms(view, scores);
  }

 private:
  static InfinipotSettings checked(InfinipotSettings settings) {
    if (detail::is_nan(settings.alpha) || settings.alpha < 0 || settings.alpha > 1)
      detail::invalid("alpha ", settings.alpha, " is out of range 0 .. 1");
    if (settings.alpha < 1 && settings.catalysts.empty())
      detail::invalid("no catalyst prompt: alpha ", settings.alpha,
                      " chooses by its attention; give one or set alpha 1");
    if (detail::is_nan(settings.term_share) || settings.term_share < 0 ||
        settings.alpha + settings.term_share > 1)
      detail::invalid("term_share ", settings.term_share, " is out of range 0 .. 1 - alpha, which is ",
                      1 - settings.alpha);
    if (settings.term_share > 0 && settings.terms.empty())
      detail::invalid("no terms: term_share ", settings.term_share,
                      " chooses by them; give the question's tokens or set term_share 0");
    for (const auto& catalyst : settings.catalysts)
      if (catalyst.empty()) detail::invalid("a catalyst prompt is empty; it must have at least 1 token");
    Smoothing{Pooling::max, settings.kernel, settings.lag}.validate();
    return settings;
  }

  std::size_t heads_that_count(const ScoreView& view) const noexcept {
    const std::size_t low = view.heads_below(settings_.layers);
    return low == 0 ? view.heads() : low;
  }

  /// Rules, in their order.
  enum : std::size_t { by_nuc, by_attention, by_terms };

  /// Takes attention and adds what terms weigh.
  void add_terms(const ScoreView& view, std::span<float> scores) const noexcept {
    constexpr float beside_terms = 0.1F;
    float largest = 0;
    std::size_t entries = 0;
    for (std::size_t t = 0; t < scores.size(); ++t) {
      if (view.is_protected(t)) continue;
      ++entries;
      if (detail::is_finite(scores[t]) && scores[t] > largest) largest = scores[t];
    }
    if (largest > 0)
      for (float& score : scores) score *= beside_terms / largest;
    const double all = std::log(static_cast<double>(entries));
    for (const Token term : settings_.terms) {
      std::size_t holders = 0;
      for (std::size_t t = 0; t < scores.size(); ++t)
        if (view.token(t) == term && !view.is_protected(t)) ++holders;
      if (holders == 0 || entries == 1) continue;
      const double rarity = 1 - std::log(static_cast<double>(holders)) / all;
      const auto weight = static_cast<float>(rarity * rarity * rarity * rarity);
      for (std::size_t t = 0; t < scores.size(); ++t)
        if (view.token(t) == term) scores[t] += weight;
    }
  }

  InfinipotSettings settings_;
  std::array<Rule, 3> rules_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
