// Logits of a call, and how far they are from others.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "infinipot/concepts.hpp"

namespace smollm2::test {

/// Keeps the logits of the rows from `first_row` on; those of others stay empty.
class KeptLogits final : public infinipot::LogitsSink {
 public:
  explicit KeptLogits(std::size_t tokens, std::size_t first_row = 0) : LogitsSink(first_row), rows(tokens) {}
  void row(std::size_t row, std::span<const float> logits) noexcept override {
    rows[row].assign(logits.begin(), logits.end());
  }
  std::vector<std::vector<float>> rows;
};

/// Infinite if they are not of the same size.
template <class A, class B>
double largest_error(const std::vector<A>& a, const std::vector<B>& b) {
  double error = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t row = 0; row < std::min(a.size(), b.size()); ++row)
    for (std::size_t i = 0; i < a[row].size(); ++i)
      error = std::max(error, std::abs(static_cast<double>(a[row][i]) - static_cast<double>(b[row].at(i))));
  return error;
}

}  // namespace smollm2::test
