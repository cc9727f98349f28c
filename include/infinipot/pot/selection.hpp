// What a distillation decided: the entries that each lane keeps.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Indices of kept entries, ascending in each lane; every lane keeps the same number.
class Selection {
 public:
  /// `keep` entries of every lane.
  Selection(std::size_t lanes, std::size_t keep) : lanes_(lanes), keep_(keep), indices_(lanes * keep) {}

  std::size_t lanes() const noexcept { return lanes_; }
  std::size_t keep() const noexcept { return keep_; }

  /// (keep) entries of one lane, ascending.
  std::span<Index> lane(std::size_t lane) noexcept { return {indices_.data() + lane * keep_, keep_}; }
  std::span<const Index> lane(std::size_t lane) const noexcept {
    return {indices_.data() + lane * keep_, keep_};
  }

 private:
  std::size_t lanes_, keep_;
  std::vector<Index> indices_;  // (lanes, keep)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
