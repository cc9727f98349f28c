// Where keys and values stand in memory: strides, so that an engine keeps its own layout.
#pragma once

#include <cstddef>

#include "infinipot/element.hpp"

namespace infinipot {

/// Rows of head_dim elements that are next to one another, at
/// data + layer * layer_stride + kv_head * head_stride + entry * entry_stride. Strides count elements.
template <Element T>
struct Rows {
  T* data = nullptr;
  std::ptrdiff_t layer_stride = 0;
  std::ptrdiff_t head_stride = 0;
  std::ptrdiff_t entry_stride = 0;

  /// The row of entry 0.
  T* head(std::size_t layer, std::size_t kv_head) const noexcept {
    return data + static_cast<std::ptrdiff_t>(layer) * layer_stride +
           static_cast<std::ptrdiff_t>(kv_head) * head_stride;
  }

  T* row(std::size_t layer, std::size_t kv_head, std::size_t entry) const noexcept {
    return head(layer, kv_head) + static_cast<std::ptrdiff_t>(entry) * entry_stride;
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
