// Qwen3-Next's layers without attention: gated delta net (arXiv 2412.06464).
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "feed_forward.hpp"
#include "golden_model.hpp"
#include "matrix.hpp"
#include "norm.hpp"
#include "state.hpp"

namespace models {

class GatedDeltaNet final : public Block {
 public:
  GatedDeltaNet(const GoldenModel& model, const std::string& name)
      : key_heads_(model.size("linear_num_key_heads")),
        value_heads_(model.size("linear_num_value_heads")),
        key_dim_(model.size("linear_key_head_dim")),
        value_dim_(model.size("linear_value_head_dim")),
        in_(model.linear(name + ".in_proj_qkvz")),
        gates_(model.linear(name + ".in_proj_ba")),
        out_(model.linear(name + ".out_proj")),
        convolution_({2 * key_heads_ * key_dim_ + value_heads_ * value_dim_,
                      model.size("linear_conv_kernel_dim"), model.numbers(name + ".conv1d.weight")}),
        decay_(model.numbers(name + ".A_log")),
        step_(model.numbers(name + ".dt_bias")),
        norm_(model, name + ".norm", model.number("rms_norm_eps")),
        state_({convolution_.nothing(), std::vector<Matrix>(value_heads_, Matrix(key_dim_, value_dim_))}) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    State state = state_.before(pass);
    const Matrix all = in_(x), gates = gates_(x);
    Matrix mixed = convolution_(state.past, queries_keys_values(all));
    for (double& number : mixed.values) number = silu(number);
    Matrix y(x.rows, value_heads_ * value_dim_);
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t head = 0; head < value_heads_; ++head) {
        const auto out = y.row(i).subspan(head * value_dim_, value_dim_);
        read(mixed.row(i), gates.row(i), head, state.memories[head], out);
        norm_.apply(out);
        for (std::size_t k = 0; k < value_dim_; ++k) out[k] *= silu(output_gate(all.row(i), head)[k]);
      }
    state_.after(pass, std::move(state));
    return out_(y);
  }

 private:
  struct State {
    Matrix past;                   // of the convolution
    std::vector<Matrix> memories;  // (value heads) of (key_dim, value_dim)
  };

  std::size_t per_key_head() const { return value_heads_ / key_heads_; }

  /// The projection has a part for each key head: query, key, its value heads' values, and their output
  /// gates.
  std::size_t part() const { return 2 * key_dim_ + 2 * per_key_head() * value_dim_; }

  /// All queries, then all keys, then all values.
  Matrix queries_keys_values(const Matrix& all) const {
    const std::size_t keys = key_heads_ * key_dim_, values = per_key_head() * value_dim_;
    Matrix mixed(all.rows, 2 * keys + value_heads_ * value_dim_);
    for (std::size_t i = 0; i < all.rows; ++i)
      for (std::size_t head = 0; head < key_heads_; ++head) {
        const auto from = all.row(i).subspan(head * part(), part());
        const auto to = mixed.row(i);
        for (std::size_t k = 0; k < key_dim_; ++k) {
          to[head * key_dim_ + k] = from[k];
          to[keys + head * key_dim_ + k] = from[key_dim_ + k];
        }
        for (std::size_t k = 0; k < values; ++k) to[2 * keys + head * values + k] = from[2 * key_dim_ + k];
      }
    return mixed;
  }

  std::span<const double> output_gate(std::span<const double> all, std::size_t head) const {
    const std::size_t in_part = (per_key_head() + head % per_key_head()) * value_dim_;
    return all.subspan(head / per_key_head() * part() + 2 * key_dim_ + in_part, value_dim_);
  }

  static Vector unit(std::span<const double> x) {
    const double scale = 1 / std::sqrt(dot(x, x) + 1e-6);
    Vector y(x.begin(), x.end());
    for (double& number : y) number *= scale;
    return y;
  }

  /// The memory decays, learns the token's value for its key, and is read by its query.
  void read(std::span<const double> mixed, std::span<const double> gates, std::size_t head, Matrix& memory,
            std::span<double> out) const {
    const std::size_t keys = key_heads_ * key_dim_, key_head = head / per_key_head();
    const Vector query = unit(mixed.subspan(key_head * key_dim_, key_dim_));
    const Vector key = unit(mixed.subspan(keys + key_head * key_dim_, key_dim_));
    const auto value = mixed.subspan(2 * keys + head * value_dim_, value_dim_);
    const std::size_t gate = key_head * 2 * per_key_head() + head % per_key_head();
    const double learns = sigmoid(gates[gate]);
    const double open = std::log1p(std::exp(gates[gate + per_key_head()] + step_[head]));
    const double stays = std::exp(-std::exp(decay_[head]) * open);
    for (double& number : memory.values) number *= stays;
    const Vector known = recalled(memory, key);
    for (std::size_t k = 0; k < key_dim_; ++k)
      for (std::size_t j = 0; j < value_dim_; ++j)
        memory.row(k)[j] += key[k] * learns * (value[j] - known[j]);
    const Vector all = recalled(memory, query);
    for (std::size_t j = 0; j < value_dim_; ++j) out[j] = all[j] / std::sqrt(static_cast<double>(key_dim_));
  }

  static Vector recalled(const Matrix& memory, std::span<const double> key) {
    Vector value(memory.columns);
    for (std::size_t k = 0; k < memory.rows; ++k)
      for (std::size_t j = 0; j < memory.columns; ++j) value[j] += key[k] * memory.row(k)[j];
    return value;
  }

  std::size_t key_heads_, value_heads_, key_dim_, value_dim_;
  Linear in_, gates_, out_;
  CausalConvolution convolution_;
  Vector decay_, step_;  // (value heads)
  Norm norm_;
  StreamState<State> state_;
};

}  // namespace models
