#pragma once

#include <Eigen/Core>
#include <cmath>
#include <span>

namespace smollm2 {

/// out[i] = x[i] / sqrt(mean(x^2) + epsilon) * gain[i]; `gain` is as long as `x`.
inline void rms_norm(std::span<const float> x, std::span<const float> gain, float epsilon,
                     float* out) noexcept {
  const auto size = static_cast<Eigen::Index>(x.size());
  const Eigen::Map<const Eigen::ArrayXf> in(x.data(), size), factors(gain.data(), size);
  const float scale = 1 / std::sqrt(in.square().mean() + epsilon);
  Eigen::Map<Eigen::ArrayXf>(out, size) = in * scale * factors;
}

}  // namespace smollm2
