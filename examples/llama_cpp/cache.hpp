// What is known of a context's cache of keys and values: where its rows are, and what they are.
#pragma once

#include <ggml.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "row_codec.hpp"

namespace llama_cpp {

/// One of the model's layers that keep the whole context, which are the layers of a pot. Its tensors are (all
/// heads of a token, cells, streams), or, for transposed values, (cells, all heads of a token, streams) in
/// memory, whatever the tensor itself says.
struct CacheLayer {
  std::size_t model_layer;
  ggml_tensor* keys;
  ggml_tensor* values;  ///< null where values are read from the key's row (MLA)
};

class Cache;

/// Found out once for each context (find_cache()), and the same for all its pots.
struct CacheFacts {
  infinipot::Shape shape;                        ///< of a pot
  infinipot::Rope rope;                          ///< of its keys
  std::vector<std::size_t> layers_without_rope;  ///< of the pot's, ascending
  std::vector<CacheLayer> layers;                ///< of a pot, in the order of the model's
  std::size_t cells = 0;                         ///< of each stream
  std::size_t streams = 0;  ///< parts of the cache, one for each sequence; 1 if sequences share it
  RowCodec keys, values;    ///< of one head's row; values have a width of 0 if there are none
  bool transposed = false;  ///< whether values are
  bool on_host = false;     ///< whether all of it is in this machine's memory
  /// The same of the layers that see the last tokens only (windows); null if there are none.
  std::shared_ptr<const Cache> windows = nullptr;
};

class Cache {
 public:
  static constexpr std::size_t no_layer = static_cast<std::size_t>(-1);

  explicit Cache(CacheFacts facts) : facts_(std::move(facts)) {
    for (std::size_t i = 0; i < layers().size(); ++i) {
      pot_layers_.resize(layers()[i].model_layer + 1, no_layer);
      pot_layers_.back() = i;
    }
  }

  const infinipot::Shape& shape() const noexcept { return facts_.shape; }
  const infinipot::Rope& rope() const noexcept { return facts_.rope; }
  const std::vector<std::size_t>& layers_without_rope() const noexcept { return facts_.layers_without_rope; }
  /// Whether RoPE turns a pot layer's keys.
  bool rotates(std::size_t layer) const noexcept {
    return rope().rotary_dim() > 0 && !std::ranges::binary_search(layers_without_rope(), layer);
  }
  const std::vector<CacheLayer>& layers() const noexcept { return facts_.layers; }
  std::size_t cells() const noexcept { return facts_.cells; }
  std::size_t streams() const noexcept { return facts_.streams; }
  const RowCodec& keys() const noexcept { return facts_.keys; }
  const RowCodec& values() const noexcept { return facts_.values; }
  bool transposed() const noexcept { return facts_.transposed; }
  bool on_host() const noexcept { return facts_.on_host; }
  const std::shared_ptr<const Cache>& windows() const noexcept { return facts_.windows; }

  /// Keys and values of one token in all layers.
  std::size_t bytes_per_token() const noexcept {
    const std::size_t others = windows() == nullptr ? 0 : windows()->bytes_per_token();
    return shape().heads() * (keys().bytes() + values().bytes()) + others;
  }

  /// The pot's layer that is this one of the model's; no_layer if the pot does not hold it.
  std::size_t pot_layer(std::size_t model_layer) const noexcept {
    return model_layer < pot_layers_.size() ? pot_layers_[model_layer] : no_layer;
  }

  /// The stream of a sequence.
  std::size_t stream_of(std::size_t sequence) const noexcept { return streams() > 1 ? sequence : 0; }

 private:
  CacheFacts facts_;
  std::vector<std::size_t> pot_layers_;  // by layer of the model
};

}  // namespace llama_cpp
