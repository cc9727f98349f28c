// NuC: how new a token was to the model, its cross-entropy given what the pot held (paper section 3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {
namespace detail {

struct BlockSum {
  float top;   // largest value
  double sum;  // of exp(value - top), NaN if a value is
};

inline BlockSum exp_sum(const float* x, std::size_t n) noexcept {
  constexpr float low = std::numeric_limits<float>::lowest();
  float tops[4 * packet_size];
  std::fill(std::begin(tops), std::end(tops), low);
  std::size_t i = 0;
  for (; i + std::size(tops) <= n; i += std::size(tops)) raise(tops, x + i);
  float top = largest(tops);
  for (; i < n; ++i) top = std::max(top, x[i]);

  Packet sums = broadcast(0);
  const Packet shift = broadcast(top);
  for (i = 0; i + packet_size <= n; i += packet_size) {
    prefetch(x + n + i);  // of the next block, whose maximum would otherwise wait for memory
    sums = add(sums, exp_nonpositive(subtract(load(x + i), shift)));
  }
  double total = static_cast<double>(sum(sums));
  for (; i < n; ++i) total += std::exp(static_cast<double>(x[i]) - static_cast<double>(top));
  return {top, total};
}

}  // namespace detail

/// log(sum(exp(logits))), nats, in one pass over memory and without overflow. -inf is a token that cannot
/// come. NaN if a logit is NaN or +inf, or if none is above -inf.
inline double log_sum_exp(std::span<const float> logits) noexcept {
  constexpr std::size_t block = 4096;  // is summed while it is in the first-level cache
  double top = static_cast<double>(std::numeric_limits<float>::lowest()), sum = 0;
  for (std::size_t i = 0; i < logits.size(); i += block) {
    const auto part = detail::exp_sum(logits.data() + i, std::min(block, logits.size() - i));
    const auto part_top = static_cast<double>(part.top);
    if (part_top > top) {
      sum *= std::exp(top - part_top);
      top = part_top;
    }
    sum += part.sum * std::exp(part_top - top);
  }
  return sum > 0 ? top + std::log(sum) : std::numeric_limits<double>::quiet_NaN();
}

/// -log softmax(logits)[token], nats, >= 0; +inf for a token whose logit is -inf; NaN where log_sum_exp is.
/// Precondition: 0 <= token < logits.size().
inline float nuc(std::span<const float> logits, Token token) noexcept {
  // Never below 0, even rounded: the largest logit alone adds exp(0) = 1 to the sum.
  return static_cast<float>(log_sum_exp(logits) -
                            static_cast<double>(logits[static_cast<std::size_t>(token)]));
}

/// NuC of a stream that arrives in chunks: the last logits of a chunk score the first token of the next.
/// A chunk counts only when it is committed, so that a forward pass that throws leaves no trace.
class NucTracker {
 public:
  /// Throws std::invalid_argument if the vocabulary is empty.
  explicit NucTracker(std::size_t vocab_size) : last_(vocab_size), next_(vocab_size) {
    if (vocab_size == 0) detail::invalid("vocab_size is 0; it must be at least 1");
  }

  std::size_t vocab_size() const noexcept { return last_.size(); }

  /// False until a chunk was committed.
  bool has_logits() const noexcept { return has_logits_; }

  /// (vocab_size) the model's prediction of what follows the last committed chunk.
  std::span<const float> logits() const noexcept { return last_; }

  /// NuC of the token that follows the last committed chunk; 0 for the first of a stream.
  float score(Token token) const noexcept { return has_logits_ ? nuc(last_, token) : 0.0F; }

  /// The logits after the last token of a chunk that may still fail. Precondition: vocab_size() of them.
  void stage(std::span<const float> logits) noexcept {
    std::copy(logits.begin(), logits.end(), next_.begin());
  }

  /// As if the last committed chunk had ended with these logits (vocab_size()); as if there had been none
  /// where they are empty.
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

}  // namespace infinipot
