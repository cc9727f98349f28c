// What a toy model remembers beside the keys and values of the store: a layer with a sliding window, which
// goes on at the stream's positions, and a recurrent state.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "toy_model.hpp"

namespace toy {

/// Mistakes that a test asks for.
struct OutsideQuirks {
  bool store_positions = false;  // the window goes by the store's positions, not the stream's
  bool keeps_probes = false;     // the recurrent state is not put back after a probe
};

/// The memory of one stream. The window's rows are kept by position, so that a stream may go back; the
/// recurrent state is only the latest, so that it cannot.
class OutsideMemory {
 public:
  explicit OutsideMemory(const Model& model)
      : settings_(model.outside),
        window_shape_{.layers = 1, .query_heads = model.shape.query_heads, .kv_heads = 1, .head_dim = 8},
        weights_(900, window_shape_, 8, Model::width) {}

  /// A call of forward() begins.
  void begin(std::uint64_t position, std::uint64_t stream_position, bool probe) {
    window_position_ = quirks.store_positions ? position : stream_position;
    while (!rows_.empty() && rows_.back().position >= window_position_) rows_.pop_back();
    if (stream_position == 0) {
      state_.fill(0);
      reached_ = 0;
    }
    if (settings_.recurrence != 0 && stream_position < reached_)
      throw std::logic_error("the recurrent state cannot go back");
    before_ = state_;
    reached_before_ = reached_;
    reached_ = stream_position;
    probe_ = probe;
  }

  /// A call is over, or has thrown.
  void end(bool thrown) noexcept {
    if (!thrown && !probe_) return;
    reached_ = reached_before_;
    if (thrown || !quirks.keeps_probes) state_ = before_;
  }

  /// Adds what comes of it to a token's vector (width); `normed` is that vector at length 1.
  void run(std::span<float> x, const float* normed) {
    if (settings_.window > 0) attend(x, normed);
    if (settings_.recurrence != 0)
      for (std::size_t k = 0; k < x.size(); ++k) {
        state_[k] = 0.5F * state_[k] + normed[k];
        x[k] += settings_.recurrence * state_[k];
      }
    ++window_position_;
    ++reached_;
  }

  OutsideQuirks quirks;

 private:
  static constexpr std::size_t d = 8;

  struct Row {
    std::uint64_t position = 0;
    std::array<float, d> key = {}, value = {};
  };

  static float dot(std::span<const float> a, const float* b) {
    float sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }

  /// A row of a matrix times x, turned for a position.
  std::array<float, d> turned(const Matrix& matrix, std::size_t head, const float* x) const {
    std::array<float, d> row;
    for (std::size_t k = 0; k < d; ++k) row[k] = dot(matrix.row(head * d + k), x);
    infinipot::detail::turn(rope_, static_cast<double>(window_position_), 1, row.data());
    return row;
  }

  void attend(std::span<float> x, const float* normed) {
    Row own{.position = window_position_, .key = turned(weights_.key, 0, normed)};
    for (std::size_t k = 0; k < d; ++k) own.value[k] = dot(weights_.value.row(k), normed);
    rows_.push_back(own);
    std::vector<float> mixed;
    for (std::size_t head = 0; head < window_shape_.query_heads; ++head) {
      const auto query = turned(weights_.query, head, normed);
      std::array<float, d> sum = {};
      float total = settings_.sinks.empty() ? 0 : std::exp(settings_.sinks[head]);
      for (const Row& row : rows_) {
        if (row.position + settings_.window <= window_position_) continue;
        const float paid = std::exp(dot(query, row.key.data()) / std::sqrt(static_cast<float>(d)));
        total += paid;
        for (std::size_t k = 0; k < d; ++k) sum[k] += paid * row.value[k];
      }
      for (const float part : sum) mixed.push_back(part / total);
    }
    for (std::size_t k = 0; k < x.size(); ++k) x[k] += dot(weights_.output.row(k), mixed.data());
  }

  Outside settings_;
  Shape window_shape_;
  Layer weights_;
  Rope rope_ = infinipot::plain_rope(d, 50);
  std::vector<Row> rows_;
  std::uint64_t window_position_ = 0;  // of the next token
  std::array<float, Model::width> state_ = {}, before_ = {};
  std::uint64_t reached_ = 0, reached_before_ = 0;  // by the state
  bool probe_ = false;
};

}  // namespace toy
