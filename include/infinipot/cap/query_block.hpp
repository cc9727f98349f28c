// A few queries of a group side by side, and the softmax over their logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The logit of a hidden entry: with it instead of -inf, kernels need no infinities.
inline constexpr float hidden_logit = std::numeric_limits<float>::lowest();

/// Up to `width` queries, with logits (entries, width), taken `step` at a time: those of one entry, or of one
/// query and several entries.
template <std::size_t block_width>
struct QueryBlock {
  static constexpr std::size_t width = block_width;
  static constexpr std::size_t step = (std::max)(width, packet_size);
  static_assert(width == 1 || width == step);

  float* logits = nullptr;  // with room for whole steps
  std::size_t rows = 0;
  std::size_t entries = 0;  // seen by at least one of them
  std::size_t first_hidden = 0;
  std::size_t position[width] = {};
  std::size_t head[width] = {};
  float share[width] = {};  // 1 / sum of the row's exponentials

  bool along_head_dim = false;  // multiplies queries one by one, not side by side
};

/// The largest of each lane's logits, unless one is NaN, and their sum.
template <std::size_t step>
void survey(const float* logits, std::size_t end, float (&tops)[step], float (&totals)[step]) noexcept {
  constexpr std::size_t last = step - packet_size;  // the second packet of a step, if there are two
  Packet top[4], total[4];
  for (std::size_t i = 0; i < 4; ++i) {
    top[i] = broadcast(hidden_logit);
    total[i] = broadcast(0);
  }
  const auto add_step = [&](std::size_t at, std::size_t to) {
    const Packet first = load(logits + at);
    top[to] = larger(top[to], first);
    total[to] = add(total[to], first);
    if constexpr (last > 0) {
      const Packet second = load(logits + at + last);
      top[to + 1] = larger(top[to + 1], second);
      total[to + 1] = add(total[to + 1], second);
    }
  };
  std::size_t i = 0;
  for (; i + 2 * step <= end; i += 2 * step) {  // two at a time hide one another's latency
    add_step(i, 0);
    add_step(i + step, 2);
  }
  if (i < end) add_step(i, 0);
  store(tops, larger(top[0], top[2]));
  store(totals, add(total[0], total[2]));
  if constexpr (last > 0) {
    store(tops + last, larger(top[1], top[3]));
    store(totals + last, add(total[1], total[3]));
  }
}

/// So many addends at a time: partial sums keep the rounding error of thousands small.
inline constexpr std::size_t addends_at_once = 64;

/// Replaces logits 0 .. end - 1 by exp(logit - top) and adds their sum.
template <std::size_t step>
void add_exponentials(float* logits, std::size_t end, const float (&tops)[step],
                      float (&sums)[step]) noexcept {
  // The first and the last packet of a step, perhaps the same one.
  constexpr std::size_t last = step - packet_size;
  const Packet top0 = load(tops), top1 = load(tops + last);
  Packet part0 = broadcast(0), part1 = part0;
  for (std::size_t i = 0; i < end; i += step, logits += step) {
    const Packet e0 = exp_to_88(subtract(load(logits), top0));
    part0 = add(part0, e0);
    if constexpr (last > 0) {
      const Packet e1 = exp_to_88(subtract(load(logits + last), top1));
      part1 = add(part1, e1);
      store(logits + last, e1);
    }
    store(logits, e0);
  }
  store(sums, add(load(sums), part0));
  if constexpr (last > 0) store(sums + last, add(load(sums + last), part1));
}

/// Replaces the logits of query w that spoil its softmax by the largest of the others, for spread_nan() to
/// find, and says whether there are any. Padding of the block (0 * infinity) has them too.
template <std::size_t width, std::size_t step>
[[gnu::cold, gnu::noinline]] bool replace_nan(const QueryBlock<width>& block, std::size_t w,
                                              float (&tops)[step]) noexcept {
  float top = hidden_logit;
  bool found = false;
  for (std::size_t t = 0; t < block.entries; ++t) {
    const float& logit = block.logits[t * width + w];
    if (spoils(logit))
      found = true;
    else if (!is_minus_infinity(logit) && logit > top)
      top = logit;
  }
  if (!found) return false;
  if (top == hidden_logit) top = 0;
  for (std::size_t t = 0; t < block.entries; ++t)
    if (float& logit = block.logits[t * width + w]; spoils(logit)) logit = top;
  std::fill_n(tops + w, width < step ? step : 1, top);
  return true;
}

/// A query with such a logit pays NaN where it would have paid anything, and nothing elsewhere: entries
/// hidden from it stay sound. (Its share stays 0, and 0 * NaN is NaN.)
template <std::size_t width>
[[gnu::cold, gnu::noinline]] void spread_nan(const QueryBlock<width>& block, std::size_t w) noexcept {
  const auto nan = quiet_nan<float>();
  for (std::size_t t = 0; t < block.entries; ++t)
    if (float& paid = block.logits[t * width + w]; paid != 0) paid = nan;
}

/// Raises tops to the learned sinks, with whose exponentials the sums begin. A sink of -inf is none; one of
/// NaN or +inf spoils its queries.
template <std::size_t width, std::size_t step>
void begin_with_sinks(const QueryBlock<width>& block, std::span<const float> sinks, float (&tops)[step],
                      float (&sums)[step], bool (&spoilt)[width]) noexcept {
  for (std::size_t w = 0; w < block.rows; ++w) {
    const float& sink = sinks[block.head[w]];
    if (!is_finite(sink)) {
      spoilt[w] = spoilt[w] || spoils(sink);
      continue;
    }
    if (sink > tops[w]) std::fill_n(tops + w, width < step ? step : 1, sink);
    sums[w] = std::exp((std::max)(sink - tops[w], -88.0F));  // of floats that are far apart, -inf
  }
}

/// Replaces logits by exp(logit - row maximum) and computes the shares. `sinks` are the form's.
template <std::size_t width>
void softmax(QueryBlock<width>& block, std::span<const float> sinks) noexcept {
  constexpr std::size_t step = QueryBlock<width>::step;
  const std::size_t used = block.entries * width;
  const std::size_t end = (used + step - 1) / step * step;
  std::fill(block.logits + used, block.logits + end, hidden_logit);
  float tops[step], totals[step], sums[step] = {};
  survey(block.logits, end, tops, totals);
  if constexpr (width < step) {
    std::fill_n(tops, step, largest(tops));
    totals[0] = sum(load(totals));
  }
  for (float& top : tops)  // where -inf is said not to be, it may replace the lowest float
    if (is_minus_infinity(top)) top = hidden_logit;
  bool spoilt[width] = {};
  for (std::size_t w = 0; w < width; ++w)  // a sum shows NaN, see may_be_spoilt()
    if (spoils(totals[w])) spoilt[w] = replace_nan(block, w, tops);
  if (!sinks.empty()) begin_with_sinks(block, sinks, tops, sums, spoilt);
  for (std::size_t from = 0; from < end; from += addends_at_once * step)
    add_exponentials(block.logits + from, (std::min)(addends_at_once * step, end - from), tops, sums);
  if constexpr (width < step) sums[0] = sum(load(sums));
  for (std::size_t w = 0; w < width; ++w) {
    if (w >= block.rows || tops[w] <= hidden_logit)
      continue;  // it pays nothing if all its entries are hidden
    if (spoilt[w])
      spread_nan(block, w);
    else
      block.share[w] = 1.0F / sums[w];
  }
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
