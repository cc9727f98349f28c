// Sinks that turn what a forward pass shows into attention scores and NuC.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "infinipot/cap.hpp"
#include "infinipot/cap/attention_form.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/stopwatch.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Attention scores, (layers, kv_heads, capacity), and how attention in the first `layers` layers is reduced
/// into them.
struct AttentionScores {
  std::span<float> all;
  std::size_t capacity = 0;
  Reduce reduce = Reduce::sum;
  std::size_t layers = all_layers;

  std::span<float> head(std::size_t head) const noexcept { return all.subspan(head * capacity, capacity); }
};

/// Checks the queries that a call of `tokens` tokens shows, since a sink cannot throw. `shown` (layers) is
/// its memory.
class QueryCheck {
 public:
  QueryCheck(std::span<std::uint8_t> shown, std::size_t tokens, std::size_t layers) noexcept
      : shown_(shown), wanted_((std::min)(layers, shown.size())), tokens_(tokens) {
    std::ranges::fill(shown_, std::uint8_t{0});
  }

  /// Whether these are wanted, and are what they should be.
  bool takes(std::size_t layer, const Queries& queries) noexcept {
    const bool fit = layer < shown_.size() && queries.count == tokens_ && queries.data != nullptr;
    if (!fit && !wrong_.seen) wrong_ = {.layer = layer, .tokens = queries.count, .seen = true};
    if (!fit || layer >= wanted_) return false;
    shown_[layer] = 1;
    return true;
  }

  /// After the call. Throws std::invalid_argument if it did not show every wanted layer.
  void require() const {
    if (wrong_.seen)
      invalid("the engine showed queries of ", wrong_.tokens, " tokens in layer ", wrong_.layer,
              " (or a null pointer) in a call of ", tokens_, " tokens of a model of ", shown_.size(),
              " layers");
    const auto seen = static_cast<std::size_t>(std::ranges::count(shown_, std::uint8_t{1}));
    if (seen != wanted_)
      invalid("the engine showed the queries of ", seen, " layers, not of each of ", wanted_,
              " (QuerySink::layer())");
  }

 private:
  struct Wrong {
    std::size_t layer = 0, tokens = 0;
    bool seen = false;
  };

  std::span<std::uint8_t> shown_;  // (layers) whether it was
  std::size_t wanted_, tokens_;
  Wrong wrong_;  // the first
};

/// Scores queries against the store's keys, layer by layer. `scorers` has one per worker of the executor.
template <class Engine, class S, class X>
class QueryWatcher final : public QuerySink {
 public:
  QueryWatcher(Engine& engine, const S& store, std::span<CapScorer> scorers, std::span<std::uint8_t> shown,
               std::size_t first, std::size_t tokens, AttentionScores scores, X executor) noexcept
      : engine_(engine),
        store_(store),
        scorers_(scorers),
        first_(first),
        scores_(scores),
        check_(shown, tokens, scores.layers),
        executor_(executor) {}

  std::size_t layers() const noexcept override { return scores_.layers; }

  void layer(std::size_t layer, const Queries& queries) noexcept override {
    if (!check_.takes(layer, queries)) return;
    const Stopwatch watch;
    const Shape shape = store_.shape();
    const AttentionForm attention = form_of(engine_, layer);
    if (!attention.sinks.empty() && attention.sinks.size() != shape.query_heads) {
      wrong_sinks_ = {.layer = layer, .count = attention.sinks.size()};
      return;
    }
    executor_.for_each(shape.kv_heads, [&](std::size_t kv_head, std::size_t worker) {
      const auto keys = [&](std::size_t from, std::size_t count, float* tile) {
        return store_.key_rows(layer, kv_head, from, count, tile);
      };
      scorers_[worker].accumulate(queries, kv_head, first_, keys, attention, scores_.reduce,
                                  scores_.head(shape.head_of(layer, kv_head)));
    });
    seconds_ += watch.seconds();
  }

  void require() const {
    check_.require();
    if (wrong_sinks_.count > 0)
      invalid("attention_form(", wrong_sinks_.layer, ") has ", wrong_sinks_.count,
              " learned sinks; there are ", store_.shape().query_heads, " query heads");
  }

  /// Spent on scoring so far.
  double seconds() const noexcept { return seconds_; }

 private:
  Engine& engine_;
  const S& store_;
  std::span<CapScorer> scorers_;
  std::size_t first_;
  AttentionScores scores_;
  QueryCheck check_;
  struct WrongSinks {
    std::size_t layer = 0, count = 0;
  } wrong_sinks_ = {};
  X executor_;
  double seconds_ = 0;
};

/// Shows queries to a policy that observes them.
template <class P>
class QueryObserver final : public QuerySink {
 public:
  QueryObserver(P& policy, std::span<std::uint8_t> shown, std::size_t first, std::size_t tokens) noexcept
      : policy_(policy), first_(first), check_(shown, tokens, all_layers) {
    if constexpr (requires { policy.drop(); }) policy.drop();
  }

  void layer(std::size_t layer, const Queries& queries) noexcept override {
    if (check_.takes(layer, queries)) policy_.observe(layer, first_, queries);
  }

  void require() const { check_.require(); }

  /// The policy's own time does not count as scoring.
  double seconds() const noexcept { return 0; }

 private:
  P& policy_;
  std::size_t first_;
  QueryCheck check_;
};

/// Adds up (or takes the maximum of) attention probabilities that the engine computed.
class AttentionWatcher final : public AttentionSink {
 public:
  AttentionWatcher(const Shape& shape, AttentionScores scores) noexcept : shape_(shape), scores_(scores) {}

  std::size_t layers() const noexcept override { return scores_.layers; }

  void row(std::size_t layer, std::size_t query_head, std::size_t /*token*/,
           std::span<const float> probabilities) noexcept override {
    if (layer >= shape_.layers || query_head >= shape_.query_heads) return note(stray_);
    note(shown_);
    if (layer >= scores_.layers) return;
    const std::size_t kv_head = query_head / shape_.group();
    const auto scores = scores_.head(shape_.head_of(layer, kv_head));
    const std::size_t size = (std::min)(scores.size(), probabilities.size());
    for (std::size_t t = 0; t < size; ++t) {
      if (scores_.reduce == Reduce::sum)
        scores[t] += probabilities[t];
      else
        raise_score(scores[t], probabilities[t]);
    }
  }

  /// After the call. Throws std::invalid_argument if it showed nothing, or layers or heads that there are
  /// not.
  void require() const {
    if (stray_) invalid("the engine showed attention of a layer or query head outside of its shape");
    if (!shown_) invalid("the engine showed no attention (AttentionSink::row())");
  }

 private:
  static void note(std::atomic<bool>& flag) noexcept {
    if (!flag.load(std::memory_order_relaxed)) flag.store(true, std::memory_order_relaxed);
  }

  Shape shape_;
  AttentionScores scores_;
  std::atomic<bool> shown_ = false, stray_ = false;
};

/// Fills in the NuC of a chunk's tokens and keeps its last logits.
class ChunkLogits final : public LogitsSink {
  /// What no NuC is.
  static constexpr float missing = std::numeric_limits<float>::lowest();

 public:
  /// `entries` are the chunk's, one per token, the first at position `first` of the store. With `score_all`,
  /// the NuC of all after the first is wanted too: each is the target of the row before.
  ChunkLogits(NucTracker& tracker, std::span<const Token> tokens, std::span<Entry> entries, std::size_t first,
              bool score_all) noexcept
      : LogitsSink(score_all ? 0 : tokens.size() - 1,
                   score_all ? tokens.subspan(1) : std::span<const Token>(), entries[0].position - first),
        tracker_(tracker),
        entries_(entries) {
    for (std::size_t i = 0; i < targets().size(); ++i) entries_[i + 1].nuc = missing;
  }

  void row(std::size_t token, std::span<const float> logits) noexcept override {
    if (logits.size() != tracker_.vocab_size()) return;
    if (token + 1 == entries_.size()) {
      tracker_.stage(logits);
      staged_ = true;
    } else if (token < targets().size())
      entries_[token + 1].nuc = infinipot::nuc(logits, targets()[token]);
  }

  void nuc(std::size_t token, float nuc) noexcept override {
    if (token < targets().size()) entries_[token + 1].nuc = nuc;
  }

  /// After the call. Throws std::invalid_argument if a row that was wanted did not come.
  void require() const {
    for (std::size_t i = 0; i < targets().size(); ++i)
      if (std::bit_cast<std::uint32_t>(entries_[i + 1].nuc) == std::bit_cast<std::uint32_t>(missing))
        no_row(i);
    if (!staged_) no_row(entries_.size() - 1);
  }

 private:
  [[noreturn]] void no_row(std::size_t i) const {
    invalid("the engine gave no ", tracker_.vocab_size(), " logits after token ", i, " of a call of ",
            entries_.size(), " (LogitsSink::row())");
  }

  NucTracker& tracker_;
  std::span<Entry> entries_;
  bool staged_ = false;  // the last row
};

/// Wants no logits at all.
class NoLogits final : public LogitsSink {
 public:
  explicit NoLogits(std::size_t tokens, std::uint64_t stream_offset = 0, bool probe = false) noexcept
      : LogitsSink(tokens, {}, stream_offset, probe) {}
  void row(std::size_t /*token*/, std::span<const float> /*logits*/) noexcept override {}
};

/// Calls a function on scope exit unless it was released: a rollback that needs no catch.
template <class F>
class Rollback {
 public:
  explicit Rollback(F undo) noexcept : undo_(undo) {}
  Rollback(const Rollback&) = delete;
  Rollback& operator=(const Rollback&) = delete;
  ~Rollback() {
    if (armed_) undo_();
  }
  void release() noexcept { armed_ = false; }

 private:
  F undo_;
  bool armed_ = true;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
