// Settings of a pot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// How the engine writes its keys, and finds them where it reads in place.
enum class KeyStorage : std::uint8_t {
  rotated,   ///< rotated for their positions; a distillation rotates them anew, from the key as first written
  unrotated  ///< as projected; the engine rotates them by their index when it reads
};

namespace detail {

/// Throws std::invalid_argument unless these are some of the shape's layers, ascending.
inline void check_layers_without_rope(std::span<const std::size_t> layers, const Shape& shape) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i] >= shape.layers)
      invalid("layer ", layers[i], ", which is to be without RoPE, is out of range 0 .. ", shape.layers - 1);
    if (i > 0 && layers[i] <= layers[i - 1])
      invalid("layers without RoPE must ascend, but ", layers[i], " comes after ", layers[i - 1]);
  }
}

}  // namespace detail

struct PotSettings {
  Shape shape;
  std::size_t capacity = 0;  ///< M: entries per (layer, kv head)
  /// The most entries that a distillation may keep; 0 means capacity / 2. A pot of rotated keys also holds
  /// that many keys as first written, so that repeated shifts do not drift.
  std::size_t max_keep = 0;
  Granularity granularity = Granularity::head;
  KeyStorage key_storage = KeyStorage::rotated;
  Rope rope = {};  ///< the model's; without frequencies keys have no position (ALiBi, NoPE)
  /// Layers whose keys have no position although others' have (SmolLM3: 3, 7, 11, ...), ascending.
  std::vector<std::size_t> layers_without_rope = {};

  /// A copy with defaults filled in. Throws std::invalid_argument for values out of range.
  PotSettings checked() && {
    shape.validate();
    rope.validate(shape.head_dim);
    if (capacity < 2 || capacity > (std::numeric_limits<Index>::max)())
      detail::invalid("pot capacity ", capacity, " is out of range 2 .. 4294967295");
    if (max_keep == 0) max_keep = capacity / 2;
    if (max_keep >= capacity)
      detail::invalid("max_keep ", max_keep, " must be below the pot's capacity ", capacity);
    detail::check_layers_without_rope(layers_without_rope, shape);
    return std::move(*this);
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
