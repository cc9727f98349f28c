// A Llama model of a few thousand random weights, and an obvious forward pass in double precision.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gguf_writer.hpp"
#include "infinipot/shape.hpp"

namespace smollm2::test {

/// Sizes that are no multiples of anything that the engine might like; only some channels turn.
struct TinyLlama {
  std::size_t layers = 2, embedding = 24, feed_forward = 37, query_heads = 4, kv_heads = 2, rotary_dim = 4;
  std::size_t vocab_size;
  std::string architecture = "llama";
  float theta = 100, epsilon = 1e-5F;
  bool tied = true;
  std::map<std::string, std::vector<float>> tensors;  // by name, (outputs, inputs)
  std::map<std::string, std::vector<std::uint64_t>> dims;
  std::vector<double> frequencies;  // (rotary_dim / 2) of a scaled RoPE; powers of theta if there are none
  double attention_factor = 1;

  explicit TinyLlama(bool tied_output = true, std::size_t vocabulary = 53)
      : vocab_size(vocabulary), tied(tied_output) {
    add("token_embd.weight", vocab_size, embedding);
    add("output_norm.weight", 1, embedding);
    if (!tied) add("output.weight", vocab_size, embedding);
    for (std::size_t i = 0; i < layers; ++i) {
      const std::string block = prefix(i);
      add(block + "attn_norm.weight", 1, embedding);
      add(block + "attn_q.weight", embedding, embedding);
      add(block + "attn_k.weight", kv_heads * head_dim(), embedding);
      add(block + "attn_v.weight", kv_heads * head_dim(), embedding);
      add(block + "attn_output.weight", embedding, embedding);
      add(block + "ffn_norm.weight", 1, embedding);
      add(block + "ffn_gate.weight", feed_forward, embedding);
      add(block + "ffn_up.weight", feed_forward, embedding);
      add(block + "ffn_down.weight", embedding, feed_forward);
    }
  }

  std::size_t head_dim() const { return embedding / query_heads; }
  static std::string prefix(std::size_t layer) { return "blk." + std::to_string(layer) + "."; }

  /// As a file; `changed` replaces unsigned metadata of the same name.
  GgufWriter file(const std::map<std::string, std::uint32_t>& changed = {}) const {
    GgufWriter writer;
    writer.string("general.architecture", architecture);
    std::map<std::string, std::size_t> numbers{{"block_count", layers},
                                               {"embedding_length", embedding},
                                               {"feed_forward_length", feed_forward},
                                               {"context_length", 512},
                                               {"attention.head_count", query_heads},
                                               {"attention.head_count_kv", kv_heads},
                                               {"rope.dimension_count", rotary_dim}};
    for (const auto& [name, number] : changed) numbers[name] = number;
    for (const auto& [name, number] : numbers)
      writer.u32(architecture + "." + name, static_cast<std::uint32_t>(number));
    writer.f32(architecture + ".rope.freq_base", theta)
        .f32(architecture + ".attention.layer_norm_rms_epsilon", epsilon);
    for (const auto& [name, numbers_of] : tensors)
      writer.tensor(name, GgmlType::f32, dims.at(name), std::as_bytes(std::span(numbers_of)));
    return writer;
  }

  void add(const std::string& name, std::size_t outputs, std::size_t inputs) {
    std::normal_distribution<float> normal(outputs == 1 ? 1.0F : 0.0F, outputs == 1 ? 0.2F : 0.4F);
    std::vector<float>& numbers = tensors[name];
    for (std::size_t i = 0; i < outputs * inputs; ++i) numbers.push_back(normal(random_));
    dims[name] = {inputs};
    if (outputs > 1) dims[name].push_back(outputs);
  }

 private:
  std::mt19937 random_{7};
};

using Vector = std::vector<double>;

/// Whether a token at position `row` attends to the earlier one `entry` in (layer, kv head).
using Visible =
    std::function<bool(std::size_t layer, std::size_t kv_head, std::size_t row, std::size_t entry)>;

/// The position at which the token of position `row` meets `entry`, itself included, in (layer, kv head).
using Position =
    std::function<std::size_t(std::size_t layer, std::size_t kv_head, std::size_t row, std::size_t entry)>;

/// What a forward pass over all tokens at positions 0, 1, ... gives.
struct SlowForward {
  std::vector<Vector> logits;                // (tokens, vocab_size)
  std::vector<std::vector<Vector>> queries;  // (layers, tokens, query_heads * head_dim), rotated
  std::vector<std::vector<Vector>> keys;     // (layers, tokens, kv_heads * head_dim), rotated
  std::vector<std::vector<Vector>> values;   // (layers, tokens, kv_heads * head_dim)

  /// Without `is_visible` all earlier tokens are; without `position` all stay where they were.
  SlowForward(const TinyLlama& model, std::span<const infinipot::Token> tokens, Visible is_visible = {},
              Position position = {})
      : m_(model), visible_(std::move(is_visible)), position_(std::move(position)) {
    const std::vector<float>& embedding = weights("token_embd.weight");
    std::vector<Vector> x;
    for (const infinipot::Token token : tokens) {
      const auto row = embedding.begin() + token * static_cast<std::ptrdiff_t>(m_.embedding);
      x.emplace_back(row, row + static_cast<std::ptrdiff_t>(m_.embedding));
    }
    for (std::size_t layer = 0; layer < m_.layers; ++layer) run_layer(TinyLlama::prefix(layer), x);
    for (const Vector& row : x)
      logits.push_back(
          product(m_.tied ? "token_embd.weight" : "output.weight", norm("output_norm.weight", row)));
  }

 private:
  const std::vector<float>& weights(const std::string& name) const { return m_.tensors.at(name); }

  Vector product(const std::string& name, const Vector& x) const {
    const std::vector<float>& w = weights(name);
    Vector y(w.size() / x.size());
    for (std::size_t o = 0; o < y.size(); ++o)
      for (std::size_t i = 0; i < x.size(); ++i) y[o] += static_cast<double>(w[o * x.size() + i]) * x[i];
    return y;
  }

  Vector norm(const std::string& name, Vector x) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale =
        1 / std::sqrt(squares / static_cast<double>(x.size()) + static_cast<double>(m_.epsilon));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= scale * static_cast<double>(weights(name)[i]);
    return x;
  }

  Vector rotated(Vector x, std::size_t position) const {
    for (std::size_t head = 0; head < x.size() / m_.head_dim(); ++head)
      for (std::size_t pair = 0; pair < m_.rotary_dim / 2; ++pair) {
        const double angle = static_cast<double>(position) * frequency(pair);
        double& a = x[head * m_.head_dim() + 2 * pair];
        double& b = x[head * m_.head_dim() + 2 * pair + 1];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = m_.attention_factor * (a * std::sin(angle) + b * std::cos(angle));
        a = m_.attention_factor * turned;
      }
    return x;
  }

  double frequency(std::size_t pair) const {
    if (!m_.frequencies.empty()) return m_.frequencies[pair];
    return std::pow(static_cast<double>(m_.theta),
                    -2 * static_cast<double>(pair) / static_cast<double>(m_.rotary_dim));
  }

  /// All kv heads of `entry` of the newest layer, as `row` meets them in `kv_head`.
  Vector key(std::size_t kv_head, std::size_t row, std::size_t entry) const {
    if (!position_) return keys.back()[entry];
    return rotated(projected_keys_[entry], position_(keys.size() - 1, kv_head, row, entry));
  }

  std::size_t own_position(std::size_t row) const {
    return position_ ? position_(keys.size() - 1, 0, row, row) : row;
  }

  /// What query head `head` of token `row` reads from the newest layer.
  Vector attend(std::size_t row, std::size_t head) const {
    const std::size_t d = m_.head_dim(), kv = head / (m_.query_heads / m_.kv_heads);
    Vector read(d);
    double sum = 0;
    for (std::size_t entry = 0; entry <= row; ++entry) {
      if (entry < row && visible_ && !visible_(keys.size() - 1, kv, row, entry)) continue;
      const Vector met = key(kv, row, entry);
      double score = 0;
      for (std::size_t i = 0; i < d; ++i) score += queries.back()[row][head * d + i] * met[kv * d + i];
      const double weight = std::exp(score / std::sqrt(static_cast<double>(d)));
      for (std::size_t i = 0; i < d; ++i) read[i] += weight * values.back()[entry][kv * d + i];
      sum += weight;
    }
    for (double& value : read) value /= sum;
    return read;
  }

  void run_layer(const std::string& block, std::vector<Vector>& x) {
    queries.emplace_back();
    keys.emplace_back();
    values.emplace_back();
    projected_keys_.clear();
    for (std::size_t row = 0; row < x.size(); ++row) {
      const Vector h = norm(block + "attn_norm.weight", x[row]);
      queries.back().push_back(rotated(product(block + "attn_q.weight", h), own_position(row)));
      projected_keys_.push_back(product(block + "attn_k.weight", h));
      keys.back().push_back(rotated(projected_keys_.back(), own_position(row)));
      values.back().push_back(product(block + "attn_v.weight", h));
    }
    for (std::size_t row = 0; row < x.size(); ++row) {
      Vector mixed;
      for (std::size_t head = 0; head < m_.query_heads; ++head)
        for (const double value : attend(row, head)) mixed.push_back(value);
      add_to(x[row], product(block + "attn_output.weight", mixed));
      const Vector h = norm(block + "ffn_norm.weight", x[row]);
      Vector gate = product(block + "ffn_gate.weight", h);
      const Vector up = product(block + "ffn_up.weight", h);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      add_to(x[row], product(block + "ffn_down.weight", gate));
    }
  }

  static void add_to(Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  const TinyLlama& m_;
  Visible visible_;
  Position position_;
  std::vector<Vector> projected_keys_;  // of the newest layer, not rotated
};

}  // namespace smollm2::test
