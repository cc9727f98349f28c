// What a pot is told when it is made.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// How the engine writes its keys, and wants to find them where it reads them in place.
enum class KeyStorage : std::uint8_t {
  rotated,   ///< rotated for their positions; a distillation rotates them anew, from the key as first written
  unrotated  ///< as projected; the engine rotates them when it reads, by their index
};

struct PotSettings {
  Shape shape;
  std::size_t capacity = 0;  ///< M: entries per (layer, kv head)
  /// The most entries that a distillation may keep; 0 means capacity / 2. A pot of rotated keys remembers for
  /// so many entries the key as it was first written, which is what keeps repeated shifts free of drift.
  std::size_t max_keep = 0;
  Granularity granularity = Granularity::head;
  KeyStorage key_storage = KeyStorage::rotated;
  Rope rope = {};  ///< the model's; without frequencies keys have no position (ALiBi, NoPE)
  /// Entries that a distillation keeps in each layer (pyramid_budgets(), say), or none: then all layers keep
  /// the same number. The largest of them is max_keep. Layers with less have fewer rows (see LayerRows),
  /// which an engine must know (AttendsFromBegin). Not for Granularity::shared.
  std::vector<std::size_t> budgets = {};

  /// With what was not given filled in. Throws std::invalid_argument for values out of range.
  PotSettings checked() && {
    shape.validate();
    rope.validate(shape.head_dim);
    if (capacity < 2 || capacity > std::numeric_limits<Index>::max())
      detail::invalid("pot capacity ", capacity, " is out of range 2 .. 4294967295");
    if (!budgets.empty()) check_budgets();
    if (max_keep == 0) max_keep = capacity / 2;
    if (max_keep >= capacity)
      detail::invalid("max_keep ", max_keep, " must be below the pot's capacity ", capacity);
    return std::move(*this);
  }

 private:
  /// Sets max_keep.
  void check_budgets() {
    if (budgets.size() != shape.layers)
      detail::invalid("there are ", budgets.size(), " budgets for ", shape.layers,
                      " layers; give one for each, or none");
    for (std::size_t layer = 0; layer < budgets.size(); ++layer)
      if (budgets[layer] == 0 || budgets[layer] >= capacity)
        detail::invalid("budget ", budgets[layer], " of layer ", layer, " is out of range 1 .. ",
                        capacity - 1, " for a pot of capacity ", capacity);
    const auto [least, most] = std::minmax_element(budgets.begin(), budgets.end());
    if (max_keep != 0 && max_keep != *most)
      detail::invalid("max_keep ", max_keep, " is not the largest budget, ", *most, "; leave it at 0");
    max_keep = *most;
    if (*least == *most) return budgets.clear();  // as if there were none
    if (granularity == Granularity::shared)
      detail::invalid("budgets of ", *least, " .. ", *most,
                      " entries for single layers make no sense with Granularity::shared, where all layers "
                      "keep the same; use layer or head");
  }
};

}  // namespace infinipot
