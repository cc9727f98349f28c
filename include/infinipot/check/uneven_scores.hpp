// Whether scores of a repeated token depend on the distance of two positions alone, as RoPE makes them in any
// basis of channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "infinipot/check/watched_pass.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

inline double squares_of(const float* row, std::size_t width) {
  double sum = 0;
  for (std::size_t k = 0; k < width; ++k) sum += static_cast<double>(row[k]) * static_cast<double>(row[k]);
  return sum;
}

/// How far dot products of a's vectors with b's before them are from their mean at the same distance, root
/// mean square, relative to the vectors' lengths.
inline double uneven_scores(const EntryNumbers& a, const EntryNumbers& b, std::size_t layer) {
  const std::size_t n = b.entries, width = b.width, group = std::max<std::size_t>(1, a.heads / b.heads);
  double apart = 0, lengths = 0;
  std::vector<double> scores(n);
  for (std::size_t head = 0; head < b.heads && head * group < a.heads; ++head) {
    const float *const from = a.at(layer, head * group, 0), *const to = b.at(layer, head, 0);
    for (std::size_t distance = 0; distance < n; ++distance) {
      double mean = 0;
      for (std::size_t t = 0; t + distance < n; ++t) {
        scores[t] = 0;
        for (std::size_t k = 0; k < width; ++k)
          scores[t] +=
              static_cast<double>(from[(t + distance) * width + k]) * static_cast<double>(to[t * width + k]);
        mean += scores[t] / static_cast<double>(n - distance);
      }
      for (std::size_t t = 0; t + distance < n; ++t) apart += (scores[t] - mean) * (scores[t] - mean);
      lengths += static_cast<double>(n - distance) * squares_of(from, width) * squares_of(to, width);
    }
  }
  return lengths == 0 ? 0 : std::sqrt(apart / lengths);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
