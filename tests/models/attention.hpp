// Attention over a pot.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "golden_model.hpp"
#include "infinipot/queries.hpp"
#include "matrix.hpp"
#include "norm.hpp"
#include "rotation.hpp"

namespace models {

/// What comes between q.k and the softmax.
struct Form {
  double scale = 1;
  double soft_cap = 0;            ///< 0: none
  std::vector<float> sinks = {};  ///< (query heads) learned logits that stand for no entry; or none
};

/// What one query head gets: the mean of the values, weighted by the softmax of its logits over keys.
inline Vector attend(std::span<const double> query, const Matrix& keys, const Matrix& values,
                     const Form& form, std::size_t head) {
  Vector logits(keys.rows);
  for (std::size_t t = 0; t < keys.rows; ++t) {
    logits[t] = form.scale * dot(query, keys.row(t));
    if (form.soft_cap != 0) logits[t] = form.soft_cap * std::tanh(logits[t] / form.soft_cap);
  }
  double largest = *std::ranges::max_element(logits), sum = 0;
  if (!form.sinks.empty()) {
    largest = std::max<double>(largest, form.sinks[head]);
    sum = std::exp(form.sinks[head] - largest);
  }
  Vector mixed(values.columns);
  for (std::size_t t = 0; t < keys.rows; ++t) {
    const double paid = std::exp(logits[t] - largest);
    sum += paid;
    for (std::size_t k = 0; k < mixed.size(); ++k) mixed[k] += paid * values.row(t)[k];
  }
  for (double& number : mixed) number /= sum;
  return mixed;
}

/// Queries, keys and values of a layer. Heads are equal parts of a row.
struct Projections {
  std::size_t query_heads, kv_heads;
  std::function<Matrix(const Matrix&)> query, key, value;  ///< (tokens, width) -> (tokens, heads * dim)
  Linear output;
  std::optional<Norm> query_norm = {}, key_norm = {};  ///< of each head
  std::shared_ptr<const Rotation> rotation = {};       ///< none: keys have no position
  /// What multiplies the attention's result, by its sigmoid: (tokens, width) -> (tokens, query heads * dim);
  /// or none.
  std::function<Matrix(const Matrix&)> gate = {};
};

/// The projections q_proj, k_proj, v_proj and o_proj of most models.
inline Projections projections(const GoldenModel& model, const std::string& layer,
                               std::shared_ptr<const Rotation> rotation) {
  return {.query_heads = model.size("num_attention_heads"),
          .kv_heads = model.size("num_key_value_heads"),
          .query = model.linear(layer + ".self_attn.q_proj"),
          .key = model.linear(layer + ".self_attn.k_proj"),
          .value = model.linear(layer + ".self_attn.v_proj"),
          .output = model.linear(layer + ".self_attn.o_proj"),
          .rotation = std::move(rotation)};
}

/// Heads of a row, as rows.
inline Matrix heads(std::span<const double> row, std::size_t count) {
  return {count, row.size() / count, Vector(row.begin(), row.end())};
}

/// What both kinds of attention share: projections, norms, RoPE, and the output.
class Attention : public Block {
 public:
  Attention(Projections projections, Form form)
      : projections_(std::move(projections)), form_(std::move(form)) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    const Matrix keys = projections_.key(x), values = projections_.value(x);
    Matrix queries = projections_.query(x);
    for (std::size_t i = 0; i < x.rows; ++i) {
      const Matrix query =
          turned(pass, i, projected(pass, i, queries.row(i), query_heads(), projections_.query_norm));
      std::ranges::copy(query.values, queries.row(i).begin());
      const Matrix key = projected(pass, i, keys.row(i), kv_heads(), projections_.key_norm);
      write(pass, i, key, turned(pass, i, key), heads(values.row(i), kv_heads()));
    }
    written(pass, queries);
    Matrix mixed(x.rows, projections_.output.weight.columns);
    for (std::size_t kv_head = 0; kv_head < kv_heads(); ++kv_head) mix(pass, kv_head, queries, mixed);
    if (projections_.gate) {
      const Matrix gate = projections_.gate(x);
      for (std::size_t i = 0; i < mixed.values.size(); ++i) mixed.values[i] /= 1 + std::exp(-gate.values[i]);
    }
    return projections_.output(mixed);
  }

 protected:
  /// The key of one token and kv head, as projected and turned, and its value.
  virtual void write(const Pass& pass, std::size_t token, const Matrix& projected, const Matrix& turned,
                     const Matrix& value) = 0;
  /// Once keys and values of all tokens are written. (tokens, query heads * head_dim).
  virtual void written(const Pass& /*pass*/, const Matrix& /*queries*/) {}
  /// Where a token stands, for RoPE.
  virtual double position(const Pass& pass, std::size_t token) const = 0;
  /// What a token sees of a kv head.
  virtual std::pair<Matrix, Matrix> seen(const Pass& pass, std::size_t token, std::size_t kv_head) const = 0;

  std::size_t query_heads() const { return projections_.query_heads; }
  std::size_t kv_heads() const { return projections_.kv_heads; }
  const Form& form() const { return form_; }

 private:
  /// Heads before they are turned for their position.
  Matrix projected(const Pass& pass, std::size_t token, std::span<const double> row, std::size_t count,
                   const std::optional<Norm>& norm) const {
    Matrix rows = norm ? (*norm)(heads(row, count)) : heads(row, count);
    if (projections_.rotation)
      for (std::size_t head = 0; head < count; ++head)
        projections_.rotation->prepare(pass, token, rows.row(head));
    return rows;
  }

  Matrix turned(const Pass& pass, std::size_t token, Matrix rows) const {
    if (!projections_.rotation) return rows;
    const Vector angles = projections_.rotation->angles(position(pass, token));
    for (std::size_t head = 0; head < rows.rows; ++head)
      turn(rows.row(head), projections_.rotation->rope(), angles);
    return rows;
  }

  void mix(const Pass& pass, std::size_t kv_head, const Matrix& queries, Matrix& mixed) const {
    const std::size_t group = query_heads() / kv_heads();
    for (std::size_t i = 0; i < queries.rows; ++i) {
      const auto [keys, values] = seen(pass, i, kv_head);
      for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const auto query = queries.row(i).subspan(head * keys.columns, keys.columns);
        const Vector out = attend(query, keys, values, form_, head);
        std::ranges::copy(out, mixed.row(i).subspan(head * out.size()).begin());
      }
    }
  }

  Projections projections_;
  Form form_;
};

/// Over a layer of the pot: entries 0 .. and the token itself.
class PotAttention : public Attention {
 public:
  PotAttention(std::size_t layer, Projections projections, Form form)
      : Attention(std::move(projections), std::move(form)), layer_(layer) {}

 protected:
  std::size_t layer() const { return layer_; }

  std::pair<Matrix, Matrix> seen(const Pass& pass, std::size_t token, std::size_t kv_head) const override {
    const std::size_t count = pass.first + token + 1;
    return {pass.memory.keys(layer_, kv_head, count), pass.memory.values(layer_, kv_head, count)};
  }

 private:
  void write(const Pass& pass, std::size_t token, const Matrix& projected, const Matrix& turned,
             const Matrix& value) override {
    for (std::size_t head = 0; head < kv_heads(); ++head)
      pass.memory.write(layer_, head, pass.first + token, projected.row(head), turned.row(head),
                        value.row(head));
  }

  void written(const Pass& pass, const Matrix& queries) override {
    if (pass.queries == nullptr) return;
    const std::vector<float> shown(queries.values.begin(), queries.values.end());
    const auto token = static_cast<std::ptrdiff_t>(queries.columns);
    pass.queries->layer(
        layer_, {shown.data(), queries.rows, token, token / static_cast<std::ptrdiff_t>(query_heads())});
  }

  double position(const Pass& pass, std::size_t token) const override {
    return static_cast<double>(pass.first + token);
  }

  std::size_t layer_;
};

}  // namespace models
