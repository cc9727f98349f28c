// Models that see pictures: their language models, after transformers' modeling_*.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dense_families.hpp"
#include "golden_model.hpp"
#include "infinipot/rope/mrope.hpp"
#include "model.hpp"
#include "mrope_rotation.hpp"

namespace models {

/// The positions of a stream's tokens: text, height and width. None: it is all text.
using Positions = std::vector<std::array<std::int64_t, 3>>;

/// Qwen2.5-VL, and Qwen3-VL (norms of query and key heads, sections interleaved).
inline Model qwen_vl(const GoldenModel& golden, Positions positions) {
  Model model = empty_model(golden, {golden, "model.norm", golden.number("rms_norm_eps")});
  const auto& parameters = golden.config("rope_parameters");
  const std::array<std::size_t, 3> sections = parameters.at("mrope_section");
  const auto [text, height, width] = sections;
  model.rope = rope_of(parameters, golden.head_dim());
  infinipot::Mrope mrope = parameters.contains("mrope_interleaved")
                               ? infinipot::mrope_interleaved(model.rope, text, height, width)
                               : infinipot::mrope_sections(model.rope, text, height, width);
  const auto rotation = std::make_shared<MropeRotation>(std::move(mrope), std::move(positions));
  for (std::size_t i = 0; i < golden.size("num_hidden_layers"); ++i)
    add_llama_layer(golden, i, rotation, model);
  return model;
}

inline Model qwen_vl(const GoldenModel& golden, std::size_t /*longest_call*/) {
  return qwen_vl(golden, golden.lacks("positions") ? Positions() : golden.at("positions").get<Positions>());
}

}  // namespace models
