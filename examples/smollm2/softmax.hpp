#pragma once

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <span>

namespace smollm2 {

/// A softmax-weighted sum, taken up a tile of scores at a time. Weights are relative to the largest score so
/// far, so that none overflows; the weighted sum is to be divided by `sum`.
struct Softmax {
  float largest = -std::numeric_limits<float>::infinity();
  float sum = 0;

  /// Turns `scores` (not empty) into weights, and brings `mixed`, the sum so far, to the same scale.
  void add(std::span<float> scores, std::span<float> mixed) noexcept {
    Eigen::Map<Eigen::ArrayXf> weights(scores.data(), static_cast<Eigen::Index>(scores.size()));
    const float highest = weights.maxCoeff();
    if (highest > largest) {
      const float shrink = std::exp(largest - highest);  // 0 at first
      Eigen::Map<Eigen::ArrayXf>(mixed.data(), static_cast<Eigen::Index>(mixed.size())) *= shrink;
      sum *= shrink;
      largest = highest;
    }
    weights = (weights - largest).exp();
    sum += weights.sum();
  }
};

}  // namespace smollm2
