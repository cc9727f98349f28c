// A tiny but real transformer for tests: embedding, attention with GQA and RoPE, residual, output matrix. Its
// weights are hashes of their indices, the same everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace toy {

using infinipot::KeyStorage;
using infinipot::Pairing;
using infinipot::Rope;
using infinipot::Shape;
using infinipot::Token;

/// SplitMix64's mixing function.
inline std::uint64_t hash(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31U);
}

/// Tokens 0 .. vocabulary - 1, drawn by the seed.
inline std::vector<Token> text(std::size_t length, std::uint64_t seed, std::size_t vocabulary = 50) {
  std::vector<Token> tokens(length);
  for (std::size_t i = 0; i < length; ++i) tokens[i] = static_cast<Token>(hash(seed << 32U | i) % vocabulary);
  return tokens;
}

struct Matrix {
  /// Values between -scale and scale; `tensor` tells one matrix from another.
  Matrix(std::uint64_t tensor, std::size_t row_count, std::size_t column_count, float scale)
      : columns(column_count), values(row_count * column_count) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] =
          scale * (static_cast<float>(hash(tensor << 32U | i) >> 40U) * 0x1p-23F - 1);  // 24 bits: exact
  }

  std::span<const float> row(std::size_t i) const { return std::span(values).subspan(i * columns, columns); }
  std::size_t rows() const { return values.size() / columns; }

  std::size_t columns;
  std::vector<float> values;
};

/// What comes between q.k and the softmax in one layer; 0 is the default, or none.
struct LayerForm {
  float scale = 0;
  float soft_cap = 0;
  std::size_t window = 0;         // sliding
  std::vector<float> sinks = {};  // learned, (query_heads) or none
};

struct Layer {
  /// Of values of `value_width` channels.
  Layer(std::uint64_t tensor, const Shape& shape, std::size_t value_width, std::size_t width)
      : query(tensor, shape.query_heads * shape.head_dim, width, 0.4F),
        key(tensor + 1, shape.kv_heads * shape.head_dim, width, 0.4F),
        value(tensor + 2, shape.kv_heads * shape.value_channels(), width, 0.4F),
        output(tensor + 3, width, shape.query_heads * value_width, 0.3F) {}

  Matrix query, key, value, output;
  LayerForm form;
  bool rotates = true;  // whether it has RoPE
};

/// What a model remembers beside the keys and values of the store; none of it by default.
struct Outside {
  std::size_t window = 0;         ///< of a layer with a sliding window, before all others; 0: there is none
  std::vector<float> sinks = {};  ///< of that layer, (query_heads) or none
  float recurrence = 0;           ///< how much of a recurrent state is added to what goes into the layers
};

struct Model {
  explicit Model(Rope positions = infinipot::plain_rope(8, 100),
                 Shape dimensions = {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8})
      : shape(dimensions), rope(std::move(positions)) {
    for (std::size_t i = 0; i < shape.layers; ++i)
      layers.emplace_back(10 + 10 * i, shape, value_width(), width);
  }

  /// Channels of a value. A shape without values reads them from the key's row: the channels before those
  /// that RoPE turns (MLA).
  std::size_t value_width() const {
    return shape.value_channels() == 0 ? rope.first_channel : shape.value_channels();
  }

  /// The Rope that turns a layer's keys.
  Rope rope_of(std::size_t layer) const { return layers[layer].rotates ? rope : Rope{}; }

  std::vector<std::size_t> layers_without_rope() const {
    std::vector<std::size_t> without;
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (!layers[i].rotates) without.push_back(i);
    return without;
  }

  static constexpr std::size_t vocabulary = 50;
  static constexpr std::size_t width = 16;
  Shape shape;
  Rope rope;
  std::vector<Layer> layers;
  Outside outside;              // what it remembers beside keys and values of the store
  float learned_positions = 0;  // how much of a position's own vector is added to a token's
  Matrix embedding{1, vocabulary, width, 1};
  Matrix prediction{2, vocabulary, width, 1};
};

/// Learned sinks for all query heads of a layer, from -2 to 2.
inline std::vector<float> some_sinks(const Model& model, std::uint64_t seed) {
  return Matrix(1000 + seed, 1, model.shape.query_heads, 2).values;
}

template <class T = float>
infinipot::Pot<T> make_pot(const Model& model, std::size_t capacity, std::size_t max_keep,
                           infinipot::Granularity granularity = infinipot::Granularity::head,
                           KeyStorage storage = KeyStorage::rotated) {
  return infinipot::Pot<T>({.shape = model.shape,
                            .capacity = capacity,
                            .max_keep = max_keep,
                            .granularity = granularity,
                            .key_storage = storage,
                            .rope = model.rope,
                            .layers_without_rope = model.layers_without_rope()});
}

}  // namespace toy
