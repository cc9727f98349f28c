// Where keys and values stand in memory: strides, so that an engine keeps its own layout.
#pragma once

#include <cstddef>

#include "infinipot/element.hpp"

namespace infinipot {

/// The rows of one layer where layers have different numbers of them: row `entry` of a head is number
/// row0 + kv_head * rows + entry of all. (row0 may be negative: not every layer has a row 0.)
struct LayerPlace {
  std::ptrdiff_t row0 = 0;
  std::ptrdiff_t rows = 0;
};

/// Rows of head_dim elements that are next to one another, at
/// data + layer * layer_stride + kv_head * head_stride + entry * entry_stride. Strides count elements.
template <Element T>
struct Rows {
  T* data = nullptr;
  std::ptrdiff_t layer_stride = 0;
  std::ptrdiff_t head_stride = 0;
  std::ptrdiff_t entry_stride = 0;
  /// (layers) in the memory of a pot whose layers differ (PotSettings::budgets), which has no layer_stride or
  /// head_stride; else null.
  const LayerPlace* places = nullptr;

  /// The row of entry 0, in layers that have one.
  T* head(std::size_t layer, std::size_t kv_head) const noexcept { return row(layer, kv_head, 0); }

  T* row(std::size_t layer, std::size_t kv_head, std::size_t entry) const noexcept {
    const auto head = static_cast<std::ptrdiff_t>(kv_head), e = static_cast<std::ptrdiff_t>(entry);
    if (places != nullptr) return data + (places[layer].row0 + head * places[layer].rows + e) * entry_stride;
    return data + static_cast<std::ptrdiff_t>(layer) * layer_stride + head * head_stride + e * entry_stride;
  }
};

/// The keys and values of an engine, for instance
///   calm (CPU):  separate K and V, (layer, entry, kv_heads * head_dim)
///   gemma.cpp:   one row per entry, [layer][kv_head][K, V]
/// Layers must be equally far apart, so that memory allocated per layer (yalm) does not fit in one.
template <Element T>
struct KvLayout {
  Rows<T> keys;
  Rows<T> values;
};

}  // namespace infinipot
