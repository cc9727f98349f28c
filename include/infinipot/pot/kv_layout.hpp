// Where keys and values lie in memory: strides, so that an engine keeps its own layout.
#pragma once

#include <cstddef>
#include <vector>

#include "infinipot/element.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Rows of one layer: a head's contiguous channels at data + kv_head * head_stride + entry * entry_stride.
/// Strides count elements.
template <Element T>
struct Rows {
  T* data = nullptr;
  std::ptrdiff_t head_stride = 0;
  std::ptrdiff_t entry_stride = 0;

  T* row(std::size_t kv_head, std::size_t entry) const noexcept {
    return data + static_cast<std::ptrdiff_t>(kv_head) * head_stride +
           static_cast<std::ptrdiff_t>(entry) * entry_stride;
  }
};

/// An engine's keys and values, (layers) tables each, for instance
///   calm (CPU):         separate keys and values, (layer, entry, kv_heads * head_dim)
///   gemma.cpp:          one row per entry, [layer][kv_head][K, V]
///   yalm, llama.cpp:    memory allocated per layer, (entry, kv_heads * head_dim)
/// Without values if the shape says that they are read from the keys' rows (value_dim 0).
template <Element T>
struct KvLayout {
  std::vector<Rows<T>> keys;
  std::vector<Rows<T>> values;
};

/// Tables of layers that lie `layer_stride` elements apart.
template <Element T>
std::vector<Rows<T>> strided_rows(T* data, std::size_t layers, std::ptrdiff_t layer_stride,
                                  std::ptrdiff_t head_stride, std::ptrdiff_t entry_stride) {
  std::vector<Rows<T>> rows;
  for (std::size_t layer = 0; layer < layers; ++layer)
    rows.push_back({data + static_cast<std::ptrdiff_t>(layer) * layer_stride, head_stride, entry_stride});
  return rows;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
