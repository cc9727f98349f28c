// States of layers that do not keep the context: recurrent ones and convolutions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "matrix.hpp"

namespace models {

/// What a layer knows of the stream so far. A distillation does not change it, and a probe leaves no trace.
template <class State>
class StreamState {
 public:
  /// `empty` is that of a stream's beginning.
  explicit StreamState(State empty) : empty_(empty), state_(std::move(empty)) {}

  /// Before a pass.
  State before(const Pass& pass) const {
    if (pass.stream == 0) return empty_;
    if (pass.stream != end_)
      throw std::logic_error("the state is that of position " + std::to_string(end_) +
                             " of the stream, not of " + std::to_string(pass.stream));
    return state_;
  }

  /// After it.
  void after(const Pass& pass, State state) {
    if (pass.probe) return;
    state_ = std::move(state);
    end_ = pass.stream + pass.tokens.size();
  }

 private:
  State empty_, state_;
  std::uint64_t end_ = 0;
};

/// A convolution over time, a channel at a time: the token and the kernel - 1 before it.
class CausalConvolution {
 public:
  /// (channels, kernel) weights, the token's own last.
  explicit CausalConvolution(Matrix weights) : weights_(std::move(weights)) {}

  /// The tokens before a stream's first: (kernel - 1, channels) of nothing.
  Matrix nothing() const { return {weights_.columns - 1, weights_.rows}; }

  /// (tokens, channels). `past` are the kernel - 1 rows before them, and afterwards those before what
  /// follows.
  Matrix operator()(Matrix& past, const Matrix& x) const {
    Matrix all(past.rows + x.rows, x.columns);
    all.values = past.values;
    all.values.insert(all.values.end(), x.values.begin(), x.values.end());
    Matrix y(x.rows, x.columns);
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t k = 0; k < x.columns; ++k)
        for (std::size_t j = 0; j < weights_.columns; ++j)
          y.row(i)[k] += weights_.row(k)[j] * all.row(i + j)[k];
    past.values.assign(all.values.end() - static_cast<std::ptrdiff_t>(past.values.size()), all.values.end());
    return y;
  }

 private:
  Matrix weights_;
};

}  // namespace models
