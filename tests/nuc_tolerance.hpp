// How far NuC may be from the truth.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "infinipot/detail/simd.hpp"
#include "infinipot/nuc/log_sum_exp.hpp"
#include "reference/reference_scores.hpp"

namespace reference {

/// Of log_sum_exp. Each block adds block / (4 * packet_size) exponentials in sequence in float, then at most
/// 6 partial sums, each rounding once; exp is good to 3 + 1.5 |x| units of 2^-24, and x = logit - shift,
/// where the shift is at most 16 below the largest logit of the block, is rounded once. The logarithm turns
/// these relative errors into absolute ones. Blocks are joined in double.
inline double sum_tolerance(std::span<const float> logits) {
  const double truth = log_sum_exp(logits);
  const auto top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double distance = 16;
  for (const float x : logits)
    if (!infinipot::detail::is_minus_infinity(x))
      distance += std::exp(static_cast<double>(x) - truth) * std::abs(static_cast<double>(x) - top);
  const double additions = static_cast<double>(infinipot::LogSumExp::block) /
                               static_cast<double>(4 * infinipot::detail::packet_size) +
                           6;
  return unit * (additions + 3 + 2.5 * distance) + 0x1p-50 * std::abs(truth);
}

/// Of NuC, which is rounded to float again.
inline double nuc_tolerance(std::span<const float> logits, infinipot::Token token) {
  return sum_tolerance(logits) + unit * std::abs(nuc(logits, token));
}

}  // namespace reference
