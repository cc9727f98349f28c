// One tiny model of random weights for each family of today's, as GGUF files that llama.cpp loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "infinipot/rope.hpp"
#include "tiny_family.hpp"
#include "tiny_models.hpp"

namespace llama_cpp::test {

/// YaRN with its attention factor, in a context of four times what it was trained with.
inline TinyFamily tiny_yarn(const TinySizes& sizes = {}) {
  TinyFamily family = tiny::family("llama, YaRN", sizes, "gggg", infinipot::Pairing::interleaved);
  family.file = tiny::scaled_llama(sizes, "yarn", [](tiny::GgufWriter& writer) {
    writer.f32("llama.rope.scaling.factor", 4).u32("llama.rope.scaling.original_context_length", 128);
  });
  return family;
}

inline TinyFamily tiny_attention_factor(const TinySizes& sizes = {}) {
  TinyFamily family = tiny::family("llama, attention factor", sizes, "gggg", infinipot::Pairing::interleaved);
  family.file = tiny::scaled_llama(sizes, "longrope", [](tiny::GgufWriter& writer) {
    writer.f32("llama.rope.scaling.attn_factor", 1.19F);
  });
  return family;
}

inline TinyFamily tiny_linear(const TinySizes& sizes = {}) {
  TinyFamily family = tiny::family("llama, linear", sizes, "gggg", infinipot::Pairing::interleaved);
  family.file = tiny::scaled_llama(
      sizes, "linear", [](tiny::GgufWriter& writer) { writer.f32("llama.rope.scaling.factor", 4); });
  return family;
}

inline TinyFamily tiny_qwen3(const TinySizes& sizes = {}) {
  TinyFamily family = tiny::family("qwen3", sizes, "gggg", infinipot::Pairing::half_split);
  family.file =
      tiny_file_of("qwen3", with_head_norms(tiny::llama(sizes)),
                   {{"attention.key_length", sizes.head_dim}, {"attention.value_length", sizes.head_dim}})
          .f32("qwen3.rope.freq_base", 1000)
          .build();
  return family;
}

/// Positions of three numbers, which are equal where the text is text (M-RoPE).
inline TinyFamily tiny_qwen2vl(const TinySizes& sizes = {}) {
  TinyFamily family = tiny::family("qwen2vl, text", sizes, "gggg", infinipot::Pairing::half_split);
  const auto pairs = static_cast<std::int32_t>(sizes.head_dim / 2);
  family.file = tiny_file_of("qwen2vl", tiny::llama(sizes))
                    .f32("qwen2vl.rope.freq_base", 1000)
                    .ints("qwen2vl.rope.dimension_sections", {1, 1, pairs - 2, 0})
                    .build();
  return family;
}

/// Every fourth layer has no RoPE.
inline TinyFamily tiny_smollm3(const TinySizes& sizes = {}) {
  TinyFamily family = tiny::family("smollm3", sizes, "gggn", infinipot::Pairing::interleaved);
  family.file = tiny_file_of("smollm3", tiny::llama(sizes)).f32("smollm3.rope.freq_base", 1000).build();
  return family;
}

/// Windows in two of three layers, the first one among them, with a RoPE of their own; or, with a pattern of
/// 0, in all.
inline TinyFamily tiny_gemma3(TinySizes sizes = {}, std::size_t window = 24, std::size_t pattern = 3) {
  sizes.layers = 6;
  TinyFamily family = tiny::family("gemma3", sizes, "wwgwwg", infinipot::Pairing::half_split);
  // llama.cpp's GELU rounds to 11 bits, where the last bit of a float decides between neighbours.
  family.float_error = 0x1p-11;
  family.window = window;
  tiny::TinyLlama model = with_head_norms(tiny::llama(sizes));
  tiny::for_blocks(model, [&](const std::string& block) {
    for (const char* name : {"post_attention_norm", "post_ffw_norm"})
      model.add(block + name + ".weight", 1, sizes.width());
  });
  family.file = tiny_file_of("gemma3", model,
                             {{"attention.sliding_window", window},
                              {"attention.sliding_window_pattern", pattern},
                              {"attention.key_length", sizes.head_dim},
                              {"attention.value_length", sizes.head_dim}})
                    .f32("gemma3.rope.freq_base", 1000)
                    .f32("gemma3.rope.freq_base_swa", 100)
                    .build();
  return family;
}

/// Windows with RoPE in every other layer, all without RoPE in the rest.
inline TinyFamily tiny_cohere2(const TinySizes& sizes = {}, std::size_t window = 24) {
  TinyFamily family = tiny::family("cohere2", sizes, "wnwn", infinipot::Pairing::interleaved);
  family.window = window;
  tiny::TinyLlama model = tiny::llama(sizes);
  tiny::remove(model, {"ffn_norm.weight"});
  family.file = tiny_file_of("cohere2", model,
                             {{"attention.sliding_window", window}, {"attention.sliding_window_pattern", 2}})
                    .f32("cohere2.rope.freq_base", 1000)
                    .f32("cohere2.logit_scale", 1)
                    .f32("cohere2.attention.layer_norm_epsilon", 1e-5F)
                    .build();
  return family;
}

namespace tiny {

/// Experts, learned sinks and biases in place of an ordinary feed-forward part.
inline TinyLlama gpt_oss(const TinySizes& sizes, std::size_t experts, std::size_t feed_forward) {
  const std::size_t width = sizes.width(), kv_width = sizes.kv_heads * sizes.head_dim;
  TinyLlama model = llama(sizes);
  remove(model, {"ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"});
  model.add("output.weight", model.vocab_size, width);
  for_blocks(model, [&](const std::string& block) {
    model.add(block + "post_attention_norm.weight", 1, width);
    add_bias(model, block + "attn_q.bias", width);
    add_bias(model, block + "attn_k.bias", kv_width);
    add_bias(model, block + "attn_v.bias", kv_width);
    add_bias(model, block + "attn_output.bias", width);
    model.add(block + "attn_sinks.weight", 1, sizes.query_heads);  // around 1: they weigh as much as entries
    model.add(block + "ffn_gate_inp.weight", experts, width);
    add_bias(model, block + "ffn_gate_inp.bias", experts);
    for (const std::string name : {"ffn_gate_exps", "ffn_up_exps"}) {
      add_stack(model, block + name + ".weight", experts, feed_forward, width);
      model.add(block + name + ".bias", experts, feed_forward);
    }
    add_stack(model, block + "ffn_down_exps.weight", experts, width, feed_forward);
    model.add(block + "ffn_down_exps.bias", experts, width);
  });
  return model;
}

}  // namespace tiny

/// Learned sinks, windows in every other layer, experts, YaRN.
inline TinyFamily tiny_gpt_oss(const TinySizes& sizes = {}, std::size_t window = 24) {
  constexpr std::size_t experts = 4, feed_forward = 20;
  TinyFamily family = tiny::family("gpt-oss", sizes, "wgwg", infinipot::Pairing::half_split);
  family.experts = true;
  family.window = window;
  family.file = tiny_file_of("gpt-oss", tiny::gpt_oss(sizes, experts, feed_forward),
                             {{"attention.sliding_window", window},
                              {"attention.key_length", sizes.head_dim},
                              {"attention.value_length", sizes.head_dim},
                              {"expert_count", experts},
                              {"expert_used_count", 2},
                              {"expert_feed_forward_length", feed_forward},
                              {"rope.scaling.original_context_length", 128}})
                    .string("gpt-oss.rope.scaling.type", "yarn")
                    .f32("gpt-oss.rope.scaling.factor", 4)
                    .f32("gpt-oss.rope.freq_base", 1000)
                    .build();
  return family;
}

/// Multi-head latent attention: a row of `rank` latent and `turned` rotated channels for all heads.
struct TinyMla {
  std::size_t rank = 16, turned = 8, unturned = 10, value = 12;
};

namespace tiny {

/// What DeepSeek's attention has in both forms.
inline TinyLlama deepseek2(const TinySizes& sizes, const TinyMla& mla) {
  constexpr std::size_t query_rank = 14;
  const std::size_t width = sizes.width(), heads = sizes.query_heads;
  TinyLlama model = llama(sizes);
  remove(model, {"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"});
  for_blocks(model, [&](const std::string& block) {
    model.add(block + "attn_q_a_norm.weight", 1, query_rank);
    model.add(block + "attn_kv_a_norm.weight", 1, mla.rank);
    model.add(block + "attn_q_a.weight", query_rank, width);
    model.add(block + "attn_q_b.weight", heads * (mla.unturned + mla.turned), query_rank);
    model.add(block + "attn_kv_a_mqa.weight", mla.rank + mla.turned, width);
    model.add(block + "attn_output.weight", width, heads * mla.value);
  });
  return model;
}

inline std::vector<std::byte> deepseek2_file(const TinyLlama& model, const TinyMla& mla,
                                             const std::map<std::string, std::size_t>& numbers) {
  std::map<std::string, std::size_t> all{{"leading_dense_block_count", model.layers},
                                         {"attention.q_lora_rank", 14},
                                         {"attention.kv_lora_rank", mla.rank},
                                         {"expert_feed_forward_length", 8},
                                         {"expert_shared_count", 1},
                                         {"rope.dimension_count", mla.turned}};
  all.insert(numbers.begin(), numbers.end());
  return tiny_file_of("deepseek2", model, all).f32("deepseek2.rope.freq_base", 1000).build();
}

}  // namespace tiny

/// Keys are the latent and its rotated channels, one head for all; values are the latent itself.
inline TinyFamily tiny_deepseek2(const TinySizes& sizes = {}, const TinyMla& mla = {}) {
  TinyFamily family = tiny::family("deepseek2", sizes, "gggg", infinipot::Pairing::interleaved);
  family.kv_heads = 1;
  family.head_dim = mla.rank + mla.turned;
  family.value_dim = 0;
  family.first_channel = mla.rank;
  family.turned = mla.turned;
  tiny::TinyLlama model = tiny::deepseek2(sizes, mla);
  model.kv_heads = 1;
  tiny::for_blocks(model, [&](const std::string& block) {
    tiny::add_stack(model, block + "attn_k_b.weight", sizes.query_heads, mla.rank, mla.unturned);
    tiny::add_stack(model, block + "attn_v_b.weight", sizes.query_heads, mla.value, mla.rank);
  });
  family.file = tiny::deepseek2_file(model, mla,
                                     {{"attention.key_length", family.head_dim},
                                      {"attention.value_length", mla.rank},
                                      {"attention.key_length_mla", mla.unturned + mla.turned},
                                      {"attention.value_length_mla", mla.value}});
  return family;
}

/// Keys and values are made out before they are cached; their lengths differ.
inline TinyFamily tiny_expanded_deepseek2(const TinySizes& sizes = {}, const TinyMla& mla = {}) {
  TinyFamily family = tiny::family("deepseek2, expanded", sizes, "gggg", infinipot::Pairing::interleaved);
  family.kv_heads = sizes.query_heads;
  family.head_dim = mla.unturned + mla.turned;
  family.value_dim = mla.value;
  family.first_channel = mla.unturned;
  family.turned = mla.turned;
  tiny::TinyLlama model = tiny::deepseek2(sizes, mla);
  model.kv_heads = family.kv_heads;
  tiny::for_blocks(model, [&](const std::string& block) {
    model.add(block + "attn_kv_b.weight", sizes.query_heads * (mla.unturned + mla.value), mla.rank);
  });
  family.file = tiny::deepseek2_file(
      model, mla, {{"attention.key_length", family.head_dim}, {"attention.value_length", mla.value}});
  return family;
}

/// Short convolutions; attention in every other layer, not in the first, to all or to a window.
inline TinyFamily tiny_lfm2(const TinySizes& sizes = {}, std::size_t window = 0) {
  constexpr std::size_t convolved = 3;
  const std::size_t width = sizes.width();
  TinyFamily family = tiny::family("lfm2", sizes, "rgrg", infinipot::Pairing::half_split);
  tiny::TinyLlama model = with_head_norms(tiny::llama(sizes));
  model.tensors["token_embd_norm.weight"] = model.tensors["output_norm.weight"];
  model.dims["token_embd_norm.weight"] = model.dims["output_norm.weight"];
  model.tensors.erase("output_norm.weight");
  std::vector<std::int32_t> kv_heads;
  for (std::size_t layer = 0; layer < sizes.layers; ++layer) {
    const bool recurrent = family.layers[layer] == 'r';
    kv_heads.push_back(recurrent ? 0 : static_cast<std::int32_t>(sizes.kv_heads));
    if (!recurrent) continue;
    const std::string block = model.prefix(layer);
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"})
      model.tensors.erase(block + name + ".weight");
    model.add(block + "shortconv.conv.weight", width, convolved);
    model.add(block + "shortconv.in_proj.weight", 3 * width, width);
    model.add(block + "shortconv.out_proj.weight", width, width);
  }
  family.file =
      tiny_file_of("lfm2", model, {{"shortconv.l_cache", convolved}, {"attention.sliding_window", window}},
                   kv_heads)
          .f32("lfm2.rope.freq_base", 1000)
          .build();
  return family;
}

/// Qwen 3.5: recurrent layers (gated delta nets) beside attention whose positions have several numbers, so
/// that llama.cpp cannot move those of its states.
inline TinyFamily tiny_qwen35(const TinySizes& sizes = {}) {
  constexpr std::size_t state = 8, key_heads = 2, value_heads = 4, convolved = 4;
  constexpr std::size_t inner = state * value_heads, mixed = inner + 2 * state * key_heads;
  const std::size_t width = sizes.width();
  TinyFamily family = tiny::family("qwen35", sizes, "rgrg", infinipot::Pairing::half_split);
  tiny::TinyLlama model = with_head_norms(tiny::llama(sizes));
  tiny::remove(model, {"ffn_norm.weight"});
  for (std::size_t layer = 0; layer < sizes.layers; ++layer) {
    const std::string block = model.prefix(layer);
    model.add(block + "post_attention_norm.weight", 1, width);
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"})
      if (family.layers[layer] == 'r') model.tensors.erase(block + name + ".weight");
    if (family.layers[layer] != 'r') {  // queries and gates
      model.tensors.erase(block + "attn_q.weight");
      model.add(block + "attn_q.weight", 2 * width, width);
      continue;
    }
    model.add(block + "attn_qkv.weight", mixed, width);
    model.add(block + "attn_gate.weight", inner, width);
    model.add(block + "ssm_conv1d.weight", mixed, convolved);
    tiny::add_bias(model, block + "ssm_dt.bias", value_heads);
    model.add(block + "ssm_a", 1, value_heads);
    for (float& decay : model.tensors.at(block + "ssm_a")) decay = -decay;
    model.add(block + "ssm_beta.weight", value_heads, width);
    model.add(block + "ssm_alpha.weight", value_heads, width);
    model.add(block + "ssm_norm.weight", 1, state);
    model.add(block + "ssm_out.weight", width, inner);
  }
  family.file = tiny_file_of("qwen35", model,
                             {{"attention.key_length", sizes.head_dim},
                              {"attention.value_length", sizes.head_dim},
                              {"full_attention_interval", 2},
                              {"ssm.conv_kernel", convolved},
                              {"ssm.inner_size", inner},
                              {"ssm.state_size", state},
                              {"ssm.time_step_rank", value_heads},
                              {"ssm.group_count", key_heads}})
                    .f32("qwen35.rope.freq_base", 1000)
                    .ints("qwen35.rope.dimension_sections",
                          {1, 1, static_cast<std::int32_t>(sizes.head_dim / 2) - 2, 0})
                    .build();
  return family;
}

/// All of them.
inline std::vector<TinyFamily> tiny_families(const TinySizes& sizes = {}) {
  return {tiny_yarn(sizes),
          tiny_attention_factor(sizes),
          tiny_linear(sizes),
          tiny_qwen3(sizes),
          tiny_qwen2vl(sizes),
          tiny_smollm3(sizes),
          tiny_gemma3(sizes),
          tiny_cohere2(sizes),
          tiny_gpt_oss(sizes),
          tiny_deepseek2(sizes),
          tiny_expanded_deepseek2(sizes),
          tiny_lfm2(sizes),
          tiny_qwen35(sizes)};
}

}  // namespace llama_cpp::test
