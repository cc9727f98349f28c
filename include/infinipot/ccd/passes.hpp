// The forward passes of a reader, and what its policy watches of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/ccd/guarded_store.hpp"
#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/received.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/policy/entry_rows.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Runs text, probes and windows through an engine into a store. Allocates in the constructor and in
/// prepare() only.
template <class Engine, class S, class P, class X>
class Passes {
  using Needs = detail::Needs<Engine, S, P>;
  static constexpr bool watches = Needs::watches, by_queries = Needs::by_queries, observes = Needs::observes;

 public:
  /// Of at most `chunk` tokens a call, probes apart, and at most `window` last queries to watch.
  Passes(Engine& engine, S& store, X executor, std::size_t chunk, std::size_t window)
      : engine_(&engine),
        store_(store),
        executor_(std::move(executor)),
        vocab_size_(static_cast<std::size_t>(engine.vocab_size())),
        chunk_(chunk),
        received_(store.shape(), store.granularity(), store.capacity()),
        window_(window),
        window_tokens_(window),
        shown_(YieldsQueries<Engine> ? Shape(store.shape()).layers : 0) {
    if constexpr (watches && by_queries)
      scorers_.assign(executor_.workers(), CapScorer(store.shape(), store.capacity()));
  }

  /// From now on through another engine into another store.
  void rebind(Engine& engine, S& store) noexcept {
    engine_ = &engine;
    store_ = GuardedStore<S>(store);
  }

  Engine& engine() noexcept { return *engine_; }
  GuardedStore<S>& store() noexcept { return store_; }
  const GuardedStore<S>& store() const noexcept { return store_; }
  Received<P>& received() noexcept { return received_; }
  const Received<P>& received() const noexcept { return received_; }
  X& executor() noexcept { return executor_; }
  const X& executor() const noexcept { return executor_; }
  std::size_t most_watched() const noexcept { return window_.size(); }

  /// Allocates what a policy that scores entries needs. Changes nothing if it throws.
  void prepare(P& policy) {
    auto memory = entry_memory(store_.view(), policy, executor_.workers());
    if constexpr (observes) policy.begin(store_.view().shape(), store_.view().capacity(), chunk_);
    entry_memory_ = std::move(memory);
  }

  /// Throws std::invalid_argument, naming the token as `what`, if one is out of the vocabulary.
  void check_range(const char* what, std::span<const Token> tokens) const {
    for (const Token token : tokens)
      if (token < 0 || static_cast<std::size_t>(token) >= vocab_size_)
        invalid(what, ' ', token, " is out of the vocabulary's range 0 .. ", vocab_size_ - 1);
  }

  /// Throws std::invalid_argument for a policy with a probe that must not reach the engine.
  void check_probes(const P& policy) const {
    if constexpr (watch_of<P> == Watch::probes) {
      const Token fresh = 0;
      for (std::size_t i = 0;; ++i) {
        const std::span<const Token> probe = policy.probe(i, ProbeContext{{&fresh, 1}});
        if (probe.empty()) break;
        check_probe(policy, probe);
      }
    }
  }

  /// Runs tokens behind the last entry and adds their entries. Leaves no trace if it throws. Returns the
  /// seconds that scoring took.
  template <class Logits>
  double add(P& policy, std::span<const Token> tokens, std::span<const Entry> entries, Logits& logits,
             bool watched) {
    const std::size_t first = size();
    Rollback rollback([&]() noexcept {
      store_.roll_back(first);
      received_.drop_chunk();
    });
    double seconds = 0;
    if (watched)
      seconds = watch(policy, tokens, first, logits, received_.of_chunk());
    else
      engine_->forward(tokens, first, static_cast<LogitsSink&>(logits));
    logits.require();
    store_.append(entries);
    rollback.release();
    if (!watched) return 0;
    if (!watched_from_) watched_from_ = first;
    commit(policy, first + tokens.size());
    return seconds;
  }

  /// For a policy that watches the last queries: reads their tokens anew unless just these were watched.
  /// Returns the seconds that scoring took.
  double watch_window(P& policy) {
    if constexpr (watch_of<P> != Watch::last_queries) return 0;
    const std::size_t end = size(), first = end - (std::min)(watched_window(policy), fresh().size());
    if (watched_from_ == first) return 0;
    const auto window = std::span(window_).first(end - first);
    const EntryTable& entries = store_.entries();
    for (std::size_t i = 0, at = first; at < end; ++i, ++at) {
      window[i] = {entries.positions(0)[at], entries.tokens(0)[at], entries.nuc(0)[at],
                   entries.pinned(0)[at] != 0};
      window_tokens_[i] = window[i].token;
    }
    store_.truncate(first);
    forget_window();
    Rollback put_back([&]() noexcept {
      forget_window();
      store_.put_back(window.subspan(size() - first));
    });
    double seconds = 0;
    while (size() < end) {
      const std::size_t at = size() - first, count = (std::min)(chunk_, window.size() - at);
      NoLogits logits(count, window[at].position - size(), false);
      seconds +=
          add(policy, std::span(window_tokens_).subspan(at, count), window.subspan(at, count), logits, true);
    }
    put_back.release();
    return seconds;
  }

  /// What the last queries paid.
  void forget_window() noexcept {
    if constexpr (watch_of<P> != Watch::last_queries) return;
    received_.clear();
    watched_from_.reset();
  }

  /// After a distillation of `before` entries.
  void carry(const Selection& kept, std::size_t before) noexcept {
    received_.carry(kept, before);
    watched_from_.reset();
  }

  /// Runs the policy's probes at the end of the store, which is at `position` of the stream, and drops them.
  /// Returns the seconds that scoring took.
  /// Throws std::invalid_argument for a probe that must not reach the engine.
  double run_probes(P& policy, std::uint64_t position) {
    double cap_seconds = 0;
    if constexpr (watch_of<P> == Watch::probes) {
      received_.begin_probes();
      const std::size_t first = size(), layers = probed_layers(policy, store_.view().granularity());
      for (std::size_t i = 0;; ++i) {
        const std::span<const Token> probe = policy.probe(i, ProbeContext{fresh()});
        if (probe.empty()) break;
        check_probe(policy, probe);
        Rollback rollback([&]() noexcept { store_.roll_back(first); });
        NoLogits logits(probe.size(), position - first, true);
        cap_seconds += watch(policy, probe, first, logits, received_.of_probe(policy.reduce(), layers));
        rollback.release();
        store_.drop(first);
      }
    }
    return cap_seconds;
  }

  /// For a policy that watches entries.
  void score_entries(const P& policy) noexcept {
    if constexpr (watches_entries(watch_of<P>)) {
      const Shape shape = store_.view().shape();
      executor_.for_each(shape.heads(), [&](std::size_t head, std::size_t worker) {
        const EntryRows rows(store_.view(), head / shape.kv_heads, head % shape.kv_heads,
                             entry_memory_[worker]);
        policy.score_entries(rows, received_.head(head, size()));
      });
    }
  }

 private:
  /// Throws std::invalid_argument for a probe that must not reach the engine.
  void check_probe(const P& policy, std::span<const Token> probe) const {
    check_range("the catalyst's or instruction's token", probe);
    if (probe.size() > longest_probe(policy))
      invalid("a probe of ", policy.name(), " has ", probe.size(), " tokens, more than the ",
              longest_probe(policy), " of its longest_probe()");
  }

  /// Tokens read since the last distillation.
  std::span<const Token> fresh() const noexcept {
    const auto survived = store_.entries().survived(0);
    const auto survivors = std::ranges::find(survived, 0U) - survived.begin();
    return store_.entries().tokens(0).subspan(static_cast<std::size_t>(survivors));
  }

  /// Runs tokens and collects the attention that they pay in `scores`. Returns the seconds that scoring took,
  /// 0 if the engine did it.
  double watch(P& policy, std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
               AttentionScores scores) {
    if constexpr (observes) {
      if (!shows_queries(*engine_))
        invalid("the engine shows attention probabilities, but this policy needs its queries");
      QueryObserver<P> queries(policy, shown_, first, tokens.size());
      engine_->forward(tokens, first, logits, static_cast<QuerySink&>(queries));
      queries.require();
      return 0;
    }
    if constexpr (watches && by_queries) {
      if (shows_queries(*engine_)) {
        QueryWatcher<Engine, S, X> queries(*engine_, store_.view(), scorers_, shown_, first, tokens.size(),
                                           scores, executor_);
        engine_->forward(tokens, first, logits, static_cast<QuerySink&>(queries));
        queries.require();
        return queries.seconds();
      }
    }
    if constexpr (watches && YieldsAttention<Engine>) {
      AttentionWatcher attention(store_.view().shape(), scores);
      engine_->forward(tokens, first, logits, static_cast<AttentionSink&>(attention));
      attention.require();
    }
    return 0;
  }

  void commit(P& policy, std::size_t size) noexcept {
    received_.commit_chunk(size);
    if constexpr (observes) {
      const Shape shape = store_.view().shape();
      executor_.for_each(shape.heads(), [&](std::size_t head, std::size_t) {
        policy.commit(head / shape.kv_heads, head % shape.kv_heads);
      });
    }
  }

  std::size_t size() const noexcept { return store_.size(); }

  Engine* engine_;
  GuardedStore<S> store_;
  X executor_;
  std::size_t vocab_size_, chunk_;
  std::vector<CapScorer> scorers_;                // (workers)
  std::vector<std::vector<float>> entry_memory_;  // (workers) for EntryRows
  Received<P> received_;
  std::optional<std::size_t> watched_from_;  // queries of entries from here on are in received_
  std::vector<Entry> window_;                // being read anew
  std::vector<Token> window_tokens_;         // the same
  std::vector<std::uint8_t> shown_;          // (layers) for QueryCheck
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
