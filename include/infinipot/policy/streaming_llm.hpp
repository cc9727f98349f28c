// StreamingLLM (arXiv 2309.17453): attention sinks and the most recent tokens.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"

namespace infinipot {

/// The later, the better; the loop protects the sinks. Needs nothing of the engine but forward().
class StreamingLlm {
 public:
  static constexpr Watch watch = Watch::nothing;

  std::string_view name() const noexcept { return "streaming_llm"; }
  bool uses_nuc() const noexcept { return false; }
  std::span<const Rule> rules() const noexcept { return rules_; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < view.size(); ++t) scores[t] = static_cast<float>(t);
  }

 private:
  std::array<Rule, 1> rules_;
};

}  // namespace infinipot
