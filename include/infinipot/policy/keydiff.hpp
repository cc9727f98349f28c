// KeyDiff (arXiv 2504.15364): keys unlike the others.
#pragma once

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"

namespace infinipot {

/// Minus the cosine of a key, as it is rotated, with the mean direction of all. A key of length 0 has cosine
/// 0. Needs keys, no attention.
class KeyDiff {
 public:
  static constexpr Watch watch = Watch::entries;

  std::string_view name() const noexcept { return "keydiff"; }
  bool uses_nuc() const noexcept { return false; }
  std::span<const Rule> rules() const noexcept { return rules_; }

  template <class Rows>
  void score_entries(const Rows& rows, std::span<float> scores) const noexcept {
    const auto d = static_cast<Eigen::Index>(rows.head_dim());
    Eigen::Map<Eigen::VectorXf> mean(rows.scratch().data(), d);
    mean.setZero();
    rows.for_each_key([&](std::size_t t, const float* key) {
      const Eigen::Map<const Eigen::VectorXf> k(key, d);
      scores[t] = inverse(k.norm());
      if (scores[t] > 0) mean += scores[t] * k;  // neither NaN nor infinity, which spoil their own score only
    });
    mean *= inverse(mean.norm());
    rows.for_each_key([&](std::size_t t, const float* key) {
      scores[t] *= -mean.dot(Eigen::Map<const Eigen::VectorXf>(key, d));
    });
  }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    view.aggregate_attention(Aggregate::sum, scores);
  }

 private:
  static float inverse(float length) noexcept { return length == 0 ? 0 : 1 / length; }

  std::array<Rule, 1> rules_;
};

}  // namespace infinipot
