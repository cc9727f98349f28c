// CCD, Continual Context Distillation (paper section 3): the loop that reads an endless text through a pot.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/ccd/archive_link.hpp"
#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/ccd/guarded_store.hpp"
#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/passes.hpp"
#include "infinipot/ccd/protected_room.hpp"
#include "infinipot/ccd/reader_memory.hpp"
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
namespace detail {
struct ReaderAccess;  // replays archives (recall/reader_access.hpp)
}  // namespace detail

/// Reads tokens through an engine into a store and distils whenever the store is full, whether reading or
/// generating. Allocates only in the constructor, in set_policy() and in what the engine does.
///
/// The engine must run against this very store. Both must outlive this object, as must the executor's
/// threads; without an executor, all work runs on the calling thread.
template <class Engine, class S, class P, Executor X = Serial>
class Ccd {
  using Needs = detail::Needs<Engine, S, P>;
  static_assert(Needs::asked);  // says what is missing, before anything else does
  static constexpr bool observes = Needs::observes;

 public:
  using Observer = std::function<void(const Distillation&)>;
  using ChoiceObserver = std::function<void(const Choice&)>;

  /// Throws std::invalid_argument if the engine's and the store's shapes differ, the store is not empty (to
  /// go on from a saved pot, restore it afterwards and call resume()), a catalyst's token is outside of the
  /// vocabulary, or the settings cannot work: keep >= capacity, sinks + recent > keep, no room for catalyst
  /// and one more token.
  Ccd(Engine& engine, S& store, P policy, CcdSettings settings = {},
      X executor = {}) requires(detail::NamesItsPolicy<P> || Needs::basics)
      : policy_(std::move(policy)),
        settings_(detail::checked_settings(engine, store, policy_, settings)),
        protected_room_(settings_),
        limit_(store.capacity() - longest_probe(policy_)),
        window_start_(limit_ - watched_window(policy_)),
        tracker_(static_cast<std::size_t>(engine.vocab_size())),
        entries_((std::min)(settings_.chunk, store.capacity())),
        passes_(engine, store, std::move(executor), entries_.size(), limit_ - window_start_),
        selector_(selector_for(policy_)) {
    passes_.check_probes(policy_);
    passes_.prepare(policy_);
  }

  /// An engine or a store that is a temporary would be gone when the reader needs it.
  template <class E, class T, class... More>
  requires detail::AnyTemporary<E, T> Ccd(E&& engine, T&& store, More&&... more)
      : Ccd(engine, store, std::forward<More>(more)...) {
    static_assert(!detail::AnyTemporary<E, T>,
                  "infinipot: the engine and the store must outlive the reader: give them names");
  }

  /// A copy that goes on from here, on a copy of the store (Pot::fork) and an engine that runs against it.
  /// Without observers or archive. Throws std::invalid_argument if the stores differ in shape, capacity,
  /// granularity or size, or something else has changed this reader's store.
  Ccd fork(Engine& engine, S& store) const {
    this->store().check_unchanged();
    this->store().check_copy(store);
    Ccd copy(*this);
    copy.passes_.rebind(engine, store);
    copy.observer_ = nullptr;
    copy.choice_observer_ = nullptr;
    copy.stop_archiving();
    return copy;
  }

  Ccd(Ccd&&) noexcept = default;
  Ccd& operator=(Ccd&&) noexcept = default;

  /// Reads tokens, distilling as often as needed; pinned tokens are never dropped. If forward() throws, its
  /// chunk leaves no trace, and what was read before stays read (see stats()). What is unread() comes first.
  /// Throws std::invalid_argument,
  /// before anything changes, for a token outside the vocabulary, for more pinned tokens than fit into
  /// `keep` beside sinks and recent, and if something else has changed the store; also if the engine leaves
  /// out what it was asked for.
  void feed(std::span<const Token> tokens, Retention retention = Retention::evictable) {
    store().check();
    check(tokens, retention);
    read_unread();
    read_all(tokens, retention);
  }

  void feed(Token token, Retention retention = Retention::evictable) { feed({&token, 1}, retention); }

  /// Distils now rather than when the store is full: before a pause, or once the question is known
  /// (set_policy). No effect while the store holds no more than `keep` entries. A policy that watches the
  /// last queries reads their tokens anew if they were not watched; those are at most what was read since the
  /// last distillation. If forward() throws, everything is as before.
  void distil() {
    store().check();
    if (size() <= settings_.keep) return;
    const detail::Stopwatch time;
    const std::size_t before = size();
    double cap_seconds = passes_.watch_window(policy_);
    cap_seconds += passes_.run_probes(policy_, stats_.tokens_read);
    const double probe_seconds = time.seconds();
    passes_.score_entries(policy_);
    const std::size_t nans = selector_.select(policy_, store().entries(), passes_.received().scores(),
                                              protected_room_.protection(), passes_.executor());
    if (choice_observer_)
      choice_observer_(
          {stats_.distillations + 1, store().entries(), passes_.received().scores(), selector_.kept()});
    store().keep(selector_.kept(), passes_.executor());
    passes_.carry(selector_.kept(), before);
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
  /// a longer catalyst), or NuC when the old one did not, or has a token outside of the vocabulary.
  void set_policy(P policy) {
    protected_room_.check(policy, store().view().capacity() - limit_, passes_.most_watched());
    passes_.check_probes(policy);
    if (uses_nuc(policy) && !uses_nuc(policy_))
      detail::invalid("the new policy needs NuC, which the one before did not ask for");
    Selector selector = selector_for(policy);
    passes_.prepare(policy);
    selector_ = std::move(selector);
    policy_ = std::move(policy);
    if constexpr (watch_of<P> == Watch::last_queries) {
      window_start_ = limit_ - watched_window(policy_);
      passes_.forget_window();
    }
  }

  /// All that the reader remembers beside its store: logits, counts, and what the policy has collected while
  /// reading (h2o, reread, expected_attention). Save it with the store: save_pot(pot, out, reader.memory()).
  /// Throws std::invalid_argument if something else has changed the store.
  std::vector<std::byte> memory() const {
    store().check_unchanged();
    detail::ReaderMemory all;
    all.stats = stats_;
    all.unread = unread_.value_or(-1);
    all.size = size();
    all.policy = policy_.name();
    all.uses_nuc = uses_nuc(policy_) ? 1 : 0;
    if (tracker_.has_logits()) all.logits.assign(tracker_.logits().begin(), tracker_.logits().end());
    all.received = passes_.received().saved(size());
    if constexpr (RemembersQueries<P>) all.observed = policy_.memory();
    return detail::to_bytes(all);
  }

  /// Goes on from what something else, such as restore_pot(), has put into the store, with the `memory` that
  /// was saved with it: exactly as the reader that was saved would have gone on. Throws
  /// std::invalid_argument, before anything changes, for memory that is damaged, of another shape or
  /// vocabulary, of a store of another size, of another policy if this one has to remember what it collected,
  /// or of one without NuC if this one needs it; and for entries or pinned entries that leave no room to go
  /// on.
  void resume(std::span<const std::byte> memory) {
    const detail::ReaderMemory all = detail::memory_from(memory);
    detail::check_memory(all, policy_, size(), Shape(store().view().shape()).heads(), must_remember());
    const detail::Held held = checked_room(all.logits);
    detail::check_stream(all, held.read, tracker_.vocab_size());
    store().accept();
    if constexpr (RemembersQueries<P>) {
      if (must_remember())
        policy_.recall(all.observed);
      else
        policy_.forget();
    }
    restart(all.logits, held.pinned, all.stats);
    if (must_remember()) passes_.received().restore(all.received);
    if (all.unread >= 0) unread_ = all.unread;
  }

  /// The same without memory, for entries that come from somewhere else. `logits` (vocab_size) are those
  /// after the last token, or none: then the next token's NuC is 0. Counts start over. Throws
  /// std::invalid_argument, before anything changes, also for a policy that has to remember what it collected
  /// (h2o, reread after a distillation, expected_attention), unless the store is empty.
  void resume(std::span<const float> logits = {}) {
    if (must_remember())
      detail::invalid("a reader by ", policy_.name(),
                      " cannot go on without what it collected while reading: ",
                      "save memory() with the store and resume() with it");
    const detail::Held held = checked_room(logits);
    store().accept();
    if constexpr (observes) policy_.forget();
    restart(logits, held.pinned, {.tokens_read = held.read});
  }

  /// Generates up to `max_tokens` tokens: `sample(logits)` picks one, and it is read unless `accept(token)`
  /// returns false, which ends it. Returns how many were accepted. If forward() throws, the accepted token is
  /// unread(). Throws std::invalid_argument if nothing was read before.
  template <class Sample, class Accept>
  std::size_t generate(std::size_t max_tokens, Sample&& sample, Accept&& accept) {
    store().check();
    read_unread();
    for (std::size_t n = 0; n < max_tokens; ++n) {
      const Token token = sample(logits());
      check({&token, 1}, Retention::evictable);
      if (!accept(token)) return n;
      unread_ = token;
      read_unread();
    }
    return max_tokens;
  }

  /// The token that generate() has accepted and could not read, since forward() threw. The next feed() or
  /// generate() reads it before anything else.
  std::optional<Token> unread() const noexcept { return unread_; }

  /// (vocab_size) the model's prediction of what follows the last token read. Throws std::invalid_argument
  /// before the first one.
  std::span<const float> logits() const {
    if (!tracker_.has_logits()) detail::invalid("there are no logits before the first token was read");
    return tracker_.logits();
  }

  /// From now on every chunk that was read, pinned and generated tokens included, also goes to an archive,
  /// which must outlive the reader; see recall(). A reader that holds nothing goes on at the archive's end.
  /// Throws std::invalid_argument, before anything changes, if the archive is of another shape, wants rows of
  /// a store that cannot give them back, or goes on past what this reader, which holds entries, has read.
  template <Archive A>
  void archive_to(A& archive) {
    stats_.tokens_read = detail::archive_start(archive, store().view(), stats_.tokens_read);
    archive_ = detail::ArchiveLink<S, X>(archive);
  }

  void stop_archiving() noexcept { archive_ = {}; }

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
  friend struct detail::ReaderAccess;

  Ccd(const Ccd&) = default;  // for fork(), which gives the copy its own engine and store

  Selector selector_for(const P& policy) const {
    const S& own = store().view();
    return Selector(own.shape(), own.granularity(), own.capacity(), settings_.keep, rules_of(policy),
                    passes_.executor().workers());
  }

  detail::GuardedStore<S>& store() noexcept { return passes_.store(); }
  const detail::GuardedStore<S>& store() const noexcept { return passes_.store(); }
  std::size_t size() const noexcept { return store().size(); }

  /// Whether the policy has collected something that what is in the store does not tell.
  bool must_remember() const noexcept {
    if (size() == 0) return false;
    if constexpr (carries_attention<P>) return store().entries().survived(0)[0] > 0;
    return detail::Received<P>::lasts || observes;
  }

  /// What the store holds. Throws std::invalid_argument if there is no room to go on.
  detail::Held checked_room(std::span<const float> logits) const {
    if (!logits.empty() && logits.size() != tracker_.vocab_size())
      detail::invalid("resuming with ", logits.size(), " logits, but the vocabulary has ",
                      tracker_.vocab_size());
    if (size() > limit_)
      detail::invalid("resuming with ", size(), " entries, but a distillation is due at ", limit_);
    const detail::Held held = detail::held_by(store().entries(), settings_.sinks);
    protected_room_.check_pinned(held.pinned, "cannot resume");
    return held;
  }

  /// As a new reader would be.
  void restart(std::span<const float> logits, std::size_t pinned, const CcdStats& stats) noexcept {
    passes_.received().clear();
    passes_.forget_window();
    tracker_.restart(logits);
    pinned_ = pinned;
    stats_ = stats;
    unread_.reset();
  }

  void check(std::span<const Token> tokens, Retention retention) const {
    passes_.check_range("token", tokens);
    if (retention != Retention::pinned) return;
    protected_room_.check_pinned(pinned_ + newly_pinned(tokens.size()), "cannot pin ", tokens.size(),
                                 " tokens");
  }

  /// Of `count` entries behind the last one and what is unread. Sinks stay anyway, so pinning them costs
  /// nothing.
  std::size_t newly_pinned(std::size_t count) const noexcept {
    const std::size_t from = size() + (unread_ ? 1 : 0), end = from + count;
    return end - (std::min)(end, (std::max)(from, settings_.sinks));
  }

  std::size_t longest_chunk() const noexcept {
    const std::size_t end = size() < window_start_ ? window_start_ : limit_;
    return (std::min)(end - size(), entries_.size());
  }

  bool watches_now() const noexcept {
    return watch_of<P> == Watch::every_query || observes ||
           (watch_of<P> == Watch::last_queries && size() >= window_start_);
  }

  void read_unread() {
    if (!unread_) return;
    const Token token = *unread_;
    read_all({&token, 1}, Retention::evictable);
    unread_.reset();
  }

  void read_all(std::span<const Token> tokens, Retention retention) {
    while (!tokens.empty()) {
      if (size() == limit_) distil();
      const auto chunk = tokens.first((std::min)(tokens.size(), longest_chunk()));
      const auto entries = std::span(entries_).first(chunk.size());
      for (std::size_t i = 0; i < chunk.size(); ++i)
        entries[i] = {stats_.tokens_read + i, chunk[i], 0, retention == Retention::pinned};
      read(chunk, entries, uses_nuc(policy_));
      tokens = tokens.subspan(chunk.size());
    }
  }

  /// Reads one chunk, and its NuC if that is not known. Commits it only once the forward pass has returned.
  void read(std::span<const Token> tokens, std::span<Entry> entries, bool score_nuc) {
    const std::size_t first = size();
    const auto pinned = static_cast<std::size_t>(std::ranges::count(
        entries.subspan((std::min)(entries.size(), settings_.sinks - (std::min)(first, settings_.sinks))),
        true, &Entry::pinned));
    if (score_nuc) entries[0].nuc = tracker_.score(tokens[0]);
    detail::ChunkLogits logits(tracker_, tokens, entries, first, score_nuc);
    passes_.add(policy_, tokens, entries, logits, watches_now());
    tracker_.commit();
    pinned_ += pinned;
    stats_.tokens_read = entries.back().position + 1;
    archive_.add(store().view(), first, entries, passes_.executor());
  }

  P policy_;
  CcdSettings settings_;
  detail::ProtectedRoom protected_room_;
  std::size_t limit_;
  std::size_t window_start_;  // entries from here on are watched, for Watch::last_queries
  NucTracker tracker_;
  std::vector<Entry> entries_;  // (chunk) being read
  detail::Passes<Engine, S, P, X> passes_;
  detail::ArchiveLink<S, X> archive_;
  Selector selector_;
  std::size_t pinned_ = 0;       // beyond the sinks
  std::optional<Token> unread_;  // accepted, not read yet
  CcdStats stats_;
  Observer observer_;
  ChoiceObserver choice_observer_;
};

/// For the message that comes from the constructor.
template <class E, class T, class P, Executor X = Serial>
requires detail::AnyTemporary<E, T> Ccd(E&&, T&&, P, CcdSettings = {}, X = {})
->Ccd<std::remove_cvref_t<E>, std::remove_cvref_t<T>, P, X>;

/// Settings that name their policy stand for it: Ccd(engine, store, recommended_settings(question)).
template <class Engine, class S, detail::NamesItsPolicy Settings, Executor X = Serial>
Ccd(Engine&, S&, Settings, CcdSettings = {}, X = {}) -> Ccd<Engine, S, typename Settings::policy, X>;

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
