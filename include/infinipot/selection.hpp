// What a distillation decided: the entries that each lane keeps.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/shape.hpp"

namespace infinipot {

/// Kept entries, those of each lane ascending. All lanes keep the same number, or each its own; then they are
/// to stand so that they end at the same row (see LayerRows).
class Selection {
 public:
  /// `keep` entries of every lane.
  Selection(std::size_t lanes, std::size_t keep)
      : keep_(keep), counts_(lanes, keep), offsets_(lanes), indices_(lanes * keep) {
    for (std::size_t lane = 0; lane < lanes; ++lane) offsets_[lane] = lane * keep;
  }

  /// budgets[lane] entries of each lane, or fewer.
  explicit Selection(std::span<const std::size_t> budgets) : counts_(budgets.begin(), budgets.end()) {
    std::size_t total = 0;
    for (const std::size_t budget : budgets) {
      keep_ = std::max(keep_, budget);
      offsets_.push_back(total);
      total += budget;
    }
    indices_.resize(total);
  }

  std::size_t lanes() const noexcept { return counts_.size(); }

  /// Where the kept entries will end, in all lanes: the most that one of them may keep.
  std::size_t keep() const noexcept { return keep_; }

  /// Where those of one lane will begin: 0 unless it keeps fewer.
  std::size_t first(std::size_t lane) const noexcept { return keep_ - counts_[lane]; }

  /// (keep - first) entries of one lane, ascending.
  std::span<Index> lane(std::size_t lane) noexcept {
    return {indices_.data() + offsets_[lane], counts_[lane]};
  }
  std::span<const Index> lane(std::size_t lane) const noexcept {
    return {indices_.data() + offsets_[lane], counts_[lane]};
  }

  /// Says that a lane keeps `count` entries. Precondition: it may keep so many.
  void set_count(std::size_t lane, std::size_t count) noexcept { counts_[lane] = count; }

 private:
  std::size_t keep_ = 0;
  std::vector<std::size_t> counts_;   // (lanes)
  std::vector<std::size_t> offsets_;  // (lanes)
  std::vector<Index> indices_;        // (sum of what the lanes may keep)
};

}  // namespace infinipot
