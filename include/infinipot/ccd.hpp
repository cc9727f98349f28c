// CCD, Continual Context Distillation (paper section 3): the loop that reads an endless text through a pot.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/protected_room.hpp"
#include "infinipot/ccd/received.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/stopwatch.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/policy/selector.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Reads tokens through an engine into a store and distils whenever the store is full, whether reading or
/// generating. Allocates only in the constructor, in set_policy() and in what the engine does.
///
/// The engine must run against this very store. Both must outlive this object, as must the executor's
/// threads; without an executor, all work runs on the calling thread.
template <class Engine, class S, class P, Executor X = Serial>
class Ccd {
  using Needs = detail::Needs<Engine, S, P>;
  static constexpr bool watches = Needs::watches, by_queries = Needs::by_queries, observes = Needs::observes;

 public:
  using Observer = std::function<void(const Distillation&)>;
  using ChoiceObserver = std::function<void(const Choice&)>;

  /// Throws std::invalid_argument if the engine's and the store's shapes differ, the store is not empty (to
  /// go on from a saved pot, restore it afterwards and call resume()), or the settings cannot work:
  /// keep >= capacity, sinks + recent > keep, no room for catalyst and one more token.
  Ccd(Engine& engine, S& store, P policy, CcdSettings settings = {}, X executor = {})
      : executor_(std::move(executor)),
        engine_(&engine),
        store_(&store),
        policy_(std::move(policy)),
        settings_(detail::checked_settings(engine, store, policy_, settings)),
        protected_room_(settings_),
        limit_(store.capacity() - longest_probe(policy_)),
        window_start_(limit_ - watched_window(policy_)),
        tracker_(static_cast<std::size_t>(engine.vocab_size())),
        selector_(selector_for(policy_)),
        entries_(std::min(settings_.chunk, store.capacity())),
        received_(store.shape(), store.granularity(), store.capacity()) {
    if constexpr (watches && by_queries)
      scorers_.assign(executor_.workers(), CapScorer(store.shape(), store.capacity()));
    prepare(policy_);
  }

  /// A copy that goes on from here, on a copy of the store (Pot::fork) and an engine that runs against it.
  /// Without observers. Throws std::invalid_argument if the stores differ in shape, capacity, granularity or
  /// size.
  Ccd fork(Engine& engine, S& store) const {
    if (!(Shape(store.shape()) == Shape(store_->shape())) || store.capacity() != store_->capacity() ||
        store.granularity() != store_->granularity() || store.entries().size() != size())
      detail::invalid(
          "the store is not a copy of the one to go on from: shape, capacity, granularity or size differ");
    Ccd copy(*this);
    copy.engine_ = &engine;
    copy.store_ = &store;
    copy.observer_ = nullptr;
    copy.choice_observer_ = nullptr;
    return copy;
  }

  Ccd(Ccd&&) noexcept = default;
  Ccd& operator=(Ccd&&) noexcept = default;

  /// Reads tokens, distilling as often as needed; pinned tokens are never dropped. If forward() throws, its
  /// chunk leaves no trace, and what was read before stays read (see stats()). Throws std::invalid_argument,
  /// before anything changes, for a token outside the vocabulary and for more pinned tokens than fit into
  /// `keep` beside sinks and recent.
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

  /// Distils now rather than when the store is full: before a pause, or once the question is known
  /// (set_policy). No effect while the store holds no more than `keep` entries.
  void distil() {
    if (size() <= settings_.keep) return;
    const detail::Stopwatch time;
    const std::size_t before = size();
    const double cap_seconds = run_probes();
    const double probe_seconds = time.seconds();
    score_entries();
    const std::size_t nans = selector_.select(policy_, store_->entries(), received_.scores(),
                                              protected_room_.protection(), executor_);
    if (choice_observer_)
      choice_observer_({stats_.distillations + 1, store_->entries(), received_.scores(), selector_.kept()});
    if constexpr (requires { store_->keep(selector_.kept(), executor_); })
      store_->keep(selector_.kept(), executor_);
    else
      store_->keep(selector_.kept());
    received_.carry(selector_.kept(), before);
    const double seconds = time.seconds();
    stats_.distillations += 1;
    stats_.nan_scores += nans;
    stats_.distill_seconds += seconds;
    stats_.probe_seconds += probe_seconds;
    stats_.cap_seconds += cap_seconds;
    if (observer_)
      observer_({stats_.distillations, before, nans, seconds, probe_seconds, cap_seconds, selector_.kept()});
  }

  /// Goes on with another policy of the same type, for instance one whose catalyst is the question, now that
  /// it is known. Room for probes, window and recent entries stays what the first policy asked for; what the
  /// old policy observed (expected_attention) is lost. Allocates. Throws std::invalid_argument, before
  /// anything changes, if the new policy needs more room (InfinipotSettings::longest_catalyst keeps some for
  /// a longer catalyst), or NuC when the old one did not.
  void set_policy(P policy) {
    const auto most = [](const char* what, std::size_t needed, std::size_t available) {
      if (needed > available)
        detail::invalid("the new policy needs ", needed, ' ', what, "; the first one left room for ",
                        available);
    };
    most("tokens for a probe", longest_probe(policy), store_->capacity() - limit_);
    most("queries to watch", watched_window(policy), limit_ - window_start_);
    protected_room_.check(policy);
    if (uses_nuc(policy) && !uses_nuc(policy_))
      detail::invalid("the new policy needs NuC, which the one before did not ask for");
    Selector selector = selector_for(policy);
    prepare(policy);
    selector_ = std::move(selector);
    policy_ = std::move(policy);
  }

  /// Goes on from what something else, such as restore_pot(), has put into the store: call it right after.
  /// `logits` (vocab_size) are those after the last token, or none: then the next token's NuC is 0. What a
  /// policy has collected while reading (h2o, snapkv, expected_attention) starts over. Throws
  /// std::invalid_argument, before anything changes, for logits of another size and for entries or pinned
  /// entries that leave no room to go on.
  void resume(std::span<const float> logits = {}) {
    if (!logits.empty() && logits.size() != tracker_.vocab_size())
      detail::invalid("resuming with ", logits.size(), " logits, but the vocabulary has ",
                      tracker_.vocab_size());
    if (size() > limit_)
      detail::invalid("resuming with ", size(), " entries, but a distillation is due at ", limit_);
    const auto [read, pinned] = detail::held_by(store_->entries(), settings_.sinks);
    protected_room_.check_pinned(pinned, "cannot resume");
    received_.clear();
    if constexpr (observes) policy_.forget();
    tracker_.restart(logits);
    pinned_ = pinned;
    stats_.tokens_read = read;
  }

  /// Generates up to `max_tokens` tokens: `sample(logits)` picks one, and it is read unless `accept(token)`
  /// returns false, which ends it. Returns how many were accepted. Throws std::invalid_argument if nothing
  /// was read before.
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

  /// Called after every distillation. It may allocate; it must not call back into the reader.
  void on_distillation(Observer observer) { observer_ = std::move(observer); }

  /// Called at every distillation once the choice is made, before anything goes. It may allocate; it must not
  /// call back into the reader. If it throws, nothing is distilled.
  void on_choice(ChoiceObserver observer) { choice_observer_ = std::move(observer); }

  const CcdStats& stats() const noexcept { return stats_; }
  const CcdSettings& settings() const noexcept { return settings_; }
  const P& policy() const noexcept { return policy_; }

  /// Entries at which a distillation is due: the capacity less room for the longest probe.
  std::size_t limit() const noexcept { return limit_; }

 private:
  Ccd(const Ccd&) = default;  // for fork(), which gives the copy its own engine and store

  Selector selector_for(const P& policy) const {
    return Selector(store_->shape(), store_->granularity(), store_->capacity(), settings_.keep,
                    rules_of(policy), executor_.workers());
  }

  std::size_t size() const noexcept { return store_->entries().size(); }

  /// Allocates what a policy that scores entries needs. Changes nothing if it throws.
  void prepare(P& policy) {
    auto memory = detail::entry_memory(*store_, policy, executor_.workers());
    if constexpr (observes) policy.begin(store_->shape(), store_->capacity(), entries_.size());
    entry_memory_ = std::move(memory);
  }

  void check(std::span<const Token> tokens, Retention retention) const {
    for (const Token token : tokens)
      if (token < 0 || static_cast<std::size_t>(token) >= tracker_.vocab_size())
        detail::invalid("token ", token, " is out of the vocabulary's range 0 .. ",
                        tracker_.vocab_size() - 1);
    if (retention != Retention::pinned) return;
    protected_room_.check_pinned(pinned_ + newly_pinned(tokens.size()), "cannot pin ", tokens.size(),
                                 " tokens");
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
    return watch_of<P> == Watch::every_query || observes ||
           (watch_of<P> == Watch::last_queries && size() >= window_start_);
  }

  /// Reads one chunk. Commits it only once the forward pass has returned.
  void read(std::span<const Token> tokens, Retention retention) {
    const std::size_t first = size();
    const auto entries = std::span(entries_).first(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      entries[i] = {stats_.tokens_read + i, tokens[i], 0, retention == Retention::pinned};
    const bool score_nuc = uses_nuc(policy_);
    if (score_nuc) entries[0].nuc = tracker_.score(tokens[0]);

    detail::Rollback rollback([&]() noexcept {
      store_->truncate(first);
      received_.drop_chunk();
    });
    detail::ChunkLogits logits(tracker_, tokens, entries, score_nuc);
    const bool watched = watches_now();
    if (watched)
      watch(tokens, first, logits, received_.of_chunk());
    else
      engine_->forward(tokens, first, logits);
    store_->append(entries);
    rollback.release();

    if (watched) commit(first + tokens.size());
    tracker_.commit();
    if (retention == Retention::pinned) pinned_ += newly_pinned(tokens.size());
    stats_.tokens_read += tokens.size();
  }

  /// Runs tokens and collects the attention that they pay in `scores`. Returns the seconds that scoring took,
  /// 0 if the engine did it.
  double watch(std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
               detail::AttentionScores scores) {
    if constexpr (observes) {
      if (!detail::shows_queries(*engine_))
        detail::invalid("the engine shows attention probabilities, but this policy needs its queries");
      detail::QueryObserver<P> queries(policy_, first);
      engine_->forward(tokens, first, logits, static_cast<QuerySink&>(queries));
      return 0;
    }
    if constexpr (watches && by_queries) {
      if (detail::shows_queries(*engine_)) {
        detail::QueryWatcher<Engine, S, X> queries(*engine_, *store_, scorers_, first, scores, executor_);
        engine_->forward(tokens, first, logits, static_cast<QuerySink&>(queries));
        return queries.seconds();
      }
    }
    if constexpr (watches && YieldsAttention<Engine>) {
      detail::AttentionWatcher attention(store_->shape(), scores);
      engine_->forward(tokens, first, logits, static_cast<AttentionSink&>(attention));
    }
    return 0;
  }

  void commit(std::size_t size) noexcept {
    received_.commit_chunk(size);
    if constexpr (observes) {
      const Shape shape = store_->shape();
      executor_.for_each(shape.heads(), [&](std::size_t head, std::size_t) {
        policy_.commit(head / shape.kv_heads, head % shape.kv_heads);
      });
    }
  }

  /// Returns the seconds that scoring took.
  double run_probes() {
    double cap_seconds = 0;
    if constexpr (watch_of<P> == Watch::probes) {
      received_.begin_probes();
      const std::size_t first = size(), layers = probed_layers(policy_, store_->granularity());
      const auto fresh = store_->entries().tokens(0).subspan(stats_.distillations == 0 ? 0 : settings_.keep);
      for (std::size_t i = 0;; ++i) {
        const std::span<const Token> probe = policy_.probe(i, ProbeContext{fresh});
        if (probe.empty()) break;
        detail::Rollback drop([&]() noexcept { store_->truncate(first); });
        detail::NoLogits logits(probe.size());
        cap_seconds += watch(probe, first, logits, received_.of_probe(policy_.reduce(), layers));
      }
    }
    return cap_seconds;
  }

  void score_entries() noexcept {
    if constexpr (watches_entries(watch_of<P>)) {
      const Shape shape = store_->shape();
      executor_.for_each(shape.heads(), [&](std::size_t head, std::size_t worker) {
        const EntryRows rows(*store_, head / shape.kv_heads, head % shape.kv_heads, entry_memory_[worker]);
        policy_.score_entries(rows, received_.head(head, size()));
      });
    }
  }

  X executor_;
  Engine* engine_;
  S* store_;
  P policy_;
  CcdSettings settings_;
  detail::ProtectedRoom protected_room_;
  std::size_t limit_;
  std::size_t window_start_;  // entries from here on are watched, for Watch::last_queries
  NucTracker tracker_;
  Selector selector_;
  std::vector<CapScorer> scorers_;                // (workers)
  std::vector<std::vector<float>> entry_memory_;  // (workers) for EntryRows
  std::vector<Entry> entries_;                    // (chunk) being read
  detail::Received<P> received_;
  std::size_t pinned_ = 0;  // beyond the sinks
  CcdStats stats_;
  Observer observer_;
  ChoiceObserver choice_observer_;
};

/// Settings that name their policy stand for it: Ccd(engine, store, recommended_settings(question)).
template <class Engine, class S, class Settings, Executor X = Serial>
requires requires { typename Settings::policy; }
Ccd(Engine&, S&, Settings, CcdSettings = {}, X = {})->Ccd<Engine, S, typename Settings::policy, X>;

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
