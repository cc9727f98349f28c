// What a token that is decoded alone shows of its cache.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "graph_tap.hpp"
#include "infinipot/rope.hpp"

namespace llama_cpp {

/// Keys or values of the token in one layer.
struct SeenRows {
  ggml_tensor* tensor = nullptr;  ///< the cache's; null if there are none (MLA has no values of its own)
  std::vector<float> computed;    ///< (kv_heads, numbers per head), without llama.cpp's Hadamard rotation
  std::vector<std::byte> stored;  ///< what the cache held then, in its type, with the rotation
  std::size_t hadamard = 0;       ///< block of that rotation; 0 for none
  bool transposed = false;        ///< whether numbers of a token lie in columns
};

struct SeenLayer {
  std::size_t model_layer = 0;
  SeenRows keys, values;
  std::size_t query_heads = 0, kv_heads = 0, head_dim = 0;  ///< as attention has them
  bool sinks = false;  ///< whether a part of the attention may go to none of the entries (learned sinks)
  infinipot::Rope rope = {};  ///< of keys; without frequencies if none turns them
};

/// Notes all layers that write to the cache.
class CacheListener final : public Listener {
 public:
  std::span<const SeenLayer> layers() const noexcept { return layers_; }
  /// Why the graph was not understood; empty if it was.
  const std::string& problem() const noexcept { return problem_; }

  bool wants_written() const noexcept override { return true; }
  void written(Written what, std::size_t layer, const ggml_tensor& node) noexcept override;
  void written_elsewhere(const ggml_tensor& cache) noexcept override {
    problem_ = std::string("it also writes to ") + cache.name + ", of which a pot holds nothing";
  }
  bool wants_attention() const noexcept override { return true; }
  bool attention(std::size_t layer, const ggml_tensor& node) noexcept override;

 private:
  SeenLayer& layer(std::size_t model_layer);

  std::vector<SeenLayer> layers_;  // ascending
  std::string problem_;
};

}  // namespace llama_cpp
