// Top-k selection with protected entries, deterministic ties and a rule for NaN.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "infinipot/shape.hpp"

namespace infinipot {
namespace detail {

inline bool is_nan_bits(std::uint32_t bits) noexcept { return (bits & 0x7FFFFFFFU) > 0x7F800000U; }

/// An integer that orders like the score: NaN (even under -ffast-math) is the lowest, -0 equals +0.
inline std::uint32_t order_of(float score) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(score);
  if (is_nan_bits(bits)) return 0;
  if (bits == 0x80000000U) return 0x80000000U;
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

}  // namespace detail

/// True for NaN, whatever the compiler was told about floating point.
inline bool is_nan(float score) noexcept { return detail::is_nan_bits(std::bit_cast<std::uint32_t>(score)); }

/// Marks the best entries. Allocates once, in the constructor; O(n) a call.
class TopK {
 public:
  explicit TopK(std::size_t max_entries) : ranks_(max_entries) {}

  /// Marks (with 1) the k entries of highest score among those not marked yet; of equal scores the lower
  /// index. NaN counts as lower than any number. Returns how many it marked: less than k where fewer are
  /// left. Precondition: scores.size() == marks.size() <= max_entries.
  std::size_t mark(std::span<const float> scores, std::size_t k, std::span<std::uint8_t> marks) noexcept {
    std::size_t n = 0;
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (marks[i] == 0) ranks_[n++] = rank(scores[i], i);
    k = std::min(k, n);
    const auto begin = ranks_.begin();
    if (k < n)
      std::nth_element(begin, begin + static_cast<std::ptrdiff_t>(k), begin + static_cast<std::ptrdiff_t>(n),
                       std::greater<>());
    for (std::size_t i = 0; i < k; ++i) marks[index(ranks_[i])] = 1;
    return k;
  }

 private:
  // Score and index in one integer: a larger one is a better entry, and no two are equal.
  static std::uint64_t rank(float score, std::size_t i) noexcept {
    return std::uint64_t{detail::order_of(score)} << 32U | (0xFFFFFFFFU - static_cast<Index>(i));
  }
  static std::size_t index(std::uint64_t rank) noexcept { return 0xFFFFFFFFU - static_cast<Index>(rank); }

  std::vector<std::uint64_t> ranks_;
};

/// Writes the marked indices in ascending order. Returns their number. Precondition: `out` holds that many.
inline std::size_t marked_indices(std::span<const std::uint8_t> marks, std::span<Index> out) noexcept {
  std::size_t n = 0;
  for (std::size_t i = 0; i < marks.size(); ++i)
    if (marks[i] != 0) out[n++] = static_cast<Index>(i);
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
