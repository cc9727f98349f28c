// Models with layers that keep a state instead of the context, after transformers' modeling_*.py.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "attention.hpp"
#include "decoder_layer.hpp"
#include "delta_net.hpp"
#include "dense_families.hpp"
#include "experts.hpp"
#include "golden_model.hpp"
#include "model.hpp"
#include "norm.hpp"
#include "rotation.hpp"
#include "short_convolution.hpp"

namespace models {

/// Some rows of a matrix of which every head has `part`: from `from` on, `count`.
inline Linear part_of_heads(const Linear& all, std::size_t part, std::size_t from, std::size_t count) {
  Matrix rows(all.weight.rows / part * count, all.weight.columns);
  for (std::size_t i = 0; i < rows.rows; ++i)
    std::ranges::copy(all.weight.row(i / count * part + from + i % count), rows.row(i).begin());
  return {std::move(rows)};
}

/// Qwen3-Next: gated delta net, and attention with a gate and RoPE of a part of the channels; experts.
inline Model qwen3_next(const GoldenModel& golden, std::size_t /*longest_call*/) {
  const auto norm = [&](const std::string& name) {
    return Norm(golden, name, golden.number("rms_norm_eps"), {.weight_from = 1});
  };
  Model model = empty_model(golden, norm("model.norm"));
  const auto& rope = golden.config("rope_parameters");
  const std::size_t channels = golden.head_dim();
  const double rotary_dim = rope.at("partial_rotary_factor").get<double>() * static_cast<double>(channels);
  model.rope = rope_of(rope, static_cast<std::size_t>(rotary_dim));
  const auto rotation = std::make_shared<Rotation>(model.rope);
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    std::unique_ptr<Block> mixer, feed_forward;
    if (is_layer(golden, i, "full_attention")) {
      Projections part = projections(golden, name, rotation);
      const Linear both = golden.linear(name + ".self_attn.q_proj");
      part.query = part_of_heads(both, 2 * channels, 0, channels);
      part.gate = part_of_heads(both, 2 * channels, channels, channels);
      part.query_norm = norm(name + ".self_attn.q_norm");
      part.key_norm = norm(name + ".self_attn.k_norm");
      mixer = pot_attention(model, std::move(part), plain_form(golden));
    } else {
      mixer = std::make_unique<GatedDeltaNet>(golden, name + ".linear_attn");
    }
    if (golden.has(name + ".mlp.gate.weight"))
      feed_forward = std::make_unique<Experts>(golden, name + ".mlp", softmax_router(golden),
                                               gated(golden, name + ".mlp.shared_expert", silu),
                                               golden.linear(name + ".mlp.shared_expert_gate"));
    else
      feed_forward = gated(golden, name + ".mlp", silu);
    model.layers.push_back(std::make_unique<SequentialLayer>(
        SequentialLayer::Part{norm(name + ".input_layernorm"), std::move(mixer)},
        SequentialLayer::Part{norm(name + ".post_attention_layernorm"), std::move(feed_forward)}));
  }
  return model;
}

/// LFM2: short convolutions.
inline Model lfm2(const GoldenModel& golden, std::size_t /*longest_call*/) {
  const auto norm = [&](const std::string& name) { return Norm(golden, name, golden.number("norm_eps")); };
  Model model = empty_model(golden, norm("model.embedding_norm"));
  model.rope = rope_of(golden.config("rope_parameters"), golden.head_dim());
  const auto rotation = std::make_shared<Rotation>(model.rope);
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i), attention = name + ".self_attn";
    std::unique_ptr<Block> mixer;
    if (is_layer(golden, i, "full_attention"))
      mixer = pot_attention(model,
                            {.query_heads = model.shape.query_heads,
                             .kv_heads = model.shape.kv_heads,
                             .query = golden.linear(attention + ".q_proj"),
                             .key = golden.linear(attention + ".k_proj"),
                             .value = golden.linear(attention + ".v_proj"),
                             .output = golden.linear(attention + ".out_proj"),
                             .query_norm = norm(attention + ".q_layernorm"),
                             .key_norm = norm(attention + ".k_layernorm"),
                             .rotation = rotation},
                            plain_form(golden));
    else
      mixer = std::make_unique<ShortConvolution>(golden, name + ".conv");
    const auto weights = [&](const char* which) { return golden.linear(name + ".feed_forward." + which); };
    model.layers.push_back(std::make_unique<SequentialLayer>(
        SequentialLayer::Part{norm(name + ".operator_norm"), std::move(mixer)},
        SequentialLayer::Part{
            norm(name + ".ffn_norm"),
            std::make_unique<GatedFeedForward>(weights("w1"), weights("w3"), weights("w2"), silu)}));
  }
  return model;
}

}  // namespace models
