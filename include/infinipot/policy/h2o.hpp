// H2O (arXiv 2306.14048): heavy hitters, by the attention received so far, and as many recent tokens.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"

namespace infinipot {

/// Attention summed over all queries since an entry was read; half of what stays is the most recent. Needs
/// attention of every token.
class H2o {
 public:
  static constexpr Watch watch = Watch::every_query;

  std::string_view name() const noexcept { return "h2o"; }
  bool uses_nuc() const noexcept { return false; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  std::size_t recent(std::size_t keep) const noexcept { return keep / 2; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    view.aggregate_attention(Aggregate::sum, scores);
  }

 private:
  std::array<Rule, 1> rules_;
};

}  // namespace infinipot
