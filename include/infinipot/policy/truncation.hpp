// LongBench's rule for what does not fit: the beginning and the end stay, the middle goes.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Half of what stays is the beginning, always the same, half the latest tokens. Needs nothing but forward().
class Truncation {
 public:
  std::string_view name() const noexcept { return "truncation"; }
  std::size_t recent(std::size_t keep) const noexcept { return keep / 2; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < view.size(); ++t) scores[t] = -static_cast<float>(t);
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
