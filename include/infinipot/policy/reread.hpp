// Re-reading: what the model needs to repeat the text (KVzip, arXiv 2505.23416), in a bounded pot.
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
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

class Reread;

struct RereadSettings {
  using policy = Reread;

  /// Precedes every block, for instance "\n\nRepeat the text above:\n\n".
  std::vector<Token> instruction = {};
  std::size_t block = 128;  ///< tokens of the text reread at once
  ReduceHeads over_heads = ReduceHeads::max;
  /// If heads of several layers choose together, only attention in the model's first `layers` layers counts;
  /// 0 means all. The heads that find a token's earlier place are in the lower layers; above them, some head
  /// pays nearly everything attention near 1. Of SmolLM2-135M's 30 layers the first 8 lose least
  /// (benchmarks/quality).
  std::size_t layers = 0;
  Smoothing smoothing = {Pooling::mean, 9};
};

/// For questions not known yet. A distillation rereads all tokens since the last one, block by block, after
/// the full pot; an entry's score is the most attention it ever received this way, which survivors keep.
/// Costs a second reading of every token, by the layers that count. Needs attention.
class Reread {
 public:
  static constexpr bool carries_attention = true;

  /// Throws std::invalid_argument for a block of 0 and an even smoothing kernel.
  Reread(RereadSettings settings) : settings_(std::move(settings)) {
    if (settings_.block == 0) detail::invalid("reread block 0 must be at least 1");
    rules_[0].smoothing = settings_.smoothing;
    rules_[0].smoothing.validate();
    probe_ = settings_.instruction;
    probe_.resize(longest_probe());
  }

  std::string_view name() const noexcept { return "reread"; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  Reduce reduce() const noexcept { return Reduce::max; }
  std::size_t longest_probe() const noexcept { return settings_.instruction.size() + settings_.block; }

  /// RereadSettings::layers; all if layers or heads choose on their own.
  std::size_t probe_layers(Granularity granularity) const noexcept {
    return settings_.layers == 0 || granularity != Granularity::shared ? all_layers : settings_.layers;
  }

  std::span<const Token> probe(std::size_t i, const ProbeContext& context) const noexcept {
    const std::size_t from = i * settings_.block;
    if (from >= context.fresh.size()) return {};
    const auto block = context.fresh.subspan(from, (std::min)(settings_.block, context.fresh.size() - from));
    const auto behind = static_cast<std::ptrdiff_t>(settings_.instruction.size());
    std::copy(block.begin(), block.end(), probe_.begin() + behind);
    return std::span<const Token>(probe_).first(settings_.instruction.size() + block.size());
  }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    const std::size_t low = view.heads_below(settings_.layers);
    view.reduce_heads(settings_.over_heads, low == 0 ? view.heads() : low, scores);
  }

 private:
  RereadSettings settings_;
  std::array<Rule, 1> rules_;
  mutable std::vector<Token> probe_;  // (longest_probe) instruction and the last block
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
