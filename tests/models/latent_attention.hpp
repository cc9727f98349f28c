// Multi-head latent attention (DeepSeek V2 and V3, Kimi K2, GLM), with either of what an engine may keep of a
// token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "attention.hpp"
#include "golden_model.hpp"
#include "matrix.hpp"
#include "norm.hpp"
#include "rotation.hpp"

namespace models {

/// A layer's weights. A token's latent row (latent) is made into a key without position (still) and a value
/// for each head; channels that RoPE turns (turning) are the same for all heads' keys.
struct LatentWeights {
  LatentWeights(const GoldenModel& model, const std::string& layer)
      : query_heads(model.size("num_attention_heads")),
        latent(model.size("kv_lora_rank")),
        still(model.size("qk_nope_head_dim")),
        turning(model.size("qk_rope_head_dim")),
        value(model.size("v_head_dim")),
        query(query_of(model, layer)),
        row(model.linear(layer + ".kv_a_proj_with_mqa")),
        row_norm(model, layer + ".kv_a_layernorm", 1e-6),
        heads(model.linear(layer + ".kv_b_proj")),
        output(model.linear(layer + ".o_proj")) {}

  /// (tokens, width) -> (tokens, latent + turning): what all heads' keys and values are made of.
  Matrix rows(const Matrix& x) const {
    Matrix all = row(x);
    for (std::size_t i = 0; i < all.rows; ++i) row_norm.apply(all.row(i).first(latent));
    return all;
  }

  /// The weights (latent) of channel k of a head's key, and of its value.
  std::span<const double> of_key(std::size_t head, std::size_t k) const {
    return heads.weight.row(head * (still + value) + k);
  }
  std::span<const double> of_value(std::size_t head, std::size_t k) const { return of_key(head, still + k); }

  std::size_t query_heads, latent, still, turning, value;
  std::function<Matrix(const Matrix&)> query;  // (tokens, query heads * (still + turning))
  Linear row;
  Norm row_norm;
  Linear heads;
  Linear output;

 private:
  static std::function<Matrix(const Matrix&)> query_of(const GoldenModel& model, const std::string& layer) {
    if (model.has(layer + ".q_proj.weight")) return model.linear(layer + ".q_proj");
    return [in = model.linear(layer + ".q_a_proj"), norm = Norm(model, layer + ".q_a_layernorm", 1e-6),
            out = model.linear(layer + ".q_b_proj")](const Matrix& x) { return out(norm(in(x))); };
  }
};

/// A key and a value for each head, of unequal dimensions.
inline Projections expanded_projections(LatentWeights weights, std::shared_ptr<const Rotation> rotation) {
  const auto shared = std::make_shared<const LatentWeights>(std::move(weights));
  const auto key = [shared](const Matrix& x) {
    const LatentWeights& w = *shared;
    const Matrix rows = w.rows(x);
    const std::size_t channels = w.still + w.turning;
    Matrix keys(x.rows, w.query_heads * channels);
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t head = 0; head < w.query_heads; ++head) {
        const auto to = keys.row(i).subspan(head * channels, channels);
        for (std::size_t k = 0; k < w.still; ++k) to[k] = dot(w.of_key(head, k), rows.row(i).first(w.latent));
        std::ranges::copy(rows.row(i).subspan(w.latent), to.subspan(w.still).begin());
      }
    return keys;
  };
  const auto value = [shared](const Matrix& x) {
    const LatentWeights& w = *shared;
    const Matrix rows = w.rows(x);
    Matrix values(x.rows, w.query_heads * w.value);
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t head = 0; head < w.query_heads; ++head)
        for (std::size_t k = 0; k < w.value; ++k)
          values.row(i)[head * w.value + k] = dot(w.of_value(head, k), rows.row(i).first(w.latent));
    return values;
  };
  return {.query_heads = shared->query_heads,
          .kv_heads = shared->query_heads,
          .query = shared->query,
          .key = key,
          .value = value,
          .output = shared->output,
          .rotation = std::move(rotation)};
}

/// The latent row alone, as the key of one kv head, whose first `latent` channels are the value: what makes
/// keys and values of it is absorbed into the queries and the output.
inline Projections latent_projections(LatentWeights weights, std::shared_ptr<const Rotation> rotation) {
  const auto shared = std::make_shared<const LatentWeights>(std::move(weights));
  const auto query = [shared](const Matrix& x) {
    const LatentWeights& w = *shared;
    const Matrix from = w.query(x);
    Matrix queries(x.rows, w.query_heads * (w.latent + w.turning));
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t head = 0; head < w.query_heads; ++head) {
        const auto own = from.row(i).subspan(head * (w.still + w.turning), w.still + w.turning);
        const auto to = queries.row(i).subspan(head * (w.latent + w.turning), w.latent + w.turning);
        for (std::size_t k = 0; k < w.still; ++k)
          for (std::size_t j = 0; j < w.latent; ++j) to[j] += own[k] * w.of_key(head, k)[j];
        std::ranges::copy(own.subspan(w.still), to.subspan(w.latent).begin());
      }
    return queries;
  };
  const LatentWeights& w = *shared;
  Matrix output(w.output.weight.rows, w.query_heads * w.latent);
  for (std::size_t i = 0; i < output.rows; ++i)
    for (std::size_t head = 0; head < w.query_heads; ++head)
      for (std::size_t k = 0; k < w.value; ++k)
        for (std::size_t j = 0; j < w.latent; ++j)
          output.row(i)[head * w.latent + j] +=
              w.output.weight.row(i)[head * w.value + k] * w.of_value(head, k)[j];
  return {.query_heads = w.query_heads,
          .kv_heads = 1,
          .query = query,
          .key = [shared](const Matrix& x) { return shared->rows(x); },
          .value = [](const Matrix& x) { return Matrix(x.rows, 0); },
          .output = {std::move(output)},
          .rotation = std::move(rotation)};
}

/// Over a layer of the pot whose values are the first channels of its keys.
class LatentAttention final : public PotAttention {
 public:
  LatentAttention(std::size_t layer, Projections projections, Form form, std::size_t latent)
      : PotAttention(layer, std::move(projections), std::move(form)), latent_(latent) {}

 private:
  std::pair<Matrix, Matrix> seen(const Pass& pass, std::size_t token, std::size_t kv_head) const override {
    Matrix keys = pass.memory.keys(layer(), kv_head, pass.first + token + 1);
    Matrix values(keys.rows, latent_);
    for (std::size_t t = 0; t < keys.rows; ++t)
      std::ranges::copy(keys.row(t).first(latent_), values.row(t).begin());
    return {std::move(keys), std::move(values)};
  }

  std::size_t latent_;
};

}  // namespace models
