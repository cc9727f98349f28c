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

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {

/// The order of a non-candidate, below that of every score.
inline constexpr std::int32_t no_candidate = (std::numeric_limits<std::int32_t>::min)();

/// An integer that orders like the score: NaN is lowest (even under -ffast-math), -0 equals +0.
inline std::int32_t order_of(const float& score) noexcept {
  constexpr std::int32_t magnitude = 0x7FFFFFFF;
  const auto bits = std::bit_cast<std::int32_t>(score);
  if (magnitude_bits(score) > infinity_bits<float>) return no_candidate + 1;
  return bits < 0 ? -(bits & magnitude) : bits;
}

}  // namespace detail

/// Marks the best entries. Allocates in the constructor only. A call is O(n): it counts the entries at most
/// 32 times, whatever the scores. Compilers vectorise every loop but the one over ties at the border.
class TopK {
 public:
  explicit TopK(std::size_t max_entries) : orders_(max_entries) {}

  /// Marks (with 1) the k highest scores among the entries not marked yet; ties go to the lower index. NaN
  /// ranks below every number. Returns how many it marked: fewer than k if fewer are left. Precondition:
  /// scores.size() == marks.size() <= max_entries < 2^32.
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

  /// The least and the largest order of the candidates. Precondition: there is one.
  static std::pair<std::int32_t, std::int32_t> range_of(std::span<const std::int32_t> orders) noexcept {
    // Counted from the lowest order of a candidate, no_candidate wraps to the largest number.
    constexpr auto base = static_cast<std::uint32_t>(detail::no_candidate + 1);
    std::uint32_t least = (std::numeric_limits<std::uint32_t>::max)();
    std::int32_t largest = detail::no_candidate;
    for (std::size_t i = 0; i < orders.size(); ++i) {
      least = (std::min)(least, static_cast<std::uint32_t>(orders[i]) - base);
      largest = (std::max)(largest, orders[i]);
    }
    return {static_cast<std::int32_t>(least + base), largest};
  }

  /// An integer that exactly k orders reach, or the k-th largest order if ties leave none. Bisects the range
  /// of the candidates' orders. Precondition: there are k candidates, k > 0.
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

/// Writes the marked indices, ascending, and returns their number. May overwrite what follows them in `out`.
/// Precondition: they fit.
inline std::size_t marked_indices(std::span<const std::uint8_t> marks, std::span<Index> out) noexcept {
  // Writes every index and lets the next replace an unmarked one: no branch depends on a mark.
  std::size_t n = 0;
  for (std::size_t i = 0; i < marks.size() && n < out.size(); ++i) {
    out[n] = static_cast<Index>(i);
    n += marks[i] != 0 ? 1U : 0U;
  }
  return n;
}

/// The k best entries, ascending: those that `protect` flags (empty, or one flag per entry), then by score.
/// Fewer than k if there are fewer, more if `protect` flags more. Allocates, for use outside the loop. Throws
/// std::invalid_argument if the sizes differ.
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

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
