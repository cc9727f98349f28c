// Stands for an inference engine that knows nothing of infinipot: its own memory, its own forward
// pass. It is a toy (one layer, made-up weights) so that the example can run; its interface is like
// that of real engines.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <span>
#include <vector>

class MyEngine {
 public:
  static constexpr std::size_t n_layers = 1, n_heads = 4, n_kv_heads = 2, head_dim = 8,
                               n_vocab = 128, n_rows = 64;

  // Called with the queries of a layer, (tokens, n_heads, head_dim), if set.
  std::function<void(std::size_t layer, const float* queries)> on_queries;

  // Keys and values as this engine likes them: (n_layers, n_rows, n_kv_heads, head_dim), rotated in
  // place.
  float* keys() { return keys_.data(); }
  float* values() { return values_.data(); }

  // Runs tokens at positions first, first + 1, ... against rows 0 .. first - 1.
  void decode(std::span<const std::int32_t> tokens, std::size_t first) {
    queries_.assign(tokens.size() * n_heads * head_dim, 0);
    logits_.assign(tokens.size() * n_vocab, 0);
    for (std::size_t i = 0; i < tokens.size(); ++i) project(tokens[i], i, first + i);
    if (on_queries) on_queries(0, queries_.data());
    for (std::size_t i = 0; i < tokens.size(); ++i) attend(i, first + i);
  }

  static std::int32_t greedy(std::span<const float> logits) {
    return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
  }

  // Returns false at the end of the answer, which a toy never reaches.
  bool print(std::int32_t token) const { return std::printf("%d ", token) > 0; }

  // Logits after token i of the last call, (n_vocab).
  std::span<const float> logits(std::size_t i) const {
    return std::span(logits_).subspan(i * n_vocab, n_vocab);
  }

 private:
  // A made-up weight in -1 .. 1.
  static float weight(std::size_t a, std::size_t b) {
    std::uint64_t x = (a * 131071 + b + 1) * 0x9E3779B97F4A7C15U;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9U;
    return static_cast<float>(x >> 40) / 8388608.0F - 1.0F;
  }

  static void rotate(float* row, std::size_t position) {
    for (std::size_t i = 0; i < head_dim / 2; ++i) {
      const float angle = static_cast<float>(position) *
                          std::pow(10000.0F, -2.0F * static_cast<float>(i) / head_dim);
      const float x = row[i], y = row[i + head_dim / 2];
      row[i] = x * std::cos(angle) - y * std::sin(angle);
      row[i + head_dim / 2] = x * std::sin(angle) + y * std::cos(angle);
    }
  }

  void project(std::int32_t token, std::size_t i, std::size_t position) {
    const auto id = static_cast<std::size_t>(token);
    float* const query = queries_.data() + i * n_heads * head_dim;
    float* const key = keys_.data() + position * n_kv_heads * head_dim;
    float* const value = values_.data() + position * n_kv_heads * head_dim;
    for (std::size_t k = 0; k < n_heads * head_dim; ++k) query[k] = 2 * weight(id, k);
    for (std::size_t k = 0; k < n_kv_heads * head_dim; ++k) key[k] = 2 * weight(id, 100 + k);
    for (std::size_t k = 0; k < n_kv_heads * head_dim; ++k) value[k] = weight(id, 200 + k);
    for (std::size_t h = 0; h < n_heads; ++h) rotate(query + h * head_dim, position);
    for (std::size_t h = 0; h < n_kv_heads; ++h) rotate(key + h * head_dim, position);
  }

  void attend(std::size_t i, std::size_t position) {
    for (std::size_t h = 0; h < n_heads; ++h) {
      const std::size_t column = h / (n_heads / n_kv_heads) * head_dim;
      const float* const query = queries_.data() + (i * n_heads + h) * head_dim;
      float mixed[head_dim] = {}, total = 0;
      for (std::size_t t = 0; t <= position; ++t) {
        float score = 0;
        for (std::size_t k = 0; k < head_dim; ++k)
          score += query[k] * keys_[t * n_kv_heads * head_dim + column + k];
        const float share = std::exp(score / std::sqrt(static_cast<float>(head_dim)));
        total += share;
        for (std::size_t k = 0; k < head_dim; ++k)
          mixed[k] += share * values_[t * n_kv_heads * head_dim + column + k];
      }
      for (std::size_t v = 0; v < n_vocab; ++v)
        for (std::size_t k = 0; k < head_dim; ++k)
          logits_[i * n_vocab + v] += mixed[k] / total * weight(v, 300 + h * head_dim + k);
    }
  }

  std::vector<float> keys_ = std::vector<float>(n_layers * n_rows * n_kv_heads * head_dim);
  std::vector<float> values_ = keys_;
  std::vector<float> queries_;  // (tokens, n_heads, head_dim)
  std::vector<float> logits_;   // (tokens, n_vocab)
};
