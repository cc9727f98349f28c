// Cosines and sines of the positions of a batch of tokens, however far into a text.
#pragma once

#include <cmath>
#include <cstddef>
#include <utility>

#include "infinipot/rope.hpp"
#include "matrix.hpp"

namespace smollm2 {

/// What infinipot::AngleTable is for positions from 0 on, for some that follow one another: the same bits,
/// but times the attention factor, so that what they turn is what attention multiplies. Allocates in the
/// constructor only.
class BatchAngles {
 public:
  BatchAngles(infinipot::Rope rope, std::size_t max_batch)
      : rope_(std::move(rope)), angles_(max_batch, rope_.rotary_dim()) {}

  /// Makes row `row` that of `position`. Different rows may be set from different threads at once.
  void set(std::size_t row, std::size_t position) noexcept {
    float* const cos = angles_.row(row);
    for (std::size_t pair = 0; pair < pairs(); ++pair) {
      const double angle = static_cast<double>(position) * rope_.frequencies[pair];
      cos[pair] = static_cast<float>(rope_.attention_factor * std::cos(angle));
      cos[pairs() + pair] = static_cast<float>(rope_.attention_factor * std::sin(angle));
    }
  }

  infinipot::Angles operator[](std::size_t row) noexcept {
    const float* const cos = angles_.row(row);
    return {cos, cos + pairs(), pairs()};
  }

 private:
  std::size_t pairs() const noexcept { return rope_.frequencies.size(); }

  infinipot::Rope rope_;
  Matrix angles_;  // (max_batch, cosines and sines of all pairs)
};

}  // namespace smollm2
