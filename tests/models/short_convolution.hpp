// LFM2's layers without attention: a short convolution between two gates.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "block.hpp"
#include "golden_model.hpp"
#include "matrix.hpp"
#include "state.hpp"

namespace models {

class ShortConvolution final : public Block {
 public:
  ShortConvolution(const GoldenModel& model, const std::string& name)
      : width_(model.size("hidden_size")),
        first_gate_(model.linear(name + ".in_proj").part(0, width_)),
        second_gate_(model.linear(name + ".in_proj").part(width_, width_)),
        in_(model.linear(name + ".in_proj").part(2 * width_, width_)),
        out_(model.linear(name + ".out_proj")),
        convolution_({width_, model.size("conv_L_cache"), model.numbers(name + ".conv.weight")}),
        state_(convolution_.nothing()) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    Matrix past = state_.before(pass);
    const Matrix y = convolution_(past, product(first_gate_(x), in_(x)));
    state_.after(pass, std::move(past));
    return out_(product(second_gate_(x), y));
  }

 private:
  static Matrix product(const Matrix& a, Matrix b) {
    for (std::size_t i = 0; i < b.values.size(); ++i) b.values[i] *= a.values[i];
    return b;
  }

  std::size_t width_;
  Linear first_gate_, second_gate_, in_, out_;
  CausalConvolution convolution_;
  StreamState<Matrix> state_;
};

}  // namespace models
