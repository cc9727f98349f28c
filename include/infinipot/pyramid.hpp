// Pyramid budgets (PyramidKV, arXiv 2406.02069): early layers keep more, for their attention is spread wide.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "infinipot/detail/error.hpp"

namespace infinipot {

struct PyramidSettings {
  /// The paper's: the last layer gets 1 / beta of the mean, the first one 2 - 1 / beta of it. At least 1,
  /// which makes all layers alike; PyramidKV and kvpress use 20.
  double beta = 20;
  /// Entries that every layer keeps beside its share: sinks, recent ones, a window, what is pinned. PyramidKV
  /// adds its window so; kvpress does not (0).
  std::size_t always = 0;
  /// No layer keeps more than that; the last one gets correspondingly more. 0: no limit.
  std::size_t most = 0;
};

/// Budgets for PotSettings::budgets that fall linearly with depth, `keep` on average: their sum is exactly
/// layers * keep. Each is the number on the straight line, rounded down; then those that lost most by that
/// are raised by 1 until the sum is right. So none is off by 1 or more, or larger than the one before.
///
/// Throws std::invalid_argument for no layers, beta below 1, `always` or `most` out of range, and if the last
/// layer would keep nothing.
inline std::vector<std::size_t> pyramid_budgets(std::size_t layers, std::size_t keep,
                                                const PyramidSettings& settings = {}) {
  if (layers == 0) detail::invalid("a pyramid of 0 layers must have at least 1");
  if (!(settings.beta >= 1 && settings.beta <= std::numeric_limits<double>::max()))
    detail::invalid("pyramid beta ", settings.beta, " is out of range; it must be at least 1");
  if (settings.always > keep)
    detail::invalid("each layer always keeps ", settings.always, " entries, more than the ", keep,
                    " of an average one");
  const std::size_t most = settings.most == 0 ? std::numeric_limits<std::size_t>::max() : settings.most;
  if (most < keep)
    detail::invalid("the most that a layer may keep, ", most, ", is below the average of ", keep);

  const auto mean = static_cast<double>(keep - settings.always);
  const double first = std::min(2 * mean - mean / settings.beta, static_cast<double>(most - settings.always));
  const double step = layers == 1 ? 0 : 2 * (first - mean) / static_cast<double>(layers - 1);
  std::vector<std::size_t> budgets, by_loss(layers);
  std::vector<double> lost;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const double share = layers == 1 ? mean : first - static_cast<double>(layer) * step;
    // To a millionth, lest the rounding of doubles decides, which differs between processors.
    const double whole = std::floor(share + 1e-6);
    lost.push_back(std::round((share - whole) * 1e6));
    budgets.push_back(settings.always + static_cast<std::size_t>(whole));
  }
  std::iota(by_loss.begin(), by_loss.end(), std::size_t{0});
  std::ranges::stable_sort(by_loss, [&](std::size_t a, std::size_t b) { return lost[a] > lost[b]; });
  const std::size_t sum = std::accumulate(budgets.begin(), budgets.end(), std::size_t{0});
  for (std::size_t i = 0; i < layers * keep - sum; ++i) ++budgets[by_loss[i]];
  if (budgets.back() == 0)
    detail::invalid("the last of ", layers, " layers would keep nothing with beta ", settings.beta,
                    "; keep more than ", keep, " or choose a smaller beta");
  return budgets;
}

/// The capacity of a pot with these budgets that has as many rows in all as one of `capacity` without, which
/// keeps their average; so both read as much between two distillations. Throws std::invalid_argument if there
/// are no budgets.
inline std::size_t capacity_with(std::span<const std::size_t> budgets, std::size_t capacity) {
  if (budgets.empty()) detail::invalid("there are no budgets");
  const std::size_t sum = std::accumulate(budgets.begin(), budgets.end(), std::size_t{0});
  return capacity + *std::max_element(budgets.begin(), budgets.end()) - sum / budgets.size();
}

}  // namespace infinipot
