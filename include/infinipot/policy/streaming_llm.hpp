// StreamingLLM (arXiv 2309.17453): attention sinks and the most recent tokens.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// The later, the better; the loop protects the sinks. Needs nothing but forward().
class StreamingLlm {
 public:
  std::string_view name() const noexcept { return "streaming_llm"; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < view.size(); ++t) scores[t] = static_cast<float>(t);
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
