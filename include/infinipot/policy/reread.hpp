// Re-reading: what is needed to say the text again (KVzip, arXiv 2505.23416), inside a bounded pot.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"

namespace infinipot {

struct RereadSettings {
  /// In front of every block, for instance "\n\nRepeat the text above:\n\n".
  std::vector<Token> instruction = {};
  std::size_t block = 128;  ///< tokens of the text that are read again at once
  Aggregate over_heads = Aggregate::peak;
  /// Where heads of several layers choose together, attention in the model's first so many layers counts
  /// alone, as far as they have any; 0: in all. Behind the heads that find a token's earlier place, which are
  /// in the lower layers, some head pays attention near 1 to nearly everything. Of SmolLM2-135M's 30 layers
  /// the first 8 lose least (benchmarks/quality).
  std::size_t layers = 0;
  Smoothing smoothing = {Pooling::mean, 9};
};

/// For questions that nobody knows yet. At a distillation all tokens that came since the last one are read
/// again, block by block, behind the full pot; an entry's score is the most attention that it ever received
/// so. That of survivors stays with them. Costs a second reading of every token, by so many layers as count.
/// Needs attention.
class Reread {
 public:
  static constexpr Watch watch = Watch::probes;
  static constexpr bool carries_attention = true;

  /// Throws std::invalid_argument for a block of 0 and an even smoothing kernel.
  explicit Reread(RereadSettings settings) : settings_(std::move(settings)) {
    if (settings_.block == 0) detail::invalid("reread block 0 must be at least 1");
    rules_[0].smoothing = settings_.smoothing;
    rules_[0].smoothing.validate();
    probe_ = settings_.instruction;
    probe_.resize(longest_probe());
  }

  std::string_view name() const noexcept { return "reread"; }
  bool uses_nuc() const noexcept { return false; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  Reduce reduce() const noexcept { return Reduce::max; }
  std::size_t longest_probe() const noexcept { return settings_.instruction.size() + settings_.block; }

  /// Those that count, see RereadSettings::layers; all where layers or heads choose for themselves.
  std::size_t probe_layers(Granularity granularity) const noexcept {
    return settings_.layers == 0 || granularity != Granularity::shared ? all_layers : settings_.layers;
  }

  std::span<const Token> probe(std::size_t i, const ProbeContext& context) const noexcept {
    const std::size_t from = i * settings_.block;
    if (from >= context.fresh.size()) return {};
    const auto block = context.fresh.subspan(from, std::min(settings_.block, context.fresh.size() - from));
    const auto behind = static_cast<std::ptrdiff_t>(settings_.instruction.size());
    std::copy(block.begin(), block.end(), probe_.begin() + behind);
    return std::span<const Token>(probe_).first(settings_.instruction.size() + block.size());
  }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    const std::size_t low = view.heads_below(settings_.layers);
    view.aggregate_attention(settings_.over_heads, low == 0 ? view.heads() : low, scores);
  }

 private:
  RereadSettings settings_;
  std::array<Rule, 1> rules_;
  mutable std::vector<Token> probe_;  // (longest_probe) instruction and the last block
};

}  // namespace infinipot
