// Feed-forward networks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <numbers>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "golden_model.hpp"
#include "matrix.hpp"

namespace models {

using Activation = double (*)(double);

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }
inline double gelu_tanh(double x) {
  return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

/// down(activation(gate(x)) * up(x))
class GatedFeedForward final : public Block {
 public:
  GatedFeedForward(Linear gate, Linear up, Linear down, Activation activation)
      : gate_(std::move(gate)), up_(std::move(up)), down_(std::move(down)), activation_(activation) {}

  Matrix run(const Pass& /*pass*/, const Matrix& x) override { return (*this)(x); }

  Matrix operator()(const Matrix& x) const {
    const Matrix gate = gate_(x);
    Matrix up = up_(x);
    for (std::size_t i = 0; i < up.values.size(); ++i) up.values[i] *= activation_(gate.values[i]);
    return down_(up);
  }

 private:
  Linear gate_, up_, down_;
  Activation activation_;
};

/// gate_proj, up_proj and down_proj of most models.
inline std::unique_ptr<GatedFeedForward> gated(const GoldenModel& model, const std::string& name,
                                               Activation activation) {
  return std::make_unique<GatedFeedForward>(model.linear(name + ".gate_proj"),
                                            model.linear(name + ".up_proj"),
                                            model.linear(name + ".down_proj"), activation);
}

/// Indices of the `count` largest numbers.
inline std::vector<std::size_t> largest(std::span<const double> numbers, std::size_t count) {
  std::vector<std::size_t> order(numbers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(), [&](std::size_t i) { return numbers[i]; });
  order.resize(count);
  return order;
}

/// gpt-oss: the softmax over the chosen experts alone, gates and ups interleaved and clamped.
class GptOssExperts final : public Block {
 public:
  GptOssExperts(const GoldenModel& model, const std::string& name)
      : router_(model.linear(name + ".router")),
        up_(experts(model, name + ".experts.gate_up_proj")),
        down_(experts(model, name + ".experts.down_proj")),
        chosen_(model.size("num_experts_per_tok")) {}

  Matrix run(const Pass& /*pass*/, const Matrix& x) override {
    const Matrix logits = router_(x);
    Matrix y(x.rows, x.columns);
    for (std::size_t i = 0; i < x.rows; ++i) {
      const auto chosen = largest(logits.row(i), chosen_);
      const Matrix row = as_matrix(x.row(i));
      double sum = 0;
      for (const std::size_t expert : chosen) sum += std::exp(logits.row(i)[expert]);
      for (const std::size_t expert : chosen) {
        const Matrix out = down_[expert](gate(up_[expert](row)));
        for (std::size_t k = 0; k < x.columns; ++k)
          y.row(i)[k] += std::exp(logits.row(i)[expert]) / sum * out.values[k];
      }
    }
    return y;
  }

 private:
  static Matrix as_matrix(std::span<const double> row) {
    return {1, row.size(), Vector(row.begin(), row.end())};
  }

  static Matrix gate(const Matrix& both) {
    constexpr double limit = 7, alpha = 1.702;
    Matrix out(both.rows, both.columns / 2);
    for (std::size_t k = 0; k < out.columns; ++k) {
      const double gate = std::min(both.values[2 * k], limit);
      const double up = std::clamp(both.values[2 * k + 1], -limit, limit);
      out.values[k] = (up + 1) * gate * sigmoid(alpha * gate);
    }
    return out;
  }

  /// (experts, in, out) and (experts, out)
  static std::vector<Linear> experts(const GoldenModel& model, const std::string& name) {
    const std::vector<std::size_t> size = model.at("weights").at(name);
    const Vector weights = model.numbers(name), biases = model.numbers(name + "_bias");
    const std::size_t in = size[1], out = size[2];
    std::vector<Linear> all(size[0], Linear{Matrix(out, in), Vector(out)});
    for (std::size_t expert = 0; expert < all.size(); ++expert)
      for (std::size_t k = 0; k < out; ++k) {
        all[expert].bias[k] = biases[expert * out + k];
        for (std::size_t j = 0; j < in; ++j)
          all[expert].weight.row(k)[j] = weights[(expert * in + j) * out + k];
      }
    return all;
  }

  Linear router_;
  std::vector<Linear> up_, down_;
  std::size_t chosen_;
};

}  // namespace models
