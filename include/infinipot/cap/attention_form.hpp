// What an engine does between q.k and the softmax, and in it, so that CaP sees the same attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Adds a bias to the attention logits of one query.
class AttentionBias {
 public:
  /// Adds to logits[t] the bias between query head `query_head` at position `query` and the entry at position
  /// t, for all t < logits.size(), query included. -inf hides an entry.
  virtual void add(std::size_t query_head, std::size_t query, std::span<float> logits) const noexcept = 0;

 protected:
  AttentionBias() = default;
  AttentionBias(const AttentionBias&) = default;
  AttentionBias& operator=(const AttentionBias&) = default;
  ~AttentionBias() = default;
};

/// softmax(soft_cap(scale * q.k) + bias), where soft_cap(x) = cap * tanh(x / cap). A learned sink is one more
/// logit in the softmax, as it is, that stands for no entry: what it takes, no entry receives.
struct AttentionForm {
  float scale = 0;                      ///< 0 means 1 / sqrt(head_dim)
  float soft_cap = 0;                   ///< 0 means none (Gemma 2: 50)
  const AttentionBias* bias = nullptr;  ///< null means none
  /// The learned sinks (gpt-oss) of this layer, (query_heads); empty: none. -inf is none for that head; NaN
  /// and +inf make everything that its queries pay NaN. Must outlive the form's use.
  std::span<const float> sinks = {};

  float scale_for(std::size_t head_dim) const noexcept {
    return scale != 0 ? scale : 1 / std::sqrt(static_cast<float>(head_dim));
  }
};

/// Sliding window: a query sees itself and the window - 1 entries before it (Mistral, Gemma).
class SlidingWindow final : public AttentionBias {
 public:
  /// Throws std::invalid_argument for a window of 0.
  explicit SlidingWindow(std::size_t window) : window_(window) {
    if (window == 0) detail::invalid("sliding window 0 must be at least 1");
  }

  void add(std::size_t /*query_head*/, std::size_t query, std::span<float> logits) const noexcept override {
    if (query < window_) return;
    std::fill_n(logits.begin(), (std::min)(logits.size(), query + 1 - window_), detail::minus_infinity());
  }

 private:
  std::size_t window_;
};

/// ALiBi (arXiv 2108.12409): -slope[head] * distance.
class Alibi final : public AttentionBias {
 public:
  /// One slope per query head; the span must outlive this.
  explicit Alibi(std::span<const float> slopes) noexcept : slopes_(slopes) {}

  void add(std::size_t query_head, std::size_t query, std::span<float> logits) const noexcept override {
    for (std::size_t t = 0; t < logits.size(); ++t)
      logits[t] -= slopes_[query_head] * (static_cast<float>(query) - static_cast<float>(t));
  }

 private:
  std::span<const float> slopes_;
};

namespace detail {

/// What an engine says that it does in a layer; plain attention if it says nothing.
template <class Engine>
AttentionForm form_of(Engine& engine, std::size_t layer) {
  if constexpr (requires { AttentionForm(engine.attention_form(layer)); })
    return engine.attention_form(layer);
  else
    return {};
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
