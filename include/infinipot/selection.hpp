// What a distillation decided: the entries that each lane keeps.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/shape.hpp"

namespace infinipot {

/// Kept entries, (lanes, keep), ascending within a lane. Every lane keeps the same number.
class Selection {
 public:
  Selection(std::size_t lanes, std::size_t keep) : keep_(keep), indices_(lanes * keep) {}

  std::size_t lanes() const noexcept { return keep_ == 0 ? 0 : indices_.size() / keep_; }
  std::size_t keep() const noexcept { return keep_; }

  /// (keep) entries of one lane, ascending.
  std::span<Index> lane(std::size_t lane) noexcept { return {indices_.data() + lane * keep_, keep_}; }
  std::span<const Index> lane(std::size_t lane) const noexcept {
    return {indices_.data() + lane * keep_, keep_};
  }

 private:
  std::size_t keep_;
  std::vector<Index> indices_;  // (lanes, keep)
};

}  // namespace infinipot
