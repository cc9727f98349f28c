// Continual Context Distillation (paper section 3): the loop that reads an endless text through a pot.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/ccd_settings.hpp"
#include "infinipot/compact.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/needs.hpp"
#include "infinipot/detail/protected_room.hpp"
#include "infinipot/detail/stopwatch.hpp"
#include "infinipot/detail/watchers.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/selector.hpp"

namespace infinipot {

/// Reads tokens through an engine into a store and distils whenever the store is full, while reading and
/// while generating alike. Allocates only in the constructor (and in what the engine does).
///
/// The engine must run against the very store that is given here. Both outlive this object, and so do the
/// threads that the executor stands for; without one all is done on the calling thread.
template <class Engine, class S, class P, Executor X = Serial>
class Ccd {
  using Needs = detail::Needs<Engine, S, P>;
  static constexpr bool watches = Needs::watches, by_queries = Needs::by_queries, observes = Needs::observes;

 public:
  using Observer = std::function<void(const Distillation&)>;
  using ChoiceObserver = std::function<void(const Choice&)>;

  /// Throws std::invalid_argument if the engine's and the store's shapes differ, the store is not empty (to
  /// go on from a pot that was saved, restore it afterwards and call resume()), or the settings cannot work:
  /// keep >= capacity, sinks + recent > keep, no room for catalyst and one more token.
  Ccd(Engine& engine, S& store, P policy, CcdSettings settings = {}, X executor = {})
      : executor_(std::move(executor)),
        engine_(engine),
        store_(store),
        policy_(std::move(policy)),
        settings_(detail::checked_settings(engine, store, policy_, settings)),
        room_(store.entries(), policy_, settings_, settings.recent),
        limit_(store.capacity() - detail::longest_probe(policy_)),
        window_start_(limit_ - detail::watched_window(policy_)),
        tracker_(static_cast<std::size_t>(engine.vocab_size())),
        selector_(selector_for(policy_)),
        entries_(std::min(settings_.chunk, store.capacity())),
        attention_(P::watch != Watch::nothing ? store.shape().heads() * store.capacity() : 0),
        pending_(P::watch == Watch::every_query || P::watch == Watch::last_queries ? attention_.size() : 0) {
    if constexpr (watches && by_queries)
      scorers_.assign(executor_.workers(), CapScorer(store.shape(), store.capacity()));
    prepare(policy_);
  }

  /// A copy that goes on from here, on a copy of the store (Pot::fork) and an engine that runs against that.
  /// Not observed. Throws std::invalid_argument if the stores differ in shape, capacity, granularity, budgets
  /// or size.
  Ccd fork(Engine& engine, S& store) const { return Ccd(*this, engine, store); }

  /// Reads tokens, distilling as often as needed; pinned tokens are never dropped. If forward() throws, the
  /// chunk it was working on has left no trace, and what was read before it stays read (see stats()).
  /// Throws std::invalid_argument, before anything changes, for a token outside the vocabulary and for more
  /// pinned tokens than fit beside sinks and recent in `keep`.
  void feed(std::span<const Token> tokens, Retention retention = Retention::evictable) {
    check(tokens, retention);
    while (!tokens.empty()) {
      if (size() == limit_) distil();
      const std::size_t count = std::min(tokens.size(), longest_chunk());
      read(tokens.first(count), retention);
      tokens = tokens.subspan(count);
    }
  }

  void feed(Token token, Retention retention = Retention::evictable) { feed({&token, 1}, retention); }

  /// Distils now, not only when the store is full: before a pause, or when the question has just become known
  /// (set_policy). No effect while the store holds no more than it keeps.
  void distil() {
    if (size() <= settings_.keep) return;
    const detail::Stopwatch time;
    const std::size_t before = size();
    const double cap_seconds = run_probes();
    const double probe_seconds = time.seconds();
    score_entries();
    const std::size_t nans =
        selector_.select(policy_, store_.entries(), attention_, room_.protection(), executor_);
    if (choice_observer_)
      choice_observer_({stats_.distillations + 1, store_.entries(), attention_, selector_.kept()});
    if constexpr (requires { store_.keep(selector_.kept(), executor_); })
      store_.keep(selector_.kept(), executor_);
    else
      store_.keep(selector_.kept());
    carry_attention(before);
    const double seconds = time.seconds();
    stats_.distillations += 1;
    stats_.nan_scores += nans;
    stats_.distill_seconds += seconds;
    stats_.probe_seconds += probe_seconds;
    stats_.cap_seconds += cap_seconds;
    if (observer_)
      observer_({stats_.distillations, before, nans, seconds, probe_seconds, cap_seconds, selector_.kept()});
  }

  /// Goes on with another policy of the type, for instance one whose catalyst is the question that has just
  /// become known. Room for probes, window and recent entries stay what the first policy asked for; what a
  /// policy has observed (expected_attention) goes with it. Allocates. Throws std::invalid_argument, before
  /// anything changes, if the policy needs more of them than that (InfinipotSettings::room reserves some for
  /// a longer catalyst), or NuC where the one before did not.
  void set_policy(P policy) {
    const auto most = [](const char* what, std::size_t needed, std::size_t available) {
      if (needed > available)
        detail::invalid("the new policy needs ", needed, ' ', what, "; the first one left room for ",
                        available);
    };
    most("tokens for a probe", detail::longest_probe(policy), store_.capacity() - limit_);
    most("queries to watch", detail::watched_window(policy), limit_ - window_start_);
    room_.check(policy, store_.entries(), settings_.keep);
    if (policy.uses_nuc() && !policy_.uses_nuc())
      detail::invalid("the new policy needs NuC, which the one before did not ask for");
    Selector selector = selector_for(policy);
    prepare(policy);
    selector_ = std::move(selector);
    policy_ = std::move(policy);
  }

  /// Goes on from what was put into the store behind the reader's back, as restore_pot() does: call it right
  /// after that. `logits` are those that followed the last token (vocab_size), or none: then the next token's
  /// NuC is 0. What a policy has collected while reading (h2o, snapkv, expected_attention) begins anew.
  /// Throws std::invalid_argument, before anything changes, for logits of another size and for entries or
  /// pinned entries that leave no room to go on.
  void resume(std::span<const float> logits = {}) {
    if (!logits.empty() && logits.size() != tracker_.vocab_size())
      detail::invalid("resuming with ", logits.size(), " logits, but the vocabulary has ",
                      tracker_.vocab_size());
    if (size() > limit_)
      detail::invalid("resuming with ", size(), " entries, but a distillation is due at ", limit_);
    const auto [read, pinned] = detail::held_by(store_.entries(), settings_.sinks);
    room_.check_pinned(pinned, "cannot resume");
    std::fill(attention_.begin(), attention_.end(), 0.0F);
    if constexpr (observes) policy_.forget();
    tracker_.restart(logits);
    pinned_ = pinned;
    stats_.tokens_read = read;
  }

  /// Generates up to `max_tokens` tokens: `sample(logits)` picks one, which is read, unless `accept(token)`
  /// says false. Returns how many were accepted. Throws std::invalid_argument if nothing was read before.
  template <class Sample, class Accept>
  std::size_t generate(std::size_t max_tokens, Sample&& sample, Accept&& accept) {
    for (std::size_t n = 0; n < max_tokens; ++n) {
      const Token token = sample(logits());
      if (!accept(token)) return n;
      feed(token);
    }
    return max_tokens;
  }

  /// (vocab_size) the model's prediction of what follows the last token read. Throws std::invalid_argument
  /// before the first one.
  std::span<const float> logits() const {
    if (!tracker_.has_logits()) detail::invalid("there are no logits before the first token was read");
    return tracker_.logits();
  }

  /// Is called after every distillation. It may allocate; it must not call back into the reader.
  void on_distillation(Observer observer) { observer_ = std::move(observer); }

  /// Is called at every distillation when it is known what stays, before anything goes: for looking into it.
  /// It may allocate; it must not call back into the reader. If it throws, nothing is distilled.
  void on_choice(ChoiceObserver observer) { choice_observer_ = std::move(observer); }

  const CcdStats& stats() const noexcept { return stats_; }
  const CcdSettings& settings() const noexcept { return settings_; }
  const P& policy() const noexcept { return policy_; }

  /// Entries at which a distillation is due: the capacity less room for the catalyst.
  std::size_t limit() const noexcept { return limit_; }

 private:
  Ccd(const Ccd& other, Engine& engine, S& store)
      : executor_(other.executor_),
        engine_(engine),
        store_(like(other, store)),
        policy_(other.policy_),
        settings_(other.settings_),
        room_(other.room_),
        limit_(other.limit_),
        window_start_(other.window_start_),
        tracker_(other.tracker_),
        selector_(other.selector_),
        scorers_(other.scorers_),
        rooms_(other.rooms_),
        entries_(other.entries_),
        attention_(other.attention_),
        pending_(other.pending_),
        pinned_(other.pinned_),
        stats_(other.stats_) {}

  static S& like(const Ccd& other, S& store) {
    if (!(Shape(store.shape()) == Shape(other.store_.shape())) ||
        store.capacity() != other.store_.capacity() || store.granularity() != other.store_.granularity() ||
        !store.entries().fills_as(other.store_.entries()))
      detail::invalid(
          "the store is not a copy of the one to go on from: shape, capacity, granularity, budgets or size "
          "differ");
    return store;
  }

  Selector selector_for(const P& policy) const {
    const auto budgets = store_.entries().budgets();
    const Shape shape = store_.shape();
    return Selector(
        shape, store_.granularity(), store_.capacity(),
        budgets.empty() ? Selection(shape.lanes(store_.granularity()), settings_.keep) : Selection(budgets),
        policy.rules(), executor_.workers());
  }

  std::size_t size() const noexcept { return store_.entries().size(); }

  /// Allocates what a policy needs that scores entries. Leaves all as it was if it throws.
  void prepare(P& policy) {
    auto rooms = detail::entry_rooms(store_, policy, executor_.workers());
    if constexpr (observes)
      policy.begin(store_.shape(), store_.entries().start(), store_.capacity(), entries_.size());
    rooms_ = std::move(rooms);
  }

  void check(std::span<const Token> tokens, Retention retention) const {
    for (const Token token : tokens)
      if (token < 0 || static_cast<std::size_t>(token) >= tracker_.vocab_size())
        detail::invalid("token ", token, " is out of the vocabulary's range 0 .. ",
                        tracker_.vocab_size() - 1);
    if (retention != Retention::pinned) return;
    room_.check_pinned(pinned_ + newly_pinned(tokens.size()), "cannot pin ", tokens.size(), " tokens");
  }

  /// Sinks stay anyway, so pinning them costs nothing.
  std::size_t newly_pinned(std::size_t count) const noexcept {
    const std::uint64_t end = stats_.tokens_read + count;
    const std::uint64_t from = std::max<std::uint64_t>(stats_.tokens_read, settings_.sinks);
    return static_cast<std::size_t>(end - std::min(end, from));
  }

  std::size_t longest_chunk() const noexcept {
    const std::size_t end = size() < window_start_ ? window_start_ : limit_;
    return std::min(end - size(), entries_.size());
  }

  bool watches_now() const noexcept {
    return P::watch == Watch::every_query || observes ||
           (P::watch == Watch::last_queries && size() >= window_start_);
  }

  /// Reads one chunk. Commits it only when the forward pass has returned.
  void read(std::span<const Token> tokens, Retention retention) {
    const std::size_t first = size();
    const auto entries = std::span(entries_).first(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      entries[i] = {stats_.tokens_read + i, tokens[i], 0, retention == Retention::pinned};
    if (policy_.uses_nuc()) entries[0].nuc = tracker_.score(tokens[0]);

    detail::Rollback rollback([&]() noexcept {
      store_.truncate(first);
      std::fill(pending_.begin(), pending_.end(), 0.0F);
    });
    detail::ChunkLogits logits(tracker_, tokens, entries, policy_.uses_nuc());
    const bool watched = watches_now();
    if (watched)
      watch(tokens, first, logits, {pending_, store_.capacity()});
    else
      engine_.forward(tokens, first, logits);
    store_.append(entries);
    rollback.release();

    if (watched) commit(first + tokens.size());
    tracker_.commit();
    if (retention == Retention::pinned) pinned_ += newly_pinned(tokens.size());
    stats_.tokens_read += tokens.size();
  }

  /// Runs tokens and puts the attention that they pay into `scores`. Returns the seconds that it spent on
  /// that, as far as they can be told from the engine's.
  double watch(std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
               detail::AttentionScores scores) {
    if constexpr (observes) {
      if (!detail::shows_queries(engine_))
        detail::invalid("the engine shows attention probabilities, but this policy needs its queries");
      detail::QueryObserver<P> queries(policy_, first);
      engine_.forward(tokens, first, logits, static_cast<QuerySink&>(queries));
      return 0;
    }
    if constexpr (watches && by_queries) {
      if (detail::shows_queries(engine_)) {
        detail::QueryWatcher<Engine, S, X> queries(engine_, store_, scorers_, first, scores, executor_);
        engine_.forward(tokens, first, logits, static_cast<QuerySink&>(queries));
        return queries.seconds();
      }
    }
    if constexpr (watches && YieldsAttention<Engine>) {
      detail::AttentionWatcher<S> attention(store_, scores);
      engine_.forward(tokens, first, logits, static_cast<AttentionSink&>(attention));
    }
    return 0;
  }

  void commit(std::size_t size) noexcept {
    if constexpr (observes) {
      const Shape shape = store_.shape();
      executor_.for_each(shape.heads(), [&](std::size_t head, std::size_t) {
        policy_.commit(head / shape.kv_heads, head % shape.kv_heads);
      });
      return;
    }
    for (std::size_t head = 0; head < store_.shape().heads(); ++head) {
      const std::size_t at = head * store_.capacity();
      for (std::size_t t = at; t < at + size; ++t) {
        attention_[t] += pending_[t];
        pending_[t] = 0;
      }
    }
  }

  /// Returns the seconds that scoring took.
  double run_probes() {
    double cap_seconds = 0;
    if constexpr (P::watch == Watch::probes) {
      if (!carries_attention<P>) std::fill(attention_.begin(), attention_.end(), 0.0F);
      const std::size_t first = size(), layers = detail::probed_layers(policy_, store_.granularity());
      const EntryTable& entries = store_.entries();
      const auto fresh =
          entries.tokens(0).subspan(stats_.distillations == 0 ? 0 : settings_.keep - entries.begin(0));
      for (std::size_t i = 0;; ++i) {
        const std::span<const Token> probe = policy_.probe(i, ProbeContext{fresh});
        if (probe.empty()) break;
        detail::Rollback drop([&]() noexcept { store_.truncate(first); });
        detail::NoLogits logits(probe.size());
        cap_seconds += watch(probe, first, logits, {attention_, store_.capacity(), policy_.reduce(), layers});
      }
    }
    return cap_seconds;
  }

  void score_entries() noexcept {
    if constexpr (watches_entries(P::watch)) {
      const Shape shape = store_.shape();
      executor_.for_each(shape.heads(), [&](std::size_t head, std::size_t worker) {
        const EntryRows<S> rows(store_, head / shape.kv_heads, head % shape.kv_heads, rooms_[worker]);
        const auto scores = std::span(attention_).subspan(head * store_.capacity(), size());
        policy_.score_entries(rows, scores.subspan(rows.begin()));
      });
    }
  }

  /// What entries received so far goes with them; what the last queries paid is spent.
  void carry_attention(std::size_t before) noexcept {
    if constexpr (P::watch == Watch::last_queries) std::fill(attention_.begin(), attention_.end(), 0.0F);
    if constexpr (P::watch == Watch::every_query || carries_attention<P>) {
      const Shape shape = store_.shape();
      for (std::size_t head = 0; head < shape.heads(); ++head) {
        const auto row = std::span(attention_).subspan(head * store_.capacity(), before);
        const std::size_t lane = head / shape.heads_per_lane(store_.granularity());
        const std::size_t first = selector_.kept().first(lane);
        compact(row.subspan(first), selector_.kept().lane(lane), first);
        std::fill(row.begin() + static_cast<std::ptrdiff_t>(settings_.keep), row.end(), 0.0F);
      }
    }
  }

  X executor_;
  Engine& engine_;
  S& store_;
  P policy_;
  CcdSettings settings_;
  detail::ProtectedRoom room_;
  std::size_t limit_;
  std::size_t window_start_;  // entries from here on are watched, for Watch::last_queries
  NucTracker tracker_;
  Selector selector_;
  std::vector<CapScorer> scorers_;         // (workers)
  std::vector<std::vector<float>> rooms_;  // (workers) for the rows of entries
  std::vector<Entry> entries_;             // (chunk) being read
  std::vector<float> attention_;           // (layers, kv_heads, capacity)
  std::vector<float> pending_;             // the same, of a chunk that may still fail
  std::size_t pinned_ = 0;                 // beyond the sinks
  CcdStats stats_;
  Observer observer_;
  ChoiceObserver choice_observer_;
};

}  // namespace infinipot
