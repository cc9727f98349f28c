#pragma once

#include <cstddef>
#include <vector>

#include "gguf.hpp"
#include "linear.hpp"
#include "llama_config.hpp"
#include "thread_pool.hpp"

namespace smollm2 {

/// One transformer block. e: embedding, f: feed_forward, d: head_dim.
struct LlamaLayer {
  std::vector<float> attention_norm;     // (e)
  Linear queries_keys_values;            // (query_heads * d + 2 * kv_heads * d, e), one below the other
  std::vector<float> qkv_bias;           // (query_heads * d + 2 * kv_heads * d), or empty
  std::vector<float> query_norm;         // (d), or empty
  std::vector<float> key_norm;           // (d), or empty
  Linear attention_output;               // (e, query_heads * d)
  std::vector<float> output_bias;        // (e), or empty
  std::vector<float> feed_forward_norm;  // (e)
  Linear gate;                           // (f, e)
  Linear up;                             // (f, e)
  Linear down;                           // (e, f)
};

/// A model's weights, all in memory; the file is not needed any more.
class LlamaWeights {
 public:
  /// Checks the metadata, the number of blocks, then each tensor's shape and type before it is read. Throws
  /// GgufError naming what is wrong, or a tensor of the file that the engine has no use for; std::bad_alloc.
  LlamaWeights(const GgufFile& file, ThreadPool& pool);

  const LlamaConfig& config() const noexcept { return config_; }
  const std::vector<LlamaLayer>& layers() const noexcept { return layers_; }
  /// One row a token, (vocab_size, e).
  const Linear& embedding() const noexcept { return embedding_; }
  const std::vector<float>& output_norm() const noexcept { return output_norm_; }  // (e)
  /// (vocab_size, e); the embedding where the model ties the two.
  const Linear& output() const noexcept { return output_.outputs() == 0 ? embedding_ : output_; }

 private:
  LlamaConfig config_;
  std::vector<LlamaLayer> layers_;
  Linear embedding_;
  std::vector<float> output_norm_;
  Linear output_;  // without outputs if tied
};

}  // namespace smollm2
