// Which layer's attention a node of a graph is taken for.
#include "graph_tap.hpp"

#include <ggml-cpp.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace llama_cpp {
namespace {

struct Heard final : Listener {
  bool wants_attention() const noexcept override { return true; }
  bool attention(std::size_t layer, const ggml_tensor& /*node*/) noexcept override {
    layers.push_back(layer);
    return true;
  }
  std::vector<std::size_t> layers;
};

// Layer 7 reads the keys that layer 3 wrote (Gemma 3n, 4).
TEST(GraphTap, AttentionIsThatOfTheLayerThatWroteTheKeys) {
  const ggml_context_ptr context(
      ggml_init({.mem_size = std::size_t{1} << 16U, .mem_buffer = nullptr, .no_alloc = true}));
  ggml_context* const graph = context.get();
  ggml_tensor* const cache = ggml_new_tensor_2d(graph, GGML_TYPE_F16, 8, 16);
  ggml_set_name(cache, "cache_k_l3");
  ggml_tensor *const keys = ggml_view_2d(graph, cache, 8, 4, cache->nb[1], 0),
                     *const queries = ggml_new_tensor_2d(graph, GGML_TYPE_F32, 8, 2),
                     *const values = ggml_view_2d(graph, cache, 8, 4, cache->nb[1], 0);
  ggml_tensor* const scores = ggml_mul_mat(graph, keys, queries);
  ggml_tensor* const capped = ggml_scale(graph, ggml_tanh(graph, ggml_scale(graph, scores, 0.5F)), 2);
  ggml_tensor *const plain = ggml_soft_max(graph, scores), *const softmax = ggml_soft_max(graph, capped),
                     *const experts = ggml_soft_max(graph, scores),
                     *const flash = ggml_flash_attn_ext(graph, queries, keys, values, nullptr, 1, 0, 0);
  ggml_set_name(plain, "kq_soft_max-3");
  ggml_set_name(softmax, "kq_soft_max-7");
  ggml_set_name(experts, "ffn_moe_probs-7");

  GraphTap tap;
  llama_context_params parameters = llama_context_default_params();
  tap.install(parameters);
  Heard heard;
  const Listening listening(tap, heard);
  for (ggml_tensor* const node : {plain, softmax, experts, flash})
    if (parameters.cb_eval(node, true, parameters.cb_eval_user_data))
      parameters.cb_eval(node, false, parameters.cb_eval_user_data);
  EXPECT_EQ(heard.layers, (std::vector<std::size_t>{3, 3, 3}));
}

}  // namespace
}  // namespace llama_cpp
