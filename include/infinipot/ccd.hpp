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
#include "infinipot/ccd/machine.hpp"
#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/pass.hpp"
#include "infinipot/ccd/protected_room.hpp"
#include "infinipot/ccd/reader_memory.hpp"
#include "infinipot/ccd/received.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
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
///
/// feed(), generate() and distil() call the engine and wait. A scheduler that owns the loop, to run several
/// readers in one batch, starts them instead, and is told what to run:
///
///   reader.start(tokens);
///   while (const Pass* pass = reader.next()) {
///     run_pass(engine, *pass);  // or later, elsewhere, together with those of others
///     reader.done();            // or failed()
///   }
///
/// Do not move a reader between next() and done(). While anything is in flight, whatever else would change
/// the reader, but for its observers and stop_archiving(), throws std::invalid_argument; so do fork() and
/// memory().
template <class Engine, class S, class P, Executor X = Serial>
class Ccd {
  using Needs = detail::Needs<Engine, S, P>;
  static_assert(Needs::asked);  // says what is missing, before anything else does
  using Machine = detail::Machine<Engine, S, P, X>;

 public:
  using Observer = std::function<void(const Distillation&)>;
  using ChoiceObserver = std::function<void(const Choice&)>;

  /// Throws std::invalid_argument if the engine's and the store's shapes differ, the store is not empty (to
  /// go on from a saved pot, restore it afterwards and call resume()), a catalyst's token is outside of the
  /// vocabulary, or the settings cannot work: keep >= capacity, sinks + recent > keep, no room for catalyst
  /// and one more token.
  Ccd(Engine& engine, S& store, P policy, CcdSettings settings = {},
      X executor = {}) requires(detail::NamesItsPolicy<P> || Needs::basics)
      : machine_(engine, store, std::move(policy), settings, std::move(executor)) {}

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
    machine_.check_at_rest();
    this->store().check_unchanged();
    this->store().check_copy(store);
    Ccd copy(*this);
    copy.machine_.rebind(engine, store);
    return copy;
  }

  Ccd(Ccd&&) noexcept = default;
  Ccd& operator=(Ccd&&) noexcept = default;

  /// Begins to read tokens, which must stay until they are read; what is unread() comes first. Throws what
  /// feed() throws before anything changes, and std::invalid_argument if something is in flight.
  void start(std::span<const Token> tokens, Retention retention = Retention::evictable) {
    machine_.start(tokens, retention);
  }

  /// Begins to distil. Throws as start() does.
  void start_distil() { machine_.start_distil(); }

  /// What to run next: the same until done() or failed(). Null once there is nothing left; after start(),
  /// logits() are then what follows. May carry out a distillation, and throw what observers and the store
  /// throw; then what was started is given up, as if feed() or distil() had thrown that.
  const Pass* next() { return machine_.next(); }

  /// The pass was run: its tokens' keys and values are in the store, and its sinks were given what they
  /// wanted. Throws std::invalid_argument if they were not, and what the store throws; then the pass leaves
  /// no trace and what was started is given up. Without a pass, throws and changes nothing.
  void done() { machine_.done(); }

  /// The pass could not be run, or the whole is not wanted any more: leaves no trace of the pass, if there is
  /// one, and gives up what was started. What was read before stays read.
  void failed() noexcept { machine_.failed(); }

  /// Reads tokens, distilling as often as needed; pinned tokens are never dropped. If forward() throws, its
  /// chunk leaves no trace, and what was read before stays read (see stats()). What is unread() comes first.
  /// Throws std::invalid_argument,
  /// before anything changes, for a token outside the vocabulary, for more pinned tokens than fit into
  /// `keep` beside sinks and recent, and if something else has changed the store; also if the engine leaves
  /// out what it was asked for.
  void feed(std::span<const Token> tokens, Retention retention = Retention::evictable) {
    machine_.start(tokens, retention);
    machine_.run();
  }

  void feed(Token token, Retention retention = Retention::evictable) { feed({&token, 1}, retention); }

  /// Distils now rather than when the store is full: before a pause, or once the question is known
  /// (set_policy). No effect while the store holds no more than `keep` entries. A policy that watches the
  /// last queries reads their tokens anew if they were not watched; those are at most what was read since the
  /// last distillation. If forward() throws, everything is as before.
  void distil() {
    machine_.start_distil();
    machine_.run();
  }

  /// Goes on with another policy of the same type, for instance one whose catalyst is the question, now that
  /// it is known. Room for probes, window and recent entries stays what the first policy asked for; what the
  /// old policy observed (expected_attention) is lost. Allocates. Throws std::invalid_argument, before
  /// anything changes, if the new policy needs more room (InfinipotSettings::longest_catalyst keeps some for
  /// a longer catalyst), or NuC when the old one did not, or has a token outside of the vocabulary.
  void set_policy(P policy) {
    machine_.check_at_rest();
    machine_.set_policy(std::move(policy));
  }

  /// All that the reader remembers beside its store: logits, counts, and what the policy has collected while
  /// reading (h2o, reread, expected_attention). Save it with the store: save_pot(pot, out, reader.memory()).
  /// Throws std::invalid_argument if something else has changed the store.
  std::vector<std::byte> memory() const {
    machine_.check_at_rest();
    store().check_unchanged();
    detail::ReaderMemory all;
    all.stats = stats();
    all.unread = unread().value_or(-1);
    all.size = size();
    all.policy = policy().name();
    all.uses_nuc = uses_nuc(policy()) ? 1 : 0;
    const NucTracker& tracker = machine_.tracker();
    if (tracker.has_logits()) all.logits.assign(tracker.logits().begin(), tracker.logits().end());
    all.received = machine_.passes().received().saved(size());
    if constexpr (RemembersQueries<P>) all.observed = policy().memory();
    return detail::to_bytes(all);
  }

  /// Goes on from what something else, such as restore_pot(), has put into the store, with the `memory` that
  /// was saved with it: exactly as the reader that was saved would have gone on. Throws
  /// std::invalid_argument, before anything changes, for memory that is damaged, of another shape or
  /// vocabulary, of a store of another size, of another policy if this one has to remember what it collected,
  /// or of one without NuC if this one needs it; and for entries or pinned entries that leave no room to go
  /// on.
  void resume(std::span<const std::byte> memory) {
    machine_.check_at_rest();
    const detail::ReaderMemory all = detail::memory_from(memory);
    detail::check_memory(all, policy(), size(), Shape(store().view().shape()).heads(), must_remember());
    const detail::Held held = checked_room(all.logits);
    detail::check_stream(all, held.read, machine_.tracker().vocab_size());
    store().accept();
    if constexpr (RemembersQueries<P>) {
      if (must_remember())
        machine_.policy().recall(all.observed);
      else
        machine_.policy().forget();
    }
    restart(all.logits, held.pinned, all.stats);
    if (must_remember()) machine_.passes().received().restore(all.received);
    if (all.unread >= 0) machine_.unread = all.unread;
  }

  /// The same without memory, for entries that come from somewhere else. `logits` (vocab_size) are those
  /// after the last token, or none: then the next token's NuC is 0. Counts start over. Throws
  /// std::invalid_argument, before anything changes, also for a policy that has to remember what it collected
  /// (h2o, reread after a distillation, expected_attention), unless the store is empty.
  void resume(std::span<const float> logits = {}) {
    machine_.check_at_rest();
    if (must_remember())
      detail::invalid("a reader by ", policy().name(),
                      " cannot go on without what it collected while reading: ",
                      "save memory() with the store and resume() with it");
    const detail::Held held = checked_room(logits);
    store().accept();
    if constexpr (Needs::observes) machine_.policy().forget();
    restart(logits, held.pinned, {.tokens_read = held.read});
  }

  /// Generates up to `max_tokens` tokens: `sample(logits)` picks one, and it is read unless `accept(token)`
  /// returns false, which ends it. Returns how many were accepted. If forward() throws, the accepted token is
  /// unread(). Throws std::invalid_argument if nothing was read before.
  template <class Sample, class Accept>
  std::size_t generate(std::size_t max_tokens, Sample&& sample, Accept&& accept) {
    feed(std::span<const Token>());
    for (std::size_t n = 0; n < max_tokens; ++n) {
      const Token token = sample(logits());
      machine_.check({&token, 1}, Retention::evictable);
      if (!accept(token)) return n;
      machine_.unread = token;
      feed(std::span<const Token>());
    }
    return max_tokens;
  }

  /// The token that generate() has accepted and could not read, since forward() threw. What is read or
  /// generated next comes after it.
  std::optional<Token> unread() const noexcept { return machine_.unread; }

  /// (vocab_size) the model's prediction of what follows the last token read. Throws std::invalid_argument
  /// before the first one.
  std::span<const float> logits() const {
    if (!machine_.tracker().has_logits())
      detail::invalid("there are no logits before the first token was read");
    return machine_.tracker().logits();
  }

  /// From now on every chunk that was read, pinned and generated tokens included, also goes to an archive,
  /// which must outlive the reader; see recall(). A reader that holds nothing goes on at the archive's end.
  /// Throws std::invalid_argument, before anything changes, if the archive is of another shape, wants rows of
  /// a store that cannot give them back, or goes on past what this reader, which holds entries, has read.
  template <Archive A>
  void archive_to(A& archive) {
    machine_.check_at_rest();
    machine_.stats.tokens_read = detail::archive_start(archive, store().view(), stats().tokens_read);
    machine_.archive = detail::ArchiveLink<S, X>(archive);
  }

  void stop_archiving() noexcept { machine_.archive = {}; }

  /// Called after every distillation. It may allocate; it must not call back into the reader.
  void on_distillation(const Observer& observer) { machine_.observer = observer; }

  /// Called at every distillation once the choice is made, before anything goes. It may allocate; it must not
  /// call back into the reader. If it throws, nothing is distilled.
  void on_choice(const ChoiceObserver& observer) { machine_.choice_observer = observer; }

  const CcdStats& stats() const noexcept { return machine_.stats; }
  const CcdSettings& settings() const noexcept { return machine_.settings(); }
  const P& policy() const noexcept { return machine_.policy(); }

  /// Entries at which a distillation is due: the capacity less room for the longest probe.
  std::size_t limit() const noexcept { return machine_.limit(); }

 private:
  friend struct detail::ReaderAccess;

  Ccd(const Ccd&) = default;  // for fork(), which gives the copy its own engine and store

  detail::GuardedStore<S>& store() noexcept { return machine_.store(); }
  const detail::GuardedStore<S>& store() const noexcept { return machine_.store(); }
  std::size_t size() const noexcept { return machine_.size(); }

  /// Whether the policy has collected something that what is in the store does not tell.
  bool must_remember() const noexcept {
    if (size() == 0) return false;
    if constexpr (carries_attention<P>) return store().entries().survived(0)[0] > 0;
    return detail::Received<P>::lasts || Needs::observes;
  }

  /// What the store holds. Throws std::invalid_argument if there is no room to go on.
  detail::Held checked_room(std::span<const float> logits) const {
    const std::size_t vocab_size = machine_.tracker().vocab_size();
    if (!logits.empty() && logits.size() != vocab_size)
      detail::invalid("resuming with ", logits.size(), " logits, but the vocabulary has ", vocab_size);
    return machine_.checked_room();
  }

  /// As a new reader would be.
  void restart(std::span<const float> logits, std::size_t pinned, const CcdStats& stats) noexcept {
    machine_.stats = stats;
    machine_.restart(pinned, stats.tokens_read);
    machine_.tracker().restart(logits);
    machine_.unread.reset();
  }

  Machine machine_;
};

/// For the message that comes from the constructor.
template <class E, class T, class P, Executor X = Serial>
requires detail::AnyTemporary<E, T> Ccd(E&&, T&&, P, CcdSettings = {}, X = {})
->Ccd<std::remove_cvref_t<E>, std::remove_cvref_t<T>, P, X>;

/// Settings that name their policy stand for it: Ccd(engine, store, recommended_settings(question)).
template <class Engine, class S, detail::NamesItsPolicy Settings, Executor X = Serial>
Ccd(Engine&, S&, Settings, CcdSettings = {}, X = {}) -> Ccd<Engine, S, typename Settings::policy, X>;

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
