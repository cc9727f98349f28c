// Which rows a pot has in each layer, where layers keep different numbers of entries.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/detail/arena.hpp"
#include "infinipot/kv_layout.hpp"

namespace infinipot {

/// Rows of layers that keep at most budget(layer) entries each, C in the layer that keeps most.
///
/// An entry's row is its position, and the next token stands at the same position in all layers. So rows are
/// aligned at their end: after a distillation those of a layer are C - budget .. C - 1, and relative
/// positions, which are all that RoPE sees, are what they would be from 0 on. A stream begins at C minus the
/// least budget. Hence a layer has no use for the rows before C - budget, and has none.
///
/// Arrays over all layers hold, for each layer, its rows `members` times: for every kv head or lane of it.
class LayerRows {
 public:
  LayerRows() = default;

  /// `budgets` has one for each layer, 1 .. keep, the largest of which is `keep`; if it is empty, all layers
  /// keep that many. Allocates only if they differ. Precondition: keep < capacity.
  LayerRows(std::size_t kv_heads, std::size_t capacity, std::size_t keep,
            std::span<const std::size_t> budgets)
      : capacity_(capacity), keep_(keep) {
    if (budgets.empty()) return;
    start_ = keep - *std::min_element(budgets.begin(), budgets.end());
    before_.assign(1, 0);
    for (const std::size_t budget : budgets) before_.push_back(before_.back() + budget);
    for (std::size_t layer = 0; layer < budgets.size(); ++layer)
      places_.push_back({static_cast<std::ptrdiff_t>(kv_heads * rows_before(layer) - first(layer)),
                         static_cast<std::ptrdiff_t>(rows(layer))});
  }

  /// Most entries that a distillation leaves in a layer.
  std::size_t budget(std::size_t layer) const noexcept {
    return before_.empty() ? keep_ : before_[layer + 1] - before_[layer];
  }

  /// The first row that a layer has.
  std::size_t first(std::size_t layer) const noexcept { return keep_ - budget(layer); }

  /// How many it has.
  std::size_t rows(std::size_t layer) const noexcept { return capacity_ - first(layer); }

  /// Where the first token of a stream goes.
  std::size_t start() const noexcept { return start_; }

  /// Rows and budgets of all layers before this one, which may be the number of layers.
  std::size_t rows_before(std::size_t layer) const noexcept {
    return budgets_before(layer) + layer * (capacity_ - keep_);
  }
  std::size_t budgets_before(std::size_t layer) const noexcept {
    return before_.empty() ? layer * keep_ : before_[layer];
  }

  /// The size of an array over all layers: of rows, or of those that distillations may keep. Throws
  /// std::invalid_argument if it is too large.
  std::size_t all_rows(std::size_t layers, std::size_t members) const {
    return places_.empty() ? detail::product({layers, members, capacity_})
                           : detail::product({members, rows_before(layers)});
  }
  std::size_t all_kept(std::size_t layers, std::size_t members) const {
    return places_.empty() ? detail::product({layers, members, keep_})
                           : detail::product({members, budgets_before(layers)});
  }

  /// The place of a row in an array (layers, members, rows of the layer).
  std::size_t row(std::size_t layer, std::size_t member, std::size_t members,
                  std::size_t row) const noexcept {
    return members * rows_before(layer) + member * rows(layer) + row - first(layer);
  }

  /// The place of the first in an array (layers, members, budget of the layer).
  std::size_t kept(std::size_t layer, std::size_t member, std::size_t members) const noexcept {
    return members * budgets_before(layer) + member * budget(layer);
  }

  /// (layers) for Rows of keys or values; null if all layers are alike.
  const LayerPlace* places() const noexcept { return places_.empty() ? nullptr : places_.data(); }

 private:
  std::size_t capacity_ = 0, keep_ = 0, start_ = 0;
  std::vector<std::size_t> before_;  // (layers + 1) sums of the budgets before a layer, or empty
  std::vector<LayerPlace> places_;   // (layers), or empty
};

}  // namespace infinipot
