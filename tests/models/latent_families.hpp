// DeepSeek V3, after transformers' modeling_deepseek_v3.py.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "attention.hpp"
#include "decoder_layer.hpp"
#include "dense_families.hpp"
#include "experts.hpp"
#include "golden_model.hpp"
#include "infinipot/rope.hpp"
#include "latent_attention.hpp"
#include "model.hpp"
#include "rotation.hpp"

namespace models {

/// YaRN's factor on queries and keys, as far as it is on channels without position too, is in the scale.
inline Form latent_form(const GoldenModel& golden) {
  const auto& rope = golden.config("rope_parameters");
  const double channels = golden.number("qk_nope_head_dim") + golden.number("qk_rope_head_dim");
  double factor = 1;
  if (rope.contains("mscale_all_dim"))
    factor = 0.1 * rope.at("mscale_all_dim").get<double>() * std::log(rope.at("factor").get<double>()) + 1;
  return {.scale = factor * factor / std::sqrt(channels)};
}

inline std::unique_ptr<Block> latent_feed_forward(const GoldenModel& golden, std::size_t layer,
                                                  const std::string& name) {
  if (layer < golden.size("first_k_dense_replace")) return gated(golden, name, silu);
  return std::make_unique<Experts>(golden, name, GroupedRouter(golden, name),
                                   gated(golden, name + ".shared_experts", silu));
}

/// `latent`: the pot holds latent rows, else expanded keys and values.
inline Model deepseek_v3(const GoldenModel& golden, bool latent) {
  const double epsilon = golden.number("rms_norm_eps");
  const std::size_t row = golden.size("kv_lora_rank"), still = golden.size("qk_nope_head_dim"),
                    turning = golden.size("qk_rope_head_dim");
  Model model = empty_model(golden, {golden, "model.norm", epsilon});
  model.shape.kv_heads = latent ? 1 : model.shape.query_heads;
  model.shape.head_dim = (latent ? row : still) + turning;
  model.shape.value_dim = latent ? 0 : golden.size("v_head_dim");
  const bool interleaved = golden.at("config").value("rope_interleave", true);
  model.rope = rope_of(golden.config("rope_parameters"), turning,
                       interleaved ? infinipot::Pairing::interleaved : infinipot::Pairing::half_split);
  model.rope.first_channel = latent ? row : still;
  const auto rotation = std::make_shared<Rotation>(model.rope);
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    LatentWeights weights(golden, name + ".self_attn");
    auto attention =
        latent
            ? pot_attention<LatentAttention>(model, latent_projections(std::move(weights), rotation),
                                             latent_form(golden), row)
            : pot_attention(model, expanded_projections(std::move(weights), rotation), latent_form(golden));
    model.layers.push_back(std::make_unique<SequentialLayer>(
        SequentialLayer::Part{{golden, name + ".input_layernorm", epsilon}, std::move(attention)},
        SequentialLayer::Part{{golden, name + ".post_attention_layernorm", epsilon},
                              latent_feed_forward(golden, i, name + ".mlp")}));
  }
  return model;
}

inline Model deepseek_v3_latent(const GoldenModel& golden, std::size_t /*longest_call*/) {
  return deepseek_v3(golden, true);
}
inline Model deepseek_v3_expanded(const GoldenModel& golden, std::size_t /*longest_call*/) {
  return deepseek_v3(golden, false);
}

}  // namespace models
