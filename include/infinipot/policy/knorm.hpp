// The L2 norm of keys (arXiv 2406.11430): small ones draw attention.
#pragma once

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"

namespace infinipot {

/// -|key|. Needs keys, no attention.
class KNorm {
 public:
  static constexpr Watch watch = Watch::entries;

  std::string_view name() const noexcept { return "knorm"; }
  bool uses_nuc() const noexcept { return false; }
  std::span<const Rule> rules() const noexcept { return rules_; }

  template <class Rows>
  void score_entries(const Rows& rows, std::span<float> scores) const noexcept {
    const auto d = static_cast<Eigen::Index>(rows.head_dim());
    rows.for_each_key([&](std::size_t t, const float* key) {
      scores[t] = -Eigen::Map<const Eigen::VectorXf>(key, d).norm();
    });
  }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    view.aggregate_attention(Aggregate::sum, scores);
  }

 private:
  std::array<Rule, 1> rules_;
};

}  // namespace infinipot
