// NuC, Novelty under Compression (paper section 3): a token's cross-entropy given what the pot held.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/nuc/log_sum_exp.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// -log p of the token with this logit, nats, from log_sum_exp over the vocabulary.
inline float nuc(double log_sum_exp, float logit) noexcept {
  const double nats = log_sum_exp - static_cast<double>(logit);
  if (detail::is_nan(nats)) return detail::quiet_nan<float>();
  return nats < 0 ? 0.0F : static_cast<float>(nats);  // the sum may round below its largest part
}

/// -log softmax(logits)[token], nats, >= 0; +inf for a token whose logit is -inf; NaN where log_sum_exp is.
/// Precondition: 0 <= token < logits.size().
inline float nuc(std::span<const float> logits, Token token) noexcept {
  return nuc(log_sum_exp(logits), logits[static_cast<std::size_t>(token)]);
}

/// NuC of a stream that arrives in chunks: the last logits of a chunk score the first token of the next. A
/// chunk counts only once committed, so a forward pass that throws leaves no trace.
class NucTracker {
 public:
  /// Throws std::invalid_argument if the vocabulary is empty.
  explicit NucTracker(std::size_t vocab_size) : last_(vocab_size), next_(vocab_size) {
    if (vocab_size == 0) detail::invalid("vocab_size is 0; it must be at least 1");
  }

  std::size_t vocab_size() const noexcept { return last_.size(); }

  /// False until a chunk is committed.
  bool has_logits() const noexcept { return has_logits_; }

  /// (vocab_size) the model's prediction of what follows the last committed chunk.
  std::span<const float> logits() const noexcept { return last_; }

  /// NuC of the token that follows the last committed chunk; 0 for the first of a stream.
  float score(Token token) const noexcept { return has_logits_ ? nuc(last_, token) : 0.0F; }

  /// The logits after the last token of a chunk that may still fail. Precondition: vocab_size() of them.
  void stage(std::span<const float> logits) noexcept {
    std::copy(logits.begin(), logits.end(), next_.begin());
  }

  /// As if the last committed chunk had ended with these logits (vocab_size()), or none had been if they are
  /// empty.
  void restart(std::span<const float> logits) noexcept {
    std::copy(logits.begin(), logits.end(), last_.begin());
    has_logits_ = !logits.empty();
  }

  void commit() noexcept {
    std::swap(last_, next_);
    has_logits_ = true;
  }

 private:
  std::vector<float> last_;  // (vocab_size)
  std::vector<float> next_;  // (vocab_size)
  bool has_logits_ = false;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
