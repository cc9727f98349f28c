// Top-k selection with protected entries, deterministic ties and a rule for NaN.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/shape.hpp"

namespace infinipot {
namespace detail {

inline bool is_nan_bits(std::uint32_t bits) noexcept { return (bits & 0x7FFFFFFFU) > 0x7F800000U; }

/// The order of what is no candidate, below that of every score.
inline constexpr std::int32_t no_candidate = std::numeric_limits<std::int32_t>::min();

/// An integer that orders like the score: NaN (even under -ffast-math) is the lowest, -0 equals +0.
inline std::int32_t order_of(float score) noexcept {
  constexpr std::int32_t magnitude = 0x7FFFFFFF;
  const auto bits = std::bit_cast<std::int32_t>(score);
  if ((bits & magnitude) > 0x7F800000) return no_candidate + 1;
  return bits < 0 ? -(bits & magnitude) : bits;
}

}  // namespace detail

/// True for NaN, whatever the compiler was told about floating point.
inline bool is_nan(float score) noexcept { return detail::is_nan_bits(std::bit_cast<std::uint32_t>(score)); }

/// Marks the best entries. Allocates once, in the constructor; O(n) a call, at most 32 counts of the entries
/// whatever the scores. Every loop over them is one that compilers vectorise, but for ties at the border.
class TopK {
 public:
  explicit TopK(std::size_t max_entries) : orders_(max_entries) {}

  /// Marks (with 1) the k entries of highest score among those not marked yet; of equal scores the lower
  /// index. NaN counts as lower than any number. Returns how many it marked: less than k where fewer are
  /// left. Precondition: scores.size() == marks.size() <= max_entries < 2^32.
  std::size_t mark(std::span<const float> scores, std::size_t k, std::span<std::uint8_t> marks) noexcept {
    const std::span<std::int32_t> orders(orders_.data(), scores.size());
    for (std::size_t i = 0; i < orders.size(); ++i)
      orders[i] = marks[i] == 0 ? detail::order_of(scores[i]) : detail::no_candidate;
    const std::size_t candidates = count_from(detail::no_candidate + 1, orders);
    if (k == 0 || candidates == 0) return 0;
    if (k >= candidates) {
      mark_from(detail::no_candidate + 1, orders, marks);
      return candidates;
    }

    const std::int32_t border = border_of(orders, k);
    mark_from(border, orders, marks);
    std::size_t surplus = count_from(border, orders) - k;
    for (std::size_t i = orders.size(); surplus > 0;) {
      if (orders[--i] != border) continue;
      marks[i] = 0;
      --surplus;
    }
    return k;
  }

 private:
  static std::size_t count_from(std::int32_t order, std::span<const std::int32_t> orders) noexcept {
    std::uint32_t count = 0;
    for (std::size_t i = 0; i < orders.size(); ++i) count += orders[i] >= order ? 1U : 0U;
    return count;
  }

  static void mark_from(std::int32_t order, std::span<const std::int32_t> orders,
                        std::span<std::uint8_t> marks) noexcept {
    for (std::size_t i = 0; i < orders.size(); ++i)
      marks[i] = orders[i] >= order ? std::uint8_t{1} : marks[i];
  }

  /// The least and the largest order of a candidate. Precondition: there is one.
  static std::pair<std::int32_t, std::int32_t> range_of(std::span<const std::int32_t> orders) noexcept {
    // Counted from the lowest candidate's order, what is no candidate wraps to the largest number.
    constexpr auto base = static_cast<std::uint32_t>(detail::no_candidate + 1);
    std::uint32_t least = std::numeric_limits<std::uint32_t>::max();
    std::int32_t largest = detail::no_candidate;
    for (std::size_t i = 0; i < orders.size(); ++i) {
      least = std::min(least, static_cast<std::uint32_t>(orders[i]) - base);
      largest = std::max(largest, orders[i]);
    }
    return {static_cast<std::int32_t>(least + base), largest};
  }

  /// An integer that k orders reach, or the k-th largest order if equal ones leave no such integer. By
  /// halving the range of the candidates' orders. Precondition: there are k candidates, k > 0.
  static std::int32_t border_of(std::span<const std::int32_t> orders, std::size_t k) noexcept {
    auto [low, high] = range_of(orders);
    while (low < high) {
      const auto middle = static_cast<std::int32_t>((std::int64_t{low} + high + 1) >> 1);
      const std::size_t count = count_from(middle, orders);
      if (count == k) return middle;
      if (count > k)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

  std::vector<std::int32_t> orders_;  // (max_entries)
};

/// Writes the marked indices in ascending order. Returns their number; what follows them in `out` may have
/// been written to. Precondition: `out` holds that many.
inline std::size_t marked_indices(std::span<const std::uint8_t> marks, std::span<Index> out) noexcept {
  // Every index is written, to be replaced by the next if it is not marked: no branch that depends on a mark.
  std::size_t n = 0;
  for (std::size_t i = 0; i < marks.size() && n < out.size(); ++i) {
    out[n] = static_cast<Index>(i);
    n += marks[i] != 0 ? 1U : 0U;
  }
  return n;
}

/// The k best entries, ascending: those of `protect` (empty or one flag an entry) first, then by score.
/// For use outside the loop; allocates. Fewer than k are returned if there are fewer, more if `protect` has
/// more.
inline std::vector<Index> top_k(std::span<const float> scores, std::size_t k,
                                std::span<const std::uint8_t> protect = {}) {
  std::vector<std::uint8_t> marks(scores.size(), 0);
  if (!protect.empty() && protect.size() != scores.size())
    detail::invalid("protect has ", protect.size(), " flags for ", scores.size(), " scores");
  std::transform(protect.begin(), protect.end(), marks.begin(),
                 [](std::uint8_t flag) { return static_cast<std::uint8_t>(flag != 0); });
  const auto taken = static_cast<std::size_t>(std::count(marks.begin(), marks.end(), 1));
  if (taken < k) TopK(scores.size()).mark(scores, k - taken, marks);
  std::vector<Index> kept(static_cast<std::size_t>(std::count(marks.begin(), marks.end(), 1)));
  marked_indices(marks, kept);
  return kept;
}

}  // namespace infinipot
