// Expected Attention (arXiv 2510.00636): what future queries will pay, if they are like those so far.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/query_moments.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

class ExpectedAttention;

/// The defaults are those of kvpress.
struct ExpectedAttentionSettings {
  using policy = ExpectedAttention;

  Rope rope;                 ///< the model's
  std::size_t future = 512;  ///< positions after the pot over which the rotation is averaged; at least 1
  /// First tokens that attract attention whatever they say: neither their queries nor their keys count, and
  /// no entry's score is above theirs.
  std::size_t sinks = 4;
  double epsilon = 0;  ///< added to the attention before |value| comes in; finite, at least 0
  /// AttentionForm::sinks of all layers, (layers, query_heads), finite or -inf; empty: the model has none.
  std::vector<float> learned_sinks = {};
  std::vector<std::size_t> layers_without_rope = {};  ///< as PotSettings::layers_without_rope
};

/// Attention under Gaussian queries, in closed form. With mu and Sigma the mean and covariance of a head's
/// queries before RoPE, and R the rotation averaged over the next `future` positions of the pot:
///
///     score = (mean over the group's query heads of softmax(k.R mu / sqrt(d) + k'R Sigma R'k / (2 d))
///              + epsilon) * |value|
///
/// The softmax is over all entries but the first `sinks`, and over the head's learned sink. Queries are all
/// those since the reader was made or given this policy; the paper and kvpress take a prompt's. Before the
/// first, attention is uniform. A query that is not finite does not count; such a key spoils only its own
/// score.
///
/// Needs queries, keys and values. The scale is 1 / sqrt(d); an engine's soft caps and biases are not in the
/// formula.
class ExpectedAttention {
 public:
  static constexpr bool reads_values = true;

  /// Throws std::invalid_argument for a future of 0 and an epsilon out of range. begin() checks whether the
  /// rope fits.
  ExpectedAttention(ExpectedAttentionSettings settings) : settings_(std::move(settings)) {
    if (settings_.future == 0) detail::invalid("expected_attention future 0 must be at least 1");
    if (!detail::is_finite(settings_.epsilon) || settings_.epsilon < 0)
      detail::invalid("expected_attention epsilon ", settings_.epsilon, " must be finite and at least 0");
  }

  std::string_view name() const noexcept { return "expected_attention"; }

  /// Throws std::invalid_argument for a rope, layers or learned sinks that do not fit the shape.
  void begin(const Shape& shape, std::size_t capacity, std::size_t chunk) {
    check_learned_sinks(shape);
    moments_ = QueryMoments(shape, settings_.rope, capacity, chunk, (std::min)(settings_.sinks, capacity),
                            settings_.layers_without_rope);
    group_ = shape.group();
    query_heads_ = shape.query_heads;
    average_ = averages(settings_.rope, settings_.future);
  }

  void observe(std::size_t layer, std::size_t first, const Queries& queries) noexcept {
    moments_.stage(layer, first, queries);
  }
  void drop() noexcept { moments_.drop(); }
  void commit(std::size_t layer, std::size_t kv_head) noexcept { moments_.commit(layer, kv_head); }
  void forget() noexcept { moments_.clear(); }
  std::vector<std::byte> memory() const { return moments_.memory(); }
  void recall(std::span<const std::byte> bytes) { moments_.recall(bytes); }

  std::size_t scratch(const Shape& shape, std::size_t capacity) const noexcept {
    return (shape.head_dim + 3) * shape.head_dim + settings_.rope.rotary_dim() + capacity;
  }

  void score_entries(const EntryRows& rows, std::span<float> scores) const noexcept {
    const std::size_t sinks = (std::min)(settings_.sinks, rows.size());
    std::fill(scores.begin(), scores.end(), 0.0F);
    for (std::size_t head = 0; head < group_; ++head) {
      const std::span<float> logits = attention_logits(rows, head).subspan(sinks);
      add_softmax(logits, learned_sink(rows, head), 1 / static_cast<float>(group_), scores.subspan(sinks));
    }
    const auto epsilon = static_cast<float>(settings_.epsilon);
    const auto v = static_cast<Eigen::Index>(rows.value_channels());
    rows.for_each_value([&](std::size_t t, const float* value) {
      scores[t] = (scores[t] + epsilon) * Eigen::Map<const Eigen::VectorXf>(value, v).norm();
    });
    float largest = 0;
    for (const float& score : scores.subspan(sinks))
      if (!detail::is_nan(score) && score > largest) largest = score;
    std::fill_n(scores.begin(), sinks, largest);  // the lower index wins
  }

 private:
  /// Per pair, the mean of exp(i * frequency * p) over positions 0 .. future - 1.
  static std::vector<std::complex<double>> averages(const Rope& rope, std::size_t future) {
    std::vector<std::complex<double>> means;
    for (const double frequency : rope.frequencies) {
      std::complex<double> sum = 0;
      for (std::size_t p = 0; p < future; ++p) sum += std::polar(1.0, frequency * static_cast<double>(p));
      means.push_back(sum / static_cast<double>(future));
    }
    return means;
  }

  /// The rotation averaged over positions from .. from + future - 1. It shrinks pairs as it turns them.
  Angles averaged(std::size_t from, std::span<float> memory) const noexcept {
    const std::size_t pairs = average_.size();
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = settings_.rope.frequencies[i] * static_cast<double>(from);
      const std::complex<double> turn = average_[i] * std::polar(1.0, angle);
      memory[i] = static_cast<float>(turn.real());
      memory[pairs + i] = static_cast<float>(turn.imag());
    }
    return {memory.data(), memory.data() + pairs, pairs, settings_.rope.first_channel};
  }

  /// The logarithm of what query head `head` of the group is expected to pay each entry, up to a constant.
  /// Turns keys back, not mean and covariance forward: R'k needs no matrix product.
  std::span<float> attention_logits(const EntryRows& rows, std::size_t head) const noexcept {
    const std::size_t d = rows.head_dim(), pairs = average_.size();
    const auto n = static_cast<Eigen::Index>(d);
    std::span<float> rest = rows.scratch();
    const auto take = [&](std::size_t count) {
      const auto taken = rest.first(count);
      rest = rest.subspan(count);
      return taken;
    };
    const auto covariance = take(d * d), mean = take(d), key = take(d), product = take(d);
    const bool turns =
        std::ranges::find(settings_.layers_without_rope, rows.layer()) == settings_.layers_without_rope.end();
    const std::span<float> angles = take(2 * pairs);
    const Angles turn = turns ? averaged(rows.size(), angles) : Angles{};
    const std::span<float> logits = rest.first(rows.size());

    moments_.read(rows.layer(), rows.kv_head() * group_ + head, mean, covariance);
    const auto scale = 1 / std::sqrt(static_cast<float>(d));
    const Eigen::Map<const Eigen::MatrixXf> sigma(covariance.data(), n, n);
    const Eigen::Map<const Eigen::VectorXf> mu(mean.data(), n), k(key.data(), n);
    Eigen::Map<Eigen::VectorXf> sigma_k(product.data(), n);
    rows.for_each_key([&](std::size_t t, const float* rotated) {
      rotate(rotated, turn, settings_.rope.pairing, Turn::backward, d, key.data());
      sigma_k.noalias() = sigma * k;
      logits[t] = scale * (k.dot(mu) + scale / 2 * k.dot(sigma_k));
    });
    return logits;
  }

  void check_learned_sinks(const Shape& shape) const {
    const std::vector<float>& sinks = settings_.learned_sinks;
    if (!sinks.empty() && sinks.size() != shape.layers * shape.query_heads)
      detail::invalid("expected_attention has ", sinks.size(), " learned sinks; a model of ", shape.layers,
                      " layers and ", shape.query_heads, " query heads has ",
                      shape.layers * shape.query_heads, ", or none");
    for (const float& sink : sinks)
      if (detail::spoils(sink))
        detail::invalid("expected_attention learned sink ", &sink - sinks.data(), " is ", sink,
                        "; it must be finite, or -infinity for none");
  }

  /// That of query head `head` of the group; the lowest float for none.
  float learned_sink(const EntryRows& rows, std::size_t head) const noexcept {
    constexpr float none = std::numeric_limits<float>::lowest();
    if (settings_.learned_sinks.empty()) return none;
    const float& sink = settings_.learned_sinks[rows.layer() * query_heads_ + rows.kv_head() * group_ + head];
    return detail::is_finite(sink) ? sink : none;
  }

  /// Adds a share of the softmax over the logits and a sink. A logit that is not finite becomes NaN, to be
  /// reported, and takes no part.
  static void add_softmax(std::span<float> logits, float sink, float share,
                          std::span<float> scores) noexcept {
    float top = sink;
    for (const float& logit : logits)
      if (detail::is_finite(logit)) top = (std::max)(top, logit);
    double sum = sink > std::numeric_limits<float>::lowest()
                     ? std::exp(static_cast<double>(sink) - static_cast<double>(top))
                     : 0;
    for (float& logit : logits) {
      if (detail::is_finite(logit))
        sum += static_cast<double>(logit = std::exp(logit - top));
      else
        logit = detail::quiet_nan<float>();
    }
    const auto factor = static_cast<float>(static_cast<double>(share) / sum);
    for (std::size_t t = 0; t < logits.size(); ++t) scores[t] += factor * logits[t];
  }

  ExpectedAttentionSettings settings_;
  std::size_t group_ = 1, query_heads_ = 1;
  std::vector<std::complex<double>> average_;  // (rotary_dim / 2)
  QueryMoments moments_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
