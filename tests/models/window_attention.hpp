// Attention over a sliding window, which the engine keeps itself.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "block.hpp"
#include "matrix.hpp"

namespace models {

/// Goes on at the stream's positions, whatever the pot drops, in a ring of window - 1 + the longest call:
/// what a call writes, a probe's too, then overwrites nothing that the next call sees.
class WindowAttention final : public Attention {
 public:
  /// A token sees itself and the window - 1 before it. `longest_call`: tokens.
  WindowAttention(std::size_t window, std::size_t longest_call, Projections projections, Form form)
      : Attention(std::move(projections), std::move(form)),
        window_(window),
        ring_(window - 1 + longest_call) {}

 private:
  /// (kv heads, channels) of one token.
  struct Row {
    std::uint64_t position = ~std::uint64_t{0};
    Matrix keys, values;
  };

  void write(const Pass& pass, std::size_t token, const Matrix& /*projected*/, const Matrix& turned,
             const Matrix& value) override {
    const std::uint64_t at = pass.stream + token;
    ring_[at % ring_.size()] = {at, turned, value};
  }

  double position(const Pass& pass, std::size_t token) const override {
    return static_cast<double>(pass.stream + token);
  }

  std::pair<Matrix, Matrix> seen(const Pass& pass, std::size_t token, std::size_t kv_head) const override {
    const std::uint64_t last = pass.stream + token,
                        first = last + 1 - std::min<std::uint64_t>(last + 1, window_);
    std::pair<Matrix, Matrix> rows;
    for (std::uint64_t at = first; at <= last; ++at) {
      const Row& row = ring_[at % ring_.size()];
      if (row.position != at)
        throw std::logic_error("the window has lost position " + std::to_string(at) + " of the stream");
      append(row.keys.row(kv_head), rows.first);
      append(row.values.row(kv_head), rows.second);
    }
    return rows;
  }

  static void append(std::span<const double> row, Matrix& to) {
    to.values.insert(to.values.end(), row.begin(), row.end());
    to.columns = row.size();
    ++to.rows;
  }

  std::size_t window_;
  std::vector<Row> ring_;
};

}  // namespace models
