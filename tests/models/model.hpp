// A model: what its pot must know, and its blocks.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "attention.hpp"
#include "block.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "matrix.hpp"
#include "norm.hpp"

namespace models {

struct Model {
  // Of the layers that keep the whole context.
  infinipot::Shape shape = {};
  infinipot::Rope rope = {};
  std::vector<std::size_t> layers_without_rope = {};
  std::vector<Form> forms = {};

  // All of it. Blocks may have states: one model for each engine.
  Matrix embedding = {};
  double embedding_scale = 1;
  std::vector<std::unique_ptr<Block>> layers = {};
  Norm norm = {};
  Matrix head = {};
  double logit_scale = 1;

  infinipot::PotSettings pot_settings(std::size_t capacity, std::size_t keep) const {
    return {.shape = shape,
            .capacity = capacity,
            .max_keep = keep,
            .rope = rope,
            .layers_without_rope = layers_without_rope};
  }
};

}  // namespace models
