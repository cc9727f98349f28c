#pragma once

#include <cstddef>

#include "gguf.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "llama_rope.hpp"

namespace smollm2 {

/// The dimensions of a Llama model, as its file states them.
struct LlamaConfig {
  std::size_t layers = 0;
  std::size_t embedding = 0;     ///< width of the residual stream
  std::size_t feed_forward = 0;  ///< width inside the feed-forward layers
  std::size_t query_heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_dim = 0;
  std::size_t vocab_size = 0;
  std::size_t context_length = 0;  ///< positions that the model was trained on
  float norm_epsilon = 0;
  /// Files of architecture "llama" hold the query and key rows in the order that makes neighbours the pairs.
  infinipot::Pairing pairing = infinipot::Pairing::interleaved;
  bool head_norms = false;  ///< whether each query and key is normalised before it is rotated (Qwen 3)
  LlamaRope scaled_rope;

  /// Reads and checks the metadata of a file of architecture "llama", "qwen2" or "qwen3": the same forward
  /// pass but for the pairing and the norms of heads. Throws GgufError that names the key, its value and what
  /// would be valid, or the feature that this engine lacks. No key of the architecture goes unread.
  static LlamaConfig from(const GgufFile& file);

  infinipot::Shape shape() const noexcept { return {layers, query_heads, kv_heads, head_dim}; }

  /// The rotation in a memory of `context` entries (see LlamaRope).
  const infinipot::Rope& rope(std::size_t context) const noexcept { return scaled_rope.in_context(context); }
};

}  // namespace smollm2
