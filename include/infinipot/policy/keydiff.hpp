// KeyDiff (arXiv 2504.15364): keys unlike the others.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/detail/nan.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Minus the cosine between a key, as rotated, and the mean direction of all. A key of length 0 has cosine 0.
/// Needs keys, no attention.
class KeyDiff {
 public:
  std::string_view name() const noexcept { return "keydiff"; }

  void score_entries(const EntryRows& rows, std::span<float> scores) const noexcept {
    const auto d = static_cast<Eigen::Index>(rows.head_dim());
    Eigen::Map<Eigen::VectorXf> mean(rows.scratch().data(), d);
    mean.setZero();
    rows.for_each_key([&](std::size_t t, const float* key) {
      const Eigen::Map<const Eigen::VectorXf> k(key, d);
      const float length = k.norm();
      scores[t] = inverse(length);
      if (detail::is_finite(length)) mean += scores[t] * k;  // other keys spoil their own score only
    });
    mean *= inverse(mean.norm());
    rows.for_each_key([&](std::size_t t, const float* key) {
      scores[t] *= -mean.dot(Eigen::Map<const Eigen::VectorXf>(key, d));
    });
  }

 private:
  static float inverse(float length) noexcept { return length == 0 ? 0 : 1 / length; }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
