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
#include "infinipot/ccd/pass.hpp"
#include "infinipot/ccd/pending_pass.hpp"
#include "infinipot/ccd/received.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/policy/entry_rows.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Has text, probes and windows run by an engine into a store, one pass at a time: prepares it, and takes
/// what came of it. Allocates in the constructor and in prepare() only.
template <class Engine, class S, class P, class X>
class Passes {
  using Needs = detail::Needs<Engine, S, P>;
  static constexpr bool watches = Needs::watches, by_queries = Needs::by_queries,
                        by_attention = Needs::by_attention, observes = Needs::observes;

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
        shown_(can_show_queries<Engine> ? Shape(store.shape()).layers : 0) {
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

  /// The pass that is to be run; null if there is none.
  const Pass* pending() const noexcept { return pass_.get(); }

  /// Prepares a pass of tokens behind the last entry, which their `entries` become. With `score_all`, these
  /// get the NuC of all after the first. Throws std::invalid_argument if the engine does not show what is
  /// needed.
  void prepare_chunk(P& policy, std::span<const Token> tokens, std::span<Entry> entries, NucTracker& tracker,
                     bool score_all, bool watched) {
    added_ = entries;
    begin(policy, watched, received_.of_chunk(),
          [&] { pass_.begin(tokens, size(), tracker, entries, score_all); });
  }

  /// Prepares the next pass of the window, which is not at its end.
  void prepare_window(P& policy) {
    const std::size_t at = size() - window_first_, count = (std::min)(chunk_, window_end_ - size());
    added_ = std::span(window_).subspan(at, count);
    begin(policy, true, received_.of_chunk(), [&] {
      pass_.begin(std::span(window_tokens_).subspan(at, count), size(), added_[0].position - size(), false);
    });
  }

  /// Prepares the policy's probe i, at `position` of the stream. Returns false if there are no more. Throws
  /// std::invalid_argument for a probe that must not reach the engine.
  bool prepare_probe(P& policy, std::size_t i, std::uint64_t position) {
    if constexpr (watch_of<P> == Watch::probes) {
      if (i == 0) received_.begin_probes();
      const std::span<const Token> probe = policy.probe(i, ProbeContext{fresh()});
      if (probe.empty()) return false;
      check_probe(policy, probe);
      added_ = {};
      begin(policy, true,
            received_.of_probe(policy.reduce(), probed_layers(policy, store_.view().granularity())),
            [&] { pass_.begin(probe, size(), position - size(), true); });
      return true;
    }
    return false;
  }

  /// Takes what came of the pass: its entries are added, or, after a probe, dropped. Returns the seconds that
  /// scoring took. Throws std::invalid_argument if the engine left out what it was asked for, and what the
  /// store throws; then the pass leaves no trace.
  double finish(P& policy) {
    const std::size_t first = pass_.get()->first;
    Rollback rollback([&]() noexcept { undo(); });
    pass_.require();
    if (!added_.empty()) store_.append(added_);
    rollback.release();
    const double seconds = pass_.seconds();
    pass_.clear();
    if (added_.empty()) {
      store_.drop(first);
    } else if (watched_) {
      if (!watched_from_) watched_from_ = first;
      commit(policy, first + added_.size());
    }
    return seconds;
  }

  /// A pass that was not run, or failed, leaves no trace. Nothing is dropped from entries that something else
  /// has changed meanwhile.
  void undo() noexcept {
    if (pending() == nullptr) return;
    if (store_.unchanged()) store_.roll_back(pending()->first);
    received_.drop_chunk();
    pass_.clear();
  }

  /// For a policy that watches the last queries: takes the last entries out to read their tokens anew, unless
  /// just these were watched.
  void begin_window(const P& policy) {
    if constexpr (watch_of<P> != Watch::last_queries) return;
    const std::size_t end = size(), first = end - (std::min)(watched_window(policy), fresh().size());
    if (watched_from_ == first) return;
    const EntryTable& entries = store_.entries();
    for (std::size_t i = 0, at = first; at < end; ++i, ++at) {
      window_[i] = {entries.positions(0)[at], entries.tokens(0)[at], entries.nuc(0)[at],
                    entries.pinned(0)[at] != 0};
      window_tokens_[i] = window_[i].token;
    }
    store_.truncate(first);
    forget_window();
    window_first_ = first;
    window_end_ = end;
  }

  /// Whether entries of the window are still to be read anew.
  bool window_is_out() const noexcept { return size() < window_end_; }

  /// All of them were.
  void end_window() noexcept { window_end_ = 0; }

  /// Gives back those that were not, after a failure.
  void put_window_back() noexcept {
    if (window_is_out() && store_.unchanged()) {
      const std::size_t size = this->size();
      forget_window();
      store_.put_back(std::span(window_).subspan(size - window_first_, window_end_ - size));
    }
    end_window();
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

  /// Prepares a pass by `make`; if `watched`, its attention is collected in `scores`.
  template <class Make>
  void begin(P& policy, bool watched, AttentionScores scores, const Make& make) {
    watched_ = watched;
    if constexpr (!watches && !observes) return make();
    const bool queries = !watched || shows_queries(*engine_);
    if (observes && !queries)
      invalid("the engine shows attention probabilities, but this policy needs its queries");
    make();
    if (!watched) return;
    if constexpr (observes) {
      pass_.observe(policy, shown_);
    } else {
      if constexpr (watches && by_queries)
        if (queries) return pass_.score(*engine_, store_.view(), scorers_, shown_, scores, executor_);
      if constexpr (watches && by_attention) pass_.attend(store_.view().shape(), scores);
    }
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
  PendingPass<Engine, S, P, X> pass_;
  std::span<const Entry> added_;             // its entries; none of a probe
  bool watched_ = false;                     // whether the policy watches it
  std::optional<std::size_t> watched_from_;  // queries of entries from here on are in received_
  std::vector<Entry> window_;                // being read anew
  std::vector<Token> window_tokens_;         // the same
  std::size_t window_first_ = 0;             // its place in the store
  std::size_t window_end_ = 0;               // and its end; 0 when none is out
  std::vector<std::uint8_t> shown_;          // (layers) for QueryCheck
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
