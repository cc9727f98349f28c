// log(sum(exp(logits))), the denominator of a softmax, at once or in parts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>

#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {

/// Logits per step: four packets, whose exponentials hide one another's latency.
inline constexpr std::size_t exp_step = 4 * packet_size;

/// The largest of n >= exp_step logits, at least the lowest float (which is 0 below itself, unlike -inf); any
/// if there is a NaN. Ignores what is beyond whole steps.
inline float largest_logit(const float* x, std::size_t n) noexcept {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  float tops[exp_step];
  std::fill(std::begin(tops), std::end(tops), lowest);
  for (std::size_t i = 0; i + exp_step <= n; i += exp_step) raise(tops, x + i);
  const float top = largest(tops);
  return is_minus_infinity(top) ? lowest
                                : top;  // where -inf is said not to be, it may replace the lowest float
}

/// The sum of exp(x - shift), and how far the largest x is above the shift. Above 88 the sum is invalid.
struct ShiftedSum {
  float sum;
  float excess;  // at least 0; NaN may be ignored
};

/// Whether one of n logits spoils a softmax.
inline bool is_spoilt(const float* x, std::size_t n) noexcept {
  const std::size_t whole = n / packet_size * packet_size;
  return (may_be_spoilt(x, whole) && std::any_of(x, x + whole, spoils)) ||
         std::any_of(x + whole, x + n, spoils);
}

/// `rest` holds the logits beyond whole steps, padded with -inf. Not inline: inlined, it was slower by a
/// third.
[[gnu::noinline]] inline ShiftedSum shifted_sum(const float* x, std::size_t n, const float (&rest)[exp_step],
                                                float shift) noexcept {
  if constexpr (finite_math_only)  // else NaN reaches the sum
    if (is_spoilt(x, n)) return {quiet_nan<float>(), 0};
  constexpr std::size_t ahead = 4096;  // logits: far enough for memory to answer in time
  Packet sums[4], tops[4];
  for (Packet& sum : sums) sum = broadcast(0);
  for (Packet& top : tops) top = broadcast(0);
  const Packet shifts = broadcast(shift);
  const auto add_packet = [&](std::size_t p, const float* from) {
    const Packet distance = subtract(load(from), shifts);
    tops[p] = larger(tops[p], distance);
    sums[p] = add_exp(sums[p], distance);
  };
  std::size_t i = 0;
  for (; i + exp_step <= n; i += exp_step)
    for (std::size_t p = 0; p < 4; ++p) {
      const float* const from = x + i + p * packet_size;
      prefetch(from + ahead);
      add_packet(p, from);
    }
  if (i < n)
    for (std::size_t p = 0; p < 4; ++p) add_packet(p, rest + p * packet_size);

  float highest[exp_step];
  for (std::size_t p = 0; p < 4; ++p) store(highest + p * packet_size, tops[p]);
  return {sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))), largest(highest)};
}

struct BlockSum {
  float shift;  // at most 16 below the largest value
  float sum;    // of exp(value - shift), NaN if a value is NaN or +inf
};

/// Reads the block once, relative to the largest of its first logits. If a later one is far above those,
/// which is rare, reads it again, relative to the largest of all.
inline BlockSum exp_sum(const float* x, std::size_t n) noexcept {
  constexpr float most = 16;  // keeps the distance, and with it the error of exp, small
  float rest[exp_step];
  const std::size_t whole = n / exp_step * exp_step;
  if (whole < n) std::fill(std::copy(x + whole, x + n, rest), std::end(rest), minus_infinity());
  const float guess = largest_logit(whole > 0 ? x : rest, exp_step);
  const ShiftedSum sum = shifted_sum(x, n, rest, guess);
  if (sum.excess <= most) return {guess, sum.sum};
  const float top = (std::max)(largest_logit(x, n), whole < n ? largest_logit(rest, exp_step) : guess);
  return {top, shifted_sum(x, n, rest, top).sum};
}

}  // namespace detail

/// log(sum(exp(logits))) of logits that come in parts, in one pass and without overflow. -inf is an
/// impossible token.
class LogSumExp {
 public:
  /// Logits summed in float before their sum joins the others in double. Parts that begin at multiples of it
  /// and are no longer, each summed alone and then added in order, give the same bits as one call for all
  /// logits: threads can share the work.
  static constexpr std::size_t block = 2048;

  /// Adds the next logits.
  void add(std::span<const float> logits) noexcept {
    for (std::size_t i = 0; i < logits.size(); i += block) {
      const auto part = detail::exp_sum(logits.data() + i, (std::min)(block, logits.size() - i));
      add(static_cast<double>(part.shift), static_cast<double>(part.sum));
    }
  }

  /// Adds another's sum.
  void add(const LogSumExp& other) noexcept { add(other.shift_, other.sum_); }

  /// nats. NaN if a logit is NaN or +inf, or if none is above -inf.
  double value() const noexcept {
    return detail::is_nan(sum_) || sum_ <= 0 ? detail::quiet_nan<double>() : shift_ + std::log(sum_);
  }

 private:
  void add(double shift, double sum) noexcept {
    if (shift > shift_) {
      sum_ = sum_ * std::exp(shift_ - shift) + sum;
      shift_ = shift;
    } else {
      sum_ += sum * std::exp(shift - shift_);
    }
  }

  double shift_ = static_cast<double>(std::numeric_limits<float>::lowest());
  double sum_ = 0;  // of exp(logit - shift_)
};

/// log(sum(exp(logits))), nats. NaN if a logit is NaN or +inf, or if none is above -inf.
inline double log_sum_exp(std::span<const float> logits) noexcept {
  LogSumExp sum;
  sum.add(logits);
  return sum.value();
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
