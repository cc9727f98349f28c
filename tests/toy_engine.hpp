// Runs a toy model against a store, and misbehaves as tests ask.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "toy_model.hpp"
#include "toy_outside.hpp"

namespace toy {

/// Where forward() throws: in call `call` (from 0), after the keys of `token` in `layer` were written; layer
/// == number of layers means after that token's logits were handed over.
struct Fault {
  std::size_t call = 0, layer = 0, token = 0;
};

/// Misbehaviour that a test asks for.
struct Quirks {
  std::optional<Fault> fault;
  Token nan_attention = -1;     // query head 0 of this token is shown as NaN
  Token nan_logits_after = -1;  // the prediction made after this token is NaN
  Token impossible = -1;        // no prediction ever allows this token
  bool all_logits = false;      // also rows not asked for
  bool scores_targets = false;  // gives NuC instead of logits where NuC is all that is wanted
  bool all_layers = false;      // shows layers not asked for
};

enum class Shows { nothing, queries, attention };

/// What a test does with an engine, whatever the store.
class EngineControls {
 public:
  std::size_t calls() const { return calls_; }
  std::size_t layers() const { return layers_; }  // that were run, in all calls

  Quirks quirks;
  std::function<void()> before_call;  // for tests that look at the store between calls

 protected:
  std::size_t calls_ = 0;
  std::size_t layers_ = 0;
};

/// Runs a model against a store that has keys(layer), values(layer), capacity() and key_storage(). Allocates
/// in the constructor only.
template <class Kv, Shows shows = Shows::queries>
class Engine : public EngineControls {
 public:
  Engine(const Model& model, Kv& kv)
      : model_(model),
        kv_(kv),
        hidden_(kv.capacity() * Model::width),
        normed_(Model::width),
        queries_(kv.capacity() * model.shape.query_heads * model.shape.head_dim),
        shown_(queries_.size()),
        mixed_(kv.capacity() * model.shape.query_heads * model.value_width()),
        keys_(kv.capacity() * model.shape.head_dim),
        values_(kv.capacity() * model.value_width()),
        row_(std::max(model.shape.head_dim, model.shape.value_channels())),
        attention_(kv.capacity()),
        logits_(Model::vocabulary),
        outside(model) {
    for (const Layer& layer : model.layers)
      windows_.emplace_back(layer.form.window == 0 ? 1 : layer.form.window);
  }

  Shape shape() const { return model_.shape; }
  std::size_t vocab_size() const { return Model::vocabulary; }

  infinipot::AttentionForm attention_form(std::size_t layer) const {
    const LayerForm& form = model_.layers[layer].form;
    return {form.scale, form.soft_cap, form.window == 0 ? nullptr : &windows_[layer], form.sinks};
  }

  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    run(tokens, first, logits, nullptr, nullptr);
  }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& sink) requires(shows == Shows::queries) {
    run(tokens, first, logits, &sink, nullptr);
  }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::AttentionSink& sink) requires(shows == Shows::attention) {
    run(tokens, first, logits, nullptr, &sink);
  }

 private:
  static float dot(std::span<const float> a, const float* b) {
    float sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }

  static void multiply(const Matrix& matrix, const float* in, float* out) {
    for (std::size_t i = 0; i < matrix.rows(); ++i) out[i] = dot(matrix.row(i), in);
  }

  const float* normed(const float* x) {
    const float scale = 1 / std::sqrt(dot({x, Model::width}, x) / Model::width + 1e-5F);
    for (std::size_t i = 0; i < Model::width; ++i) normed_[i] = scale * x[i];
    return normed_.data();
  }

  void rotate(std::size_t layer, float* x, std::size_t position) const {
    if (!model_.layers[layer].rotates) return;
    const Rope& rope = model_.rope;
    const std::size_t pairs = rope.frequencies.size();
    const auto factor = static_cast<float>(rope.attention_factor);
    for (std::size_t i = 0; i < pairs; ++i) {
      float& a = x[rope.first_channel + (rope.pairing == Pairing::half_split ? i : 2 * i)];
      float& b = x[rope.first_channel + (rope.pairing == Pairing::half_split ? i + pairs : 2 * i + 1)];
      const double angle = static_cast<double>(position) * rope.frequencies[i];
      const auto c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
      const float turned = factor * (a * c - b * s);
      b = factor * (a * s + b * c);
      a = turned;
    }
  }

  /// Tells the memory outside of the store when a call is over.
  struct Ending {
    explicit Ending(Engine& of) noexcept : engine(of), exceptions(std::uncaught_exceptions()) {}
    Ending(const Ending&) = delete;
    Ending& operator=(const Ending&) = delete;
    ~Ending() { engine.outside.end(std::uncaught_exceptions() > exceptions); }
    Engine& engine;
    int exceptions;
  };

  void fail_at(std::size_t layer, std::size_t token) const {
    const auto& fault = quirks.fault;
    if (fault && fault->call == calls_ - 1 && fault->layer == layer && fault->token == token)
      throw std::runtime_error("toy engine failed");
  }

  // Never a copy for a single token, which might round otherwise.
#ifdef __clang__
  [[gnu::noinline]]
#else
  [[gnu::noipa]]
#endif
  void
  run(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
      infinipot::QuerySink* queries, infinipot::AttentionSink* attention) {
    if (before_call) before_call();
    ++calls_;
    outside.begin(first, first + logits.stream_offset(), logits.probe());
    const Ending ending(*this);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      std::ranges::copy(model_.embedding.row(static_cast<std::size_t>(tokens[i])),
                        hidden_.begin() + static_cast<std::ptrdiff_t>(i * Model::width));
    if (model_.learned_positions != 0) add_positions(first, tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      float* const x = hidden_.data() + i * Model::width;
      outside.run({x, Model::width}, normed(x));
    }
    const std::size_t layers = layers_needed(logits.first_row() < tokens.size(), queries, attention);
    for (std::size_t layer = 0; layer < layers; ++layer) {
      ++layers_;
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        project(layer, i, first + i);
        fail_at(layer, i);
      }
      if (queries != nullptr) show(*queries, layer, tokens);
      for (std::size_t head = 0; head < model_.shape.kv_heads; ++head)
        attend(layer, head, tokens, first, attention);
      add_output(layer, tokens.size());
    }
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (quirks.all_logits || i >= logits.first_row()) predict(i, tokens[i], logits);
      fail_at(model_.shape.layers, i);
    }
  }

  void add_positions(std::size_t first, std::size_t count) {
    const Matrix positions(3, first + count, Model::width, model_.learned_positions);
    for (std::size_t i = 0; i < count * Model::width; ++i)
      hidden_[i] += positions.values[first * Model::width + i];
  }

  std::size_t layers_needed(bool logits, const infinipot::QuerySink* queries,
                            const infinipot::AttentionSink* attention) const {
    const std::size_t all = model_.shape.layers;
    if (logits || quirks.all_layers || quirks.all_logits) return all;
    if (queries != nullptr) return std::min(all, queries->layers());
    return attention != nullptr ? std::min(all, attention->layers()) : all;
  }

  float* query(std::size_t token, std::size_t head) {
    return queries_.data() + (token * model_.shape.query_heads + head) * model_.shape.head_dim;
  }

  void project(std::size_t layer, std::size_t token, std::size_t position) {
    const Layer& weights = model_.layers[layer];
    const float* const x = normed(hidden_.data() + token * Model::width);
    multiply(weights.query, x, query(token, 0));
    for (std::size_t head = 0; head < model_.shape.query_heads; ++head)
      rotate(layer, query(token, head), position);
    const std::size_t d = model_.shape.head_dim, v = model_.shape.value_channels();
    for (std::size_t head = 0; head < model_.shape.kv_heads; ++head) {
      for (std::size_t k = 0; k < d; ++k) row_[k] = dot(weights.key.row(head * d + k), x);
      if (kv_.key_storage() == KeyStorage::rotated) rotate(layer, row_.data(), position);
      write(d, kv_.keys(layer).row(head, position));
      if (v == 0) continue;
      for (std::size_t k = 0; k < v; ++k) row_[k] = dot(weights.value.row(head * v + k), x);
      write(v, kv_.values(layer).row(head, position));
    }
  }

  template <class T>
  void write(std::size_t channels, T* to) const {
    for (std::size_t k = 0; k < channels; ++k) to[k] = static_cast<T>(row_[k]);
  }

  // The sink sees NaN where a test wants it; the model itself does not.
  void show(infinipot::QuerySink& sink, std::size_t layer, std::span<const Token> tokens) {
    const std::size_t d = model_.shape.head_dim;
    shown_ = queries_;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (tokens[i] == quirks.nan_attention)
        shown_[i * model_.shape.query_heads * d] = std::numeric_limits<float>::quiet_NaN();
    sink.layer(layer,
               {shown_.data(), tokens.size(), static_cast<std::ptrdiff_t>(model_.shape.query_heads * d),
                static_cast<std::ptrdiff_t>(d)});
  }

  void attend(std::size_t layer, std::size_t kv_head, std::span<const Token> tokens, std::size_t first,
              infinipot::AttentionSink* sink) {
    fetch(layer, kv_head, first + tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      for (std::size_t g = 0; g < model_.shape.group(); ++g) {
        const std::size_t head = kv_head * model_.shape.group() + g;
        const auto paid = probabilities(layer, head, query(i, head), first + i);
        mix(paid, mixed_.data() + (i * model_.shape.query_heads + head) * model_.value_width());
        if (sink == nullptr) continue;
        if (tokens[i] == quirks.nan_attention && head == 0)
          std::ranges::fill(paid, std::numeric_limits<float>::quiet_NaN());
        sink->row(layer, head, i, paid);
      }
  }

  // Rotated keys and values of one head, in float.
  void fetch(std::size_t layer, std::size_t head, std::size_t size) {
    const std::size_t d = model_.shape.head_dim, v = model_.value_width();
    const bool has_values = model_.shape.value_channels() > 0;
    for (std::size_t t = 0; t < size; ++t) {
      const auto* const key = kv_.keys(layer).row(head, t);
      const auto* const value = has_values ? kv_.values(layer).row(head, t) : key;
      for (std::size_t k = 0; k < d; ++k) keys_[t * d + k] = static_cast<float>(key[k]);
      for (std::size_t k = 0; k < v; ++k) values_[t * v + k] = static_cast<float>(value[k]);
      if (kv_.key_storage() == KeyStorage::unrotated) rotate(layer, keys_.data() + t * d, t);
    }
  }

  // Of entries 0 .. position.
  std::span<float> probabilities(std::size_t layer, std::size_t head, const float* query,
                                 std::size_t position) {
    const std::size_t d = model_.shape.head_dim;
    const LayerForm& form = model_.layers[layer].form;
    const float scale = form.scale != 0 ? form.scale : 1 / std::sqrt(static_cast<float>(d));
    const auto paid = std::span(attention_).first(position + 1);
    float sum = form.sinks.empty() ? 0 : std::exp(form.sinks[head]);
    for (std::size_t t = 0; t <= position; ++t) {
      float logit = scale * dot({query, d}, keys_.data() + t * d);
      if (form.soft_cap != 0) logit = form.soft_cap * std::tanh(logit / form.soft_cap);
      const bool hidden = form.window != 0 && t + form.window <= position;
      paid[t] = hidden ? 0 : std::exp(logit);
      sum += paid[t];
    }
    for (float& p : paid) p /= sum;
    return paid;
  }

  void mix(std::span<const float> paid, float* out) const {
    const std::size_t v = model_.value_width();
    std::fill_n(out, v, 0.0F);
    for (std::size_t t = 0; t < paid.size(); ++t)
      for (std::size_t k = 0; k < v; ++k) out[k] += paid[t] * values_[t * v + k];
  }

  void add_output(std::size_t layer, std::size_t count) {
    const Matrix& output = model_.layers[layer].output;
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t k = 0; k < Model::width; ++k)
        hidden_[i * Model::width + k] += dot(output.row(k), mixed_.data() + i * output.columns);
  }

  void predict(std::size_t i, Token token, infinipot::LogitsSink& sink) {
    multiply(model_.prediction, normed(hidden_.data() + i * Model::width), logits_.data());
    if (quirks.impossible >= 0)
      logits_[static_cast<std::size_t>(quirks.impossible)] = -std::numeric_limits<float>::infinity();
    if (token == quirks.nan_logits_after) logits_[0] = std::numeric_limits<float>::quiet_NaN();
    const auto targets = sink.targets();
    if (quirks.scores_targets && i < targets.size())
      sink.nuc(i, infinipot::nuc(logits_, targets[i]));
    else
      sink.row(i, logits_);
  }

  const Model& model_;
  Kv& kv_;
  std::vector<infinipot::SlidingWindow> windows_;  // (layers)
  std::vector<float> hidden_;                      // (tokens, width)
  std::vector<float> normed_;                      // (width)
  std::vector<float> queries_;                     // (tokens, query_heads, head_dim)
  std::vector<float> shown_;                       // (tokens, query_heads, head_dim)
  std::vector<float> mixed_;                       // (tokens, query_heads, value_width)
  std::vector<float> keys_;                        // (entries, head_dim)
  std::vector<float> values_;                      // (entries, value_width)
  std::vector<float> row_;                         // of a key or value
  std::vector<float> attention_;                   // (entries)
  std::vector<float> logits_;                      // (vocabulary)

 public:
  OutsideMemory outside;
};

template <class Kv>
using QueryEngine = Engine<Kv, Shows::queries>;
template <class Kv>
using AttentionEngine = Engine<Kv, Shows::attention>;
template <class Kv>
using PlainEngine = Engine<Kv, Shows::nothing>;

}  // namespace toy
