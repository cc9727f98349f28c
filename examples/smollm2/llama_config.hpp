#pragma once

#include <cstddef>

#include "gguf.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"

namespace smollm2 {

/// The dimensions of a Llama model, as its file states them.
struct LlamaConfig {
  std::size_t layers = 0;
  std::size_t embedding = 0;     ///< width of the residual stream
  std::size_t feed_forward = 0;  ///< width inside the feed-forward layers
  std::size_t query_heads = 0;
  std::size_t kv_heads = 0;
  std::size_t rotary_dim = 0;  ///< channels of a head that RoPE turns
  std::size_t vocab_size = 0;
  std::size_t context_length = 0;  ///< positions that the model was trained on
  double rope_theta = 0;
  float norm_epsilon = 0;

  /// Reads and checks the metadata of a file of architecture "llama". Throws GgufError that names the key,
  /// its value and what would be valid, or the feature that this engine lacks.
  static LlamaConfig from(const GgufFile& file);

  std::size_t head_dim() const noexcept { return embedding / query_heads; }

  infinipot::Shape shape() const noexcept { return {layers, query_heads, kv_heads, head_dim()}; }

  /// Files of this architecture hold the query and key rows in the order that makes neighbours the pairs.
  infinipot::Rope rope() const {
    return infinipot::plain_rope(rotary_dim, rope_theta, infinipot::Pairing::interleaved);
  }
};

}  // namespace smollm2
