// Models whose layers are attention and a feed-forward network, after transformers' modeling_*.py.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "attention.hpp"
#include "decoder_layer.hpp"
#include "feed_forward.hpp"
#include "golden_model.hpp"
#include "infinipot/rope.hpp"
#include "model.hpp"
#include "norm.hpp"
#include "rotation.hpp"
#include "window_attention.hpp"

namespace models {

inline std::string layer_name(std::size_t i) { return "model.layers." + std::to_string(i); }

/// Whether the config calls layer i a layer of kind `kind`, full_attention if it says nothing.
inline bool is_layer(const GoldenModel& golden, std::size_t i, const std::string& kind) {
  if (!golden.at("config").contains("layer_types")) return kind == "full_attention";
  return golden.config("layer_types").at(i) == kind;
}

/// A model without layers.
inline Model empty_model(const GoldenModel& golden, Norm norm) {
  Model model;
  model.shape = {.query_heads = golden.size("num_attention_heads"),
                 .kv_heads = golden.size("num_key_value_heads"),
                 .head_dim = golden.head_dim()};
  model.embedding = golden.matrix("model.embed_tokens.weight");
  model.norm = std::move(norm);
  model.head = golden.has("lm_head.weight") ? golden.matrix("lm_head.weight") : model.embedding;
  return model;
}

/// The next layer of the pot.
template <class Attention = PotAttention, class... More>
std::unique_ptr<Block> pot_attention(Model& model, Projections projections, const Form& form, More... more) {
  const std::size_t layer = model.shape.layers++;
  if (!projections.rotation && model.rope.rotary_dim() > 0) model.layers_without_rope.push_back(layer);
  model.forms.push_back(form);
  return std::make_unique<Attention>(layer, std::move(projections), form, more...);
}

/// The same, or over a window, as the config says.
inline std::unique_ptr<Block> attention(const GoldenModel& golden, std::size_t i, std::size_t longest_call,
                                        Model& model, Projections projections, const Form& form) {
  if (is_layer(golden, i, "full_attention")) return pot_attention(model, std::move(projections), form);
  return std::make_unique<WindowAttention>(golden.size("sliding_window"), longest_call,
                                           std::move(projections), form);
}

inline Form plain_form(const GoldenModel& golden) {
  return {.scale = 1 / std::sqrt(static_cast<double>(golden.head_dim()))};
}

/// The next layer: attention over the pot, with norms of query and key heads if there are weights of them,
/// and a gated feed-forward network. Without rotation keys have no position.
inline void add_llama_layer(const GoldenModel& golden, std::size_t i,
                            std::shared_ptr<const Rotation> rotation, Model& model) {
  const double epsilon = golden.number("rms_norm_eps");
  const std::string name = layer_name(i);
  Projections part = projections(golden, name, std::move(rotation));
  if (golden.has(name + ".self_attn.q_norm.weight")) {
    part.query_norm = Norm(golden, name + ".self_attn.q_norm", epsilon);
    part.key_norm = Norm(golden, name + ".self_attn.k_norm", epsilon);
  }
  model.layers.push_back(std::make_unique<SequentialLayer>(
      SequentialLayer::Part{{golden, name + ".input_layernorm", epsilon},
                            pot_attention(model, std::move(part), plain_form(golden))},
      SequentialLayer::Part{{golden, name + ".post_attention_layernorm", epsilon},
                            gated(golden, name + ".mlp", silu)}));
}

/// Llama 3, Qwen3 (norms of query and key heads) and SmolLM3 (RoPE in some layers only).
inline Model llama(const GoldenModel& golden, std::size_t /*longest_call*/) {
  Model model = empty_model(golden, {golden, "model.norm", golden.number("rms_norm_eps")});
  model.rope = rope_of(golden.config("rope_parameters"), golden.head_dim());
  const auto rotation = std::make_shared<Rotation>(model.rope);
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const bool rotates =
        !golden.at("config").contains("no_rope_layers") || golden.config("no_rope_layers").at(i) == 1;
    add_llama_layer(golden, i, rotates ? rotation : nullptr, model);
  }
  return model;
}

/// Phi-3: one matrix for query, key and value, one for gate and up; RoPE of a part of the channels.
inline Model phi3(const GoldenModel& golden, std::size_t /*longest_call*/) {
  const double epsilon = golden.number("rms_norm_eps");
  Model model = empty_model(golden, {golden, "model.norm", epsilon});
  const double rotary_dim = golden.number("partial_rotary_factor") * static_cast<double>(golden.head_dim());
  model.rope = rope_of(golden.config("rope_parameters"), static_cast<std::size_t>(rotary_dim));
  const auto rotation = std::make_shared<Rotation>(model.rope);
  const std::size_t queries = model.shape.query_heads * model.shape.head_dim,
                    keys = model.shape.kv_heads * model.shape.head_dim,
                    width = golden.size("intermediate_size");
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    const Linear all = golden.linear(name + ".self_attn.qkv_proj");
    const Linear both = golden.linear(name + ".mlp.gate_up_proj");
    Projections part{.query_heads = model.shape.query_heads,
                     .kv_heads = model.shape.kv_heads,
                     .query = all.part(0, queries),
                     .key = all.part(queries, keys),
                     .value = all.part(queries + keys, keys),
                     .output = golden.linear(name + ".self_attn.o_proj"),
                     .rotation = rotation};
    model.layers.push_back(std::make_unique<SequentialLayer>(
        SequentialLayer::Part{{golden, name + ".input_layernorm", epsilon},
                              pot_attention(model, std::move(part), plain_form(golden))},
        SequentialLayer::Part{
            {golden, name + ".post_attention_layernorm", epsilon},
            std::make_unique<GatedFeedForward>(both.part(0, width), both.part(width, width),
                                               golden.linear(name + ".mlp.down_proj"), silu)}));
  }
  return model;
}

/// Cohere2: RoPE in window layers only, attention and feed-forward network side by side.
inline Model cohere2(const GoldenModel& golden, std::size_t longest_call) {
  const double epsilon = golden.number("layer_norm_eps");
  const NormKind kind{.centers = true};
  Model model = empty_model(golden, {golden, "model.norm", epsilon, kind});
  model.logit_scale = golden.number("logit_scale");
  const auto rotation = std::make_shared<Rotation>(
      rope_of(golden.config("rope_parameters"), golden.head_dim(), infinipot::Pairing::interleaved));
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    Projections part = projections(golden, name, is_layer(golden, i, "full_attention") ? nullptr : rotation);
    model.layers.push_back(std::make_unique<ParallelLayer>(
        Norm(golden, name + ".input_layernorm", epsilon, kind),
        attention(golden, i, longest_call, model, std::move(part), plain_form(golden)),
        gated(golden, name + ".mlp", silu)));
  }
  return model;
}

/// Gemma 3: another RoPE in window layers, norms before and behind each part and of heads.
inline Model gemma3(const GoldenModel& golden, std::size_t longest_call) {
  const double epsilon = golden.number("rms_norm_eps");
  const auto norm = [&](const std::string& name) { return Norm(golden, name, epsilon, {.weight_from = 1}); };
  Model model = empty_model(golden, norm("model.norm"));
  model.embedding_scale = std::sqrt(golden.number("hidden_size"));
  const auto rotation = [&](const char* kind) {
    return std::make_shared<Rotation>(rope_of(golden.config("rope_parameters").at(kind), golden.head_dim()));
  };
  const auto full = rotation("full_attention"), window = rotation("sliding_attention");
  model.rope = full->rope();
  const Form form{.scale = 1 / std::sqrt(golden.number("query_pre_attn_scalar"))};
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    Projections part = projections(golden, name, is_layer(golden, i, "full_attention") ? full : window);
    part.query_norm = norm(name + ".self_attn.q_norm");
    part.key_norm = norm(name + ".self_attn.k_norm");
    model.layers.push_back(std::make_unique<SequentialLayer>(
        SequentialLayer::Part{norm(name + ".input_layernorm"),
                              attention(golden, i, longest_call, model, std::move(part), form),
                              norm(name + ".post_attention_layernorm")},
        SequentialLayer::Part{norm(name + ".pre_feedforward_layernorm"),
                              gated(golden, name + ".mlp", gelu_tanh),
                              norm(name + ".post_feedforward_layernorm")}));
  }
  return model;
}

/// gpt-oss: learned sinks in all layers, experts.
inline Model gpt_oss(const GoldenModel& golden, std::size_t longest_call) {
  const double epsilon = golden.number("rms_norm_eps");
  Model model = empty_model(golden, {golden, "model.norm", epsilon});
  model.rope = rope_of(golden.config("rope_parameters"), golden.head_dim());
  const auto rotation = std::make_shared<Rotation>(model.rope);
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    Form form = plain_form(golden);
    const Vector sinks = golden.numbers(name + ".self_attn.sinks");
    form.sinks.assign(sinks.begin(), sinks.end());
    model.layers.push_back(std::make_unique<SequentialLayer>(
        SequentialLayer::Part{
            {golden, name + ".input_layernorm", epsilon},
            attention(golden, i, longest_call, model, projections(golden, name, rotation), form)},
        SequentialLayer::Part{{golden, name + ".post_attention_layernorm", epsilon},
                              std::make_unique<GptOssExperts>(golden, name + ".mlp")}));
  }
  return model;
}

}  // namespace models
