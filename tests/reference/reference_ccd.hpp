// Continual Context Distillation in double precision, written to be obviously right: one token at a time, raw
// keys in plain vectors that are rotated when they are used, every policy spelled out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <vector>

#include "infinipot/policy/score_view.hpp"
#include "infinipot/shape.hpp"
#include "reference/reference_rope.hpp"
#include "toy_engine.hpp"

namespace reference {

using infinipot::Token;

enum class Kind {
  infinipot,
  snapkv,
  tova,
  h2o,
  streaming_llm,
  sirllm,
  knorm,
  keydiff,
  value_norm,
  truncation,
  reread,
  expected_attention,
  temporal_redundancy
};

/// What is kept, when and by whom.
struct CcdSpec {
  Kind kind = Kind::infinipot;
  infinipot::Granularity granularity = infinipot::Granularity::head;
  std::size_t capacity = 0, keep = 0, sinks = 0, recent = 0;
  // infinipot
  std::vector<std::vector<Token>> catalysts = {};
  double alpha = 0.5;
  std::vector<Token> terms = {};
  double term_share = 0;
  bool max_over_queries = false;
  infinipot::ReduceHeads over_heads = infinipot::ReduceHeads::sum;
  std::size_t kernel = 1;     // snapkv, too
  std::size_t lag = 0;        // of the kernel
  std::size_t window = 1;     // snapkv
  double decay = 0.9;         // sirllm
  std::size_t block = 5;      // reread, whose instruction is the first catalyst
  std::size_t layers = 0;     // infinipot, reread: whose attention counts where all choose together; 0: all
  bool mean_pooling = false;  // reread
  std::size_t future = 9;     // expected_attention, which leaves out the sinks
  double epsilon = 0;         // expected_attention
  std::size_t period = 3, frames = 2;  // temporal_redundancy
};

/// One entry of one (layer, kv head).
struct Held {
  std::vector<double> raw_key;
  std::vector<double> value;
  std::uint64_t position = 0;
  Token token = 0;
  double nuc = 0;
  bool pinned = false;
  std::uint32_t survived = 0;
  double attention = 0;
};

class Ccd {
 public:
  Ccd(const toy::Model& model, const CcdSpec& spec)
      : model_(model),
        spec_(spec),
        heads_(model.shape.layers * model.shape.kv_heads),
        queries_(model.shape.layers * model.shape.query_heads) {
    if (spec.kind == Kind::snapkv) spec_.recent = std::max(spec.recent, spec.window);
    if (spec.kind == Kind::tova) spec_.recent = std::max(spec.recent, std::size_t{1});
    if (spec.kind == Kind::temporal_redundancy)
      spec_.recent = std::max(spec.recent, spec.frames * spec.period);
    std::size_t catalyst = 0;
    if (spec.kind == Kind::infinipot && spec.alpha < 1)
      for (const auto& c : spec.catalysts) catalyst = std::max(catalyst, c.size());
    if (spec.kind == Kind::reread) catalyst = spec.catalysts[0].size() + spec.block;
    limit_ = spec.capacity - catalyst;
  }

  void feed(Token token, bool pinned = false) {
    if (size() == limit_) distil();
    const double nuc = read_ == 0 ? 0 : surprise(token);
    const auto attention = run(token);
    for (auto& head : heads_) {
      head.back().position = read_;
      head.back().nuc = nuc;
      head.back().pinned = pinned;
    }
    if (spec_.kind == Kind::h2o) receive(attention, false);
    last_paid_.push_back(attention);
    if (last_paid_.size() > (spec_.kind == Kind::snapkv ? spec_.window : 1))
      last_paid_.erase(last_paid_.begin());
    ++read_;
  }

  /// Whatever the fill, but nothing while all entries would stay.
  void distil() {
    if (size() <= spec_.keep) return;
    if (spec_.kind == Kind::snapkv || spec_.kind == Kind::tova) {
      forget_attention();
      for (const auto& paid : last_paid_) receive(paid, false);
    }
    if (spec_.kind == Kind::expected_attention) score_expected_attention();
    if (spec_.kind == Kind::temporal_redundancy) score_redundancy();
    if (spec_.kind == Kind::infinipot) run_catalysts();
    if (spec_.kind == Kind::reread) read_again();
    if (scores_entries()) score_entries();
    std::size_t together = 1;  // heads that keep the same tokens
    if (spec_.granularity == infinipot::Granularity::layer || spec_.kind == Kind::tova)
      together = model_.shape.kv_heads;
    if (spec_.granularity == infinipot::Granularity::shared) together = heads_.size();
    for (std::size_t first = 0; first < heads_.size(); first += together)
      keep_best(std::span(heads_).subspan(first, together));
    last_paid_.clear();
    ++distillations_;
  }

  std::size_t size() const { return heads_[0].size(); }
  const std::vector<Held>& head(std::size_t layer, std::size_t kv_head) const {
    return heads_[layer * model_.shape.kv_heads + kv_head];
  }
  const std::vector<double>& logits() const { return logits_; }
  std::uint64_t distillations() const { return distillations_; }

 private:
  using Vector = std::vector<double>;

  static double dot(const Vector& a, const Vector& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }

  static Vector multiply(const toy::Matrix& matrix, const Vector& x) {
    Vector out(matrix.rows());
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = std::inner_product(x.begin(), x.end(), matrix.row(i).begin(), 0.0);
    return out;
  }

  static Vector normed(Vector x) {
    const double scale =
        1 / std::sqrt(dot(x, x) / static_cast<double>(x.size()) + static_cast<double>(1e-5F));
    for (double& value : x) value *= scale;
    return x;
  }

  static Vector part(const Vector& all, std::size_t i, std::size_t n) {
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(i * n);
    return {from, from + static_cast<std::ptrdiff_t>(n)};
  }

  double surprise(Token token) const {
    double sum = 0;
    for (const double logit : logits_) sum += std::exp(logit);
    return std::log(sum) - logits_[static_cast<std::size_t>(token)];
  }

  /// Attention, (layers * query_heads) rows over the entries. Adds the token to every head.
  std::vector<Vector> run(Token token) {
    const std::size_t d = model_.shape.head_dim, v = model_.value_width();
    const auto embedding = model_.embedding.row(static_cast<std::size_t>(token));
    Vector x(embedding.begin(), embedding.end());
    std::vector<Vector> attention;
    for (std::size_t layer = 0; layer < model_.shape.layers; ++layer) {
      const toy::Layer& weights = model_.layers[layer];
      const Vector h = normed(x);
      const Vector queries = multiply(weights.query, h), keys = multiply(weights.key, h),
                   values = multiply(weights.value, h);
      const std::size_t position = heads_[layer * model_.shape.kv_heads].size();
      for (std::size_t g = 0; g < model_.shape.kv_heads; ++g) {
        Held held;
        held.raw_key = part(keys, g, d);
        held.value = model_.shape.value_channels() == 0 ? part(held.raw_key, 0, v) : part(values, g, v);
        held.token = token;
        heads_[layer * model_.shape.kv_heads + g].push_back(held);
      }
      Vector mixed;
      for (std::size_t q = 0; q < model_.shape.query_heads; ++q) {
        const auto& head =
            heads_[layer * model_.shape.kv_heads + q / (model_.shape.query_heads / model_.shape.kv_heads)];
        if (!probing_ && read_ >= spec_.sinks)
          queries_[layer * model_.shape.query_heads + q].push_back(part(queries, q, d));
        attention.push_back(attend(head, q, rotated_at(layer, part(queries, q, d), position), weights.form));
        for (std::size_t k = 0; k < v; ++k) {
          mixed.push_back(0);
          for (std::size_t t = 0; t < head.size(); ++t)
            mixed.back() += attention.back()[t] * head[t].value[k];
        }
      }
      const Vector output = multiply(weights.output, mixed);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += output[i];
    }
    if (!probing_) logits_ = multiply(model_.prediction, normed(x));
    return attention;
  }

  Vector rotated_at(std::size_t layer, const Vector& raw, std::size_t position) const {
    return rotated(raw, model_.rope_of(layer), static_cast<double>(position));
  }

  /// The key of entry t of one of heads_.
  Vector key_of(const std::vector<Held>& head, std::size_t t) const {
    const auto index = static_cast<std::size_t>(&head - heads_.data());
    return rotated_at(index / model_.shape.kv_heads, head[t].raw_key, t);
  }

  static double exp_of_sink(const toy::LayerForm& form, std::size_t query_head) {
    return form.sinks.empty() ? 0 : std::exp(static_cast<double>(form.sinks[query_head]));
  }

  Vector attend(const std::vector<Held>& head, std::size_t query_head, const Vector& query,
                const toy::LayerForm& form) const {
    Vector paid(head.size());
    double sum = exp_of_sink(form, query_head);
    for (std::size_t t = 0; t < head.size(); ++t) {
      const double scale = form.scale != 0 ? static_cast<double>(form.scale)
                                           : 1 / std::sqrt(static_cast<double>(query.size()));
      double logit = scale * dot(query, key_of(head, t));
      const auto cap = static_cast<double>(form.soft_cap);
      if (cap != 0) logit = cap * std::tanh(logit / cap);
      if (form.window == 0 || head.size() - t <= form.window) paid[t] = std::exp(logit);
      sum += paid[t];
    }
    for (double& p : paid) p /= sum;
    return paid;
  }

  void receive(const std::vector<Vector>& attention, bool maximum) {
    for (std::size_t row = 0; row < attention.size(); ++row) {
      auto& head = heads_[row / (model_.shape.query_heads / model_.shape.kv_heads)];
      for (std::size_t t = 0; t < attention[row].size(); ++t)
        head[t].attention =
            maximum ? std::max(head[t].attention, attention[row][t]) : head[t].attention + attention[row][t];
    }
  }

  void forget_attention() {
    for (auto& head : heads_)
      for (Held& held : head) held.attention = 0;
  }

  void run_catalysts() {
    forget_attention();
    if (spec_.alpha == 1) return;
    probing_ = true;
    for (const auto& catalyst : spec_.catalysts) {
      for (const Token token : catalyst) receive(run(token), spec_.max_over_queries);
      drop_last(catalyst.size());
    }
    probing_ = false;
  }

  /// What came since the last distillation, block by block. Nothing is forgotten before.
  void read_again() {
    std::vector<Token> fresh;
    for (const Held& held : heads_[0])
      if (held.survived == 0) fresh.push_back(held.token);
    probing_ = true;
    for (std::size_t from = 0; from < fresh.size(); from += spec_.block) {
      for (const Token token : spec_.catalysts[0]) receive(run(token), true);
      const std::size_t to = std::min(from + spec_.block, fresh.size());
      for (std::size_t i = from; i < to; ++i) receive(run(fresh[i]), true);
      drop_last(spec_.catalysts[0].size() + to - from);
    }
    probing_ = false;
  }

  void drop_last(std::size_t count) {
    for (auto& head : heads_) head.resize(head.size() - count);
  }

  bool scores_entries() const {
    return spec_.kind == Kind::knorm || spec_.kind == Kind::keydiff || spec_.kind == Kind::value_norm;
  }

  /// The entries' own scores stand where attention stands.
  void score_entries() {
    for (auto& head : heads_) {
      Vector mean(model_.shape.head_dim);
      for (std::size_t t = 0; t < head.size(); ++t) {
        const Vector key = key_of(head, t);
        for (std::size_t k = 0; k < key.size(); ++k) mean[k] += key[k] / std::sqrt(dot(key, key));
      }
      for (std::size_t t = 0; t < head.size(); ++t) {
        const Vector key = key_of(head, t);
        if (spec_.kind == Kind::knorm) head[t].attention = -std::sqrt(dot(key, key));
        if (spec_.kind == Kind::value_norm) head[t].attention = std::sqrt(dot(head[t].value, head[t].value));
        if (spec_.kind == Kind::keydiff)
          head[t].attention = -dot(key, mean) / std::sqrt(dot(key, key) * dot(mean, mean));
      }
    }
  }

  /// 1 minus the mean cosine with the recent keys whose position is the same modulo the period.
  void score_redundancy() {
    for (auto& head : heads_)
      for (std::size_t t = 0; t < head.size(); ++t) {
        const Vector key = key_of(head, t);
        double cosines = 0;
        for (std::size_t r = head.size() - spec_.frames * spec_.period; r < head.size(); ++r) {
          if (head[r].position % spec_.period != head[t].position % spec_.period) continue;
          const Vector other = key_of(head, r);
          cosines += dot(key, other) / std::sqrt(dot(key, key) * dot(other, other));
        }
        head[t].attention = 1 - cosines / static_cast<double>(spec_.frames);
      }
  }

  /// Mean and covariance are rotated, by whole matrices, and the softmax is taken over what follows the
  /// sinks.
  void score_expected_attention() {
    const std::size_t group = model_.shape.query_heads / model_.shape.kv_heads;
    for (std::size_t q = 0; q < queries_.size(); ++q) {
      auto& head = heads_[q / group];
      const auto [mean, covariance] = expected_query(q / model_.shape.query_heads, queries_[q], head.size());
      const double d = static_cast<double>(mean.size());
      const auto& form = model_.layers[q / model_.shape.query_heads].form;
      double sum = exp_of_sink(form, q % model_.shape.query_heads);
      Vector paid(head.size());
      for (std::size_t t = spec_.sinks; t < head.size(); ++t) {
        const Vector key = key_of(head, t);
        double logit = dot(key, mean) / std::sqrt(d);
        for (std::size_t i = 0; i < key.size(); ++i) logit += key[i] * dot(covariance[i], key) / (2 * d);
        paid[t] = std::exp(logit);
        sum += paid[t];
      }
      for (std::size_t t = 0; t < head.size(); ++t) {
        if (q % group == 0) head[t].attention = spec_.epsilon * std::sqrt(dot(head[t].value, head[t].value));
        head[t].attention +=
            paid[t] / sum / static_cast<double>(group) * std::sqrt(dot(head[t].value, head[t].value));
      }
    }
  }

  struct Gaussian {
    Vector mean;
    std::vector<Vector> covariance;
  };

  /// Of the given queries after the mean rotation of the positions from `next` on.
  Gaussian expected_query(std::size_t layer, const std::vector<Vector>& queries, std::size_t next) const {
    const std::size_t d = model_.shape.head_dim;
    std::vector<Vector> rotation(d, Vector(d));  // rotation[i][k]: of channel k into channel i
    for (std::size_t k = 0; k < d; ++k)
      for (std::size_t p = next; p < next + spec_.future; ++p) {
        Vector unit(d);
        unit[k] = 1;
        const Vector turned = rotated_at(layer, unit, p);
        for (std::size_t i = 0; i < d; ++i) rotation[i][k] += turned[i] / static_cast<double>(spec_.future);
      }
    Gaussian result{Vector(d), std::vector<Vector>(d, Vector(d))};
    const auto turn = [&](const Vector& x) {
      Vector turned;
      for (const Vector& row : rotation) turned.push_back(dot(row, x));
      return turned;
    };
    for (const Vector& query : queries)
      for (std::size_t i = 0; i < d; ++i)
        result.mean[i] += turn(query)[i] / static_cast<double>(queries.size());
    for (const Vector& query : queries) {
      const Vector turned = turn(query);
      for (std::size_t i = 0; i < d; ++i)
        for (std::size_t j = 0; j < d; ++j)
          result.covariance[i][j] += (turned[i] - result.mean[i]) * (turned[j] - result.mean[j]) /
                                     static_cast<double>(queries.size());
    }
    return result;
  }

  void keep_best(std::span<std::vector<Held>> heads) const {
    const std::vector<bool> marked = choose(heads);
    for (auto& head : heads) {
      std::vector<Held> kept;
      for (std::size_t t = 0; t < head.size(); ++t)
        if (marked[t]) kept.push_back(head[t]);
      for (Held& held : kept) ++held.survived;
      head = kept;
    }
  }

  std::vector<bool> choose(std::span<const std::vector<Held>> heads) const {
    const auto& records = heads[0];
    std::size_t recent = spec_.recent;
    if (spec_.kind == Kind::h2o || spec_.kind == Kind::truncation) recent = std::max(recent, spec_.keep / 2);
    std::vector<bool> stays(records.size());
    for (std::size_t t = 0; t < stays.size(); ++t)
      stays[t] = t < spec_.sinks || t + recent >= records.size() || records[t].pinned;
    const std::vector<bool> is_protected = stays;
    const auto taken = static_cast<std::size_t>(std::count(stays.begin(), stays.end(), true));
    const std::size_t free = spec_.keep - taken;

    std::size_t by_nuc = 0;
    if (spec_.kind == Kind::infinipot) {
      by_nuc = static_cast<std::size_t>(std::floor(spec_.alpha * static_cast<double>(free)));
      Vector nuc;
      for (const Held& held : records) nuc.push_back(held.nuc);
      take_best(pooled(nuc, is_protected), by_nuc, stays);
    }
    if (spec_.term_share == 0) {
      take_best(pooled(scores(heads, is_protected), is_protected), free - by_nuc, stays);
      return stays;
    }
    const double share = std::max(1 - spec_.alpha - spec_.term_share, 0.0);
    const auto by_attention = static_cast<std::size_t>(std::floor(share * static_cast<double>(free)));
    take_best(pooled(scores(heads, is_protected), is_protected), by_attention, stays);
    take_best(term_scores(heads, is_protected), free - by_nuc - by_attention, stays);
    return stays;
  }

  /// ln(n / c)^4 for tokens that are terms, and a millionth of the attention; the largest mean of 33
  /// within 8.
  Vector term_scores(std::span<const std::vector<Held>> heads, const std::vector<bool>& is_protected) const {
    const auto& records = heads[0];
    Vector result = scores(heads, is_protected);
    double entries = 0;
    std::map<Token, double> holders;
    for (std::size_t t = 0; t < records.size(); ++t) {
      if (is_protected[t]) continue;
      ++entries;
      ++holders[records[t].token];
    }
    for (std::size_t t = 0; t < records.size(); ++t) {
      result[t] *= 1e-6;
      const bool is_term = std::ranges::find(spec_.terms, records[t].token) != spec_.terms.end();
      if (is_term && !is_protected[t])
        result[t] += std::pow(std::log(entries / holders.at(records[t].token)), 4);
    }
    return pooled(pooled(result, is_protected, 33, true), is_protected, 17, false);
  }

  Vector scores(std::span<const std::vector<Held>> heads, const std::vector<bool>& is_protected) const {
    const auto& records = heads[0];
    Vector result(records.size());
    for (std::size_t t = 0; t < result.size(); ++t) {
      if (spec_.kind == Kind::streaming_llm) result[t] = static_cast<double>(records[t].position);
      if (spec_.kind == Kind::truncation) result[t] = -static_cast<double>(records[t].position);
      if (spec_.kind == Kind::sirllm) result[t] = records[t].nuc * std::pow(spec_.decay, records[t].survived);
    }
    if (spec_.kind == Kind::streaming_llm || spec_.kind == Kind::sirllm || spec_.kind == Kind::truncation)
      return result;
    using infinipot::ReduceHeads;
    if ((spec_.kind == Kind::reread || spec_.kind == Kind::infinipot) && spec_.layers != 0 &&
        spec_.granularity == infinipot::Granularity::shared)
      heads = heads.first(std::min(heads.size(), spec_.layers * model_.shape.kv_heads));
    for (const auto& head : heads) {
      if (spec_.kind == Kind::reread || spec_.over_heads == ReduceHeads::max) {
        for (std::size_t t = 0; t < head.size(); ++t) result[t] = std::max(result[t], head[t].attention);
        continue;
      }
      double total = 0;
      for (std::size_t t = 0; t < head.size(); ++t)
        if (!is_protected[t]) total += head[t].attention;
      for (std::size_t t = 0; t < head.size(); ++t)
        result[t] = spec_.over_heads == ReduceHeads::max_share
                        ? std::max(result[t], head[t].attention / total)
                        : result[t] + head[t].attention;
    }
    return result;
  }

  /// snapkv, and reread if asked: the mean over the neighbourhood, else the maximum.
  Vector pooled(const Vector& values, const std::vector<bool>& is_protected) const {
    const std::size_t kernel =
        spec_.kind == Kind::infinipot || spec_.kind == Kind::snapkv || spec_.kind == Kind::reread
            ? spec_.kernel
            : 1;
    const bool mean = spec_.kind == Kind::snapkv || (spec_.kind == Kind::reread && spec_.mean_pooling);
    return pooled(values, is_protected, kernel, mean, kernel > 1 ? spec_.lag : 0);
  }

  static Vector pooled(const Vector& values, const std::vector<bool>& is_protected, std::size_t kernel,
                       bool mean, std::size_t lag = 0) {
    Vector result = values;
    for (std::size_t t = 0; t < values.size(); ++t) {
      double sum = 0, best = values[t];
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::size_t distance = i + lag > t ? i + lag - t : t - i - lag;
        if (is_protected[i] || distance > kernel / 2) continue;
        sum += values[i];
        best = std::max(best, values[i]);
      }
      if (!is_protected[t]) result[t] = mean ? sum / static_cast<double>(kernel) : best;
    }
    return result;
  }

  static void take_best(const Vector& values, std::size_t count, std::vector<bool>& stays) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    for (const std::size_t t : order) {
      if (count == 0) return;
      if (stays[t]) continue;
      stays[t] = true;
      --count;
    }
  }

  const toy::Model& model_;
  CcdSpec spec_;
  std::vector<std::vector<Held>> heads_;      // (layers * kv_heads)
  std::vector<std::vector<Vector>> queries_;  // (layers * query_heads) of the text, before RoPE
  std::size_t limit_ = 0;
  std::uint64_t read_ = 0, distillations_ = 0;
  std::vector<std::vector<Vector>> last_paid_;  // by the last tokens since a distillation; see run()
  bool probing_ = false;
  Vector logits_;  // after the last token of the text
};

}  // namespace reference
