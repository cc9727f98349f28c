// Models that see pictures: their language models, after transformers' modeling_*.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "decoder_layer.hpp"
#include "dense_families.hpp"
#include "feed_forward.hpp"
#include "golden_model.hpp"
#include "infinipot/rope/mrope.hpp"
#include "model.hpp"
#include "mrope_rotation.hpp"
#include "norm.hpp"
#include "rotation.hpp"

namespace models {

/// The positions of a stream's tokens: text, height and width. None: it is all text.
using Positions = std::vector<std::array<std::int64_t, 3>>;

/// Qwen2.5-VL, and Qwen3-VL (norms of query and key heads, sections interleaved).
inline Model qwen_vl(const GoldenModel& golden, Positions positions) {
  const double epsilon = golden.number("rms_norm_eps");
  Model model = empty_model(golden, {golden, "model.norm", epsilon});
  const auto& parameters = golden.config("rope_parameters");
  const std::array<std::size_t, 3> sections = parameters.at("mrope_section");
  const auto [text, height, width] = sections;
  model.rope = rope_of(parameters, golden.head_dim());
  infinipot::Mrope mrope = parameters.contains("mrope_interleaved")
                               ? infinipot::mrope_interleaved(model.rope, text, height, width)
                               : infinipot::mrope_sections(model.rope, text, height, width);
  const auto rotation = std::make_shared<MropeRotation>(std::move(mrope), std::move(positions));
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i) {
    const std::string name = layer_name(i);
    Projections part = projections(golden, name, rotation);
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
  return model;
}

inline Model qwen_vl(const GoldenModel& golden, std::size_t /*longest_call*/) {
  return qwen_vl(golden, golden.lacks("positions") ? Positions() : golden.at("positions").get<Positions>());
}

}  // namespace models
