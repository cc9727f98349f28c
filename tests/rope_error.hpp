// How far a measured RoPE is from the right one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "infinipot/rope.hpp"

namespace trial {

/// The largest error of a frequency, radians per position. Pairs that do not turn may be left out.
inline double rope_error(const infinipot::Rope& found, const infinipot::Rope& right) {
  const auto frequency = [](const infinipot::Rope& rope, std::size_t pair) {
    return pair < rope.frequencies.size() ? rope.frequencies[pair] : 0;
  };
  double worst = 0;
  for (std::size_t i = 0; i < std::max(found.frequencies.size(), right.frequencies.size()); ++i)
    worst = std::max(worst, std::abs(frequency(found, i) - frequency(right, i)));
  return worst;
}

/// A line through n angles that are each wrong by at most u is wrong by at most 3 u / n in its slope: its
/// weights are 12 (p - mean) / n^3, whose magnitudes sum to 3 / n.
constexpr double slope_error(double u, double n = 100) { return 3 * u / n; }

}  // namespace trial
