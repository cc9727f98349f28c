// LongBench's rule for what does not fit: the beginning and the end stay, the middle goes.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"

namespace infinipot {

/// The first half of what is kept, ever the same, and the latest tokens. Needs nothing.
class Truncation {
 public:
  static constexpr Watch watch = Watch::nothing;

  std::string_view name() const noexcept { return "truncation"; }
  bool uses_nuc() const noexcept { return false; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  std::size_t recent(std::size_t keep) const noexcept { return keep / 2; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < view.size(); ++t) scores[t] = -static_cast<float>(t);
  }

 private:
  std::array<Rule, 1> rules_;
};

}  // namespace infinipot
