// Whether the attention probabilities that an engine shows are probabilities, and those of its queries.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "infinipot/cap/attention_form.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/stated_form.hpp"
#include "infinipot/check/text_rows.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Whether an engine shows attention probabilities, at this time.
template <class Engine>
bool attention_shown(const Engine& engine) {
  if constexpr (ChoosesWhatToShow<Engine>)
    return !engine.shows_queries();
  else
    return YieldsAttention<Engine>;
}

/// Keeps the probabilities of one call.
class KeptAttention final : public AttentionSink {
 public:
  KeptAttention(const Shape& shape, std::size_t first, std::size_t count)
      : shape_(shape),
        first_(first),
        count_(count),
        paid_(shape.layers * shape.query_heads * count * (first + count)),
        times_(shape.layers * shape.query_heads * count),
        sums_(times_.size()) {}

  void row(std::size_t layer, std::size_t query_head, std::size_t token,
           std::span<const float> probabilities) noexcept override {
    if (layer >= shape_.layers || query_head >= shape_.query_heads || token >= count_) {
      outside_ = true;
      return;
    }
    const std::size_t at = index(layer, query_head, token), seen = first_ + token + 1;
    ++times_[at];
    sums_[at] = 0;
    for (std::size_t t = 0; t < probabilities.size(); ++t) {
      sums_[at] += static_cast<double>(probabilities[t]);
      if (t < seen)
        paid_[at * (first_ + count_) + t] = probabilities[t];
      else if (!(probabilities[t] <= 0))
        future_ = true;
    }
  }

  std::size_t index(std::size_t layer, std::size_t head, std::size_t token) const noexcept {
    return (layer * shape_.query_heads + head) * count_ + token;
  }
  std::size_t times(std::size_t at) const noexcept { return times_[at]; }
  double sum(std::size_t at) const noexcept { return sums_[at]; }
  const float* paid(std::size_t at) const noexcept { return paid_.data() + at * (first_ + count_); }
  bool outside() const noexcept { return outside_; }
  bool future() const noexcept { return future_; }

 private:
  Shape shape_;
  std::size_t first_, count_;
  std::vector<float> paid_;         // (layers, query_heads, count, first + count)
  std::vector<std::size_t> times_;  // (layers, query_heads, count)
  std::vector<double> sums_;        // the same
  std::atomic<bool> outside_ = false, future_ = false;
};

/// Shown probabilities sum to 1, less what learned sinks take, up to 1 %, as softmaxes in half precision do,
/// and differ from those of queries and keys by at most 0.02.
template <class Engine, class S>
class AttentionCheck {
 public:
  AttentionCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk,
                 AdapterReport& report)
      : engine_(engine), store_(store), tokens_(tokens), chunk_(chunk), report_(report) {}

  void run() requires YieldsAttention<Engine> {
    const Shape shape = store_.shape();
    const std::size_t first = (std::min)(chunk_, tokens_.size() / 2);
    const std::size_t count = (std::min)(chunk_, tokens_.size() - first);
    const TextRows rows = run_text(engine_, store_, tokens_.first(first + count), first);
    run_text(engine_, store_, tokens_.first(first), first);
    KeptAttention attention(shape, first, count);
    NoLogits logits(count);
    engine_.forward(tokens_.subspan(first, count), first, logits, static_cast<AttentionSink&>(attention));
    if (!check_rows(attention, first, count) || rows.queries.numbers.empty() || rows.keys.numbers.empty())
      return;
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.query_heads; ++head)
        for (std::size_t token = 0; token < count; ++token)
          if (!check_scores(attention, rows, layer, head, first, token)) return;
  }

 private:
  bool check_rows(const KeptAttention& attention, std::size_t first, std::size_t count) {
    const Shape shape = store_.shape();
    if (attention.outside() || attention.future()) {
      report_.found(Flaw::attention_rows,
                    attention.outside() ? "attention of a layer, head or token that there is not was shown"
                                        : "a token pays attention to tokens that come after it");
      return false;
    }
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.query_heads; ++head)
        for (std::size_t token = 0; token < count; ++token) {
          const std::size_t at = attention.index(layer, head, token);
          const double sum = attention.sum(at);
          // Learned sinks take a share; check_scores() says how large it must be.
          const bool sinks = !form_of(engine_, layer).sinks.empty();
          if (attention.times(at) == 1 && sum <= 1.01 && (sinks || sum >= 0.99)) continue;
          if (attention.times(at) != 1)
            report_.found(Flaw::attention_rows, "attention of layer ", layer, ", query head ", head,
                          ", token ", token, " of a call was shown ", attention.times(at),
                          " times; once is right");
          else
            report_.found(Flaw::attention_rows, "attention of layer ", layer, ", query head ", head,
                          ", token ", token, " of a call sums to ", sum, " over its ", first + token + 1,
                          " entries; 1 is right",
                          sinks || sum > 1 ? "" : ", unless learned sinks in attention_form() take the rest");
          return false;
        }
    return true;
  }

  bool check_scores(const KeptAttention& attention, const TextRows& rows, std::size_t layer, std::size_t head,
                    std::size_t first, std::size_t token) {
    const Shape shape = store_.shape();
    const std::size_t position = first + token;
    const AttentionForm form = form_of(engine_, layer);
    const float* const query = rows.queries.at(layer, head, position);
    std::vector<float> logits(position + 1);
    for (std::size_t t = 0; t <= position; ++t)
      logits[t] = logit_of(form, query, rows.keys.at(layer, head / shape.group(), t), shape.head_dim);
    if (form.bias != nullptr) form.bias->add(head, position, logits);
    const bool has_sink = !form.sinks.empty() && is_finite(form.sinks[head]);
    const float sink = has_sink ? form.sinks[head] : std::numeric_limits<float>::lowest();
    const float largest = (std::max)(*std::ranges::max_element(logits), sink);
    double sum = std::exp(static_cast<double>(sink) - static_cast<double>(largest));
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
    const float* const paid = attention.paid(attention.index(layer, head, token));
    for (std::size_t t = 0; t <= position; ++t) {
      const double right = std::exp(static_cast<double>(logits[t] - largest)) / sum;
      const auto found = static_cast<double>(paid[t]);
      if (std::abs(found - right) <= 0.02) continue;
      report_.found(Flaw::attention_scores, "query head ", head, " of layer ", layer, " at position ",
                    position, " pays ", found, " of its attention to entry ", t,
                    ", but by its query, the store's keys and attention_form() it is ", right);
      return false;
    }
    return true;
  }

  Engine& engine_;
  S& store_;
  std::span<const Token> tokens_;
  std::size_t chunk_;
  AdapterReport& report_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
