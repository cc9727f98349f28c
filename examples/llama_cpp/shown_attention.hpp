// Hands a layer's attention, as a graph's node has it, to the sinks of one sequence's forward pass.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <vector>

#include "cache.hpp"
#include "infinipot/infinipot.hpp"
#include "tensor_bytes.hpp"

namespace llama_cpp {

/// The tokens of one sequence in a micro-batch: which part of the node's tensors is theirs, and which entries
/// they are.
struct ShownPart {
  std::size_t part = 0;    ///< of the micro-batch's sequences, in their order
  std::size_t first = 0;   ///< entry of its first token
  std::size_t count = 0;   ///< tokens
  std::size_t before = 0;  ///< tokens of the call in the micro-batches before
};

/// Reads nodes for pots of one cache. Functions return null, or what of a node was not expected.
class ShownAttention {
 public:
  explicit ShownAttention(const Cache& cache)
      : cache_(cache), forms_(cache.shape().layers), sinks_(cache.shape().layers) {}

  /// `node` is a GGML_OP_SOFT_MAX, (cells, tokens, query_heads, sequences).
  const char* probabilities(const ggml_tensor& node, std::size_t layer, const ShownPart& part,
                            infinipot::AttentionSink& sink);

  /// `node` is a GGML_OP_FLASH_ATTN_EXT, of queries (head_dim, tokens, query_heads, sequences). Sets
  /// form(layer).
  const char* queries(const ggml_tensor& node, std::size_t layer, const ShownPart& part,
                      infinipot::QuerySink& sink);

  /// What the model does between q.k and the softmax of a layer that was shown.
  const infinipot::AttentionForm& form(std::size_t layer) const noexcept { return forms_[layer]; }

 private:
  /// Takes a layer's learned sinks, if there are any. Returns whether they are as expected.
  bool learn(const ggml_tensor* sinks, std::size_t layer);

  const Cache& cache_;
  std::vector<infinipot::AttentionForm> forms_;  // (layers)
  std::vector<std::vector<float>> sinks_;        // (layers, query_heads) learned; none of most models
  TensorBytes bytes_;
  std::vector<float> unrotated_;  // queries without llama.cpp's Hadamard rotation
};

}  // namespace llama_cpp
