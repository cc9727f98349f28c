// The state machine under Ccd: what is to be run next, and what follows from it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/ccd/archive_link.hpp"
#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/ccd/guarded_store.hpp"
#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/pass.hpp"
#include "infinipot/ccd/passes.hpp"
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
#include "infinipot/pot/entries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Reads and distils, pass by pass. What is started is in flight until next() returns null, the last chunk is
/// done(), or anything throws.
template <class Engine, class S, class P, Executor X>
class Machine {
  static constexpr bool observes = Needs<Engine, S, P>::observes;

 public:
  Machine(Engine& engine, S& store, P policy, const CcdSettings& settings, X executor)
      : policy_(std::move(policy)),
        settings_(checked_settings(engine, store, policy_, settings)),
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

  bool in_flight() const noexcept { return stage_ != Stage::nothing; }

  /// Throws std::invalid_argument while something is in flight.
  void check_at_rest() const {
    if (in_flight())
      invalid(
          "something that was started is in flight: run it to its end by next() and done(), or give it up ",
          "by failed()");
  }

  /// Begins to read what is unread, then these tokens.
  void start(std::span<const Token> tokens, Retention retention) {
    check_at_rest();
    store().check();
    check(tokens, retention);
    begin_reading({tokens, {}, retention == Retention::pinned, uses_nuc(policy_)});
  }

  /// Begins to read tokens, not what is unread, that have records already; their NuC too if it is not known.
  void start(std::span<const Token> tokens, std::span<const Entry> records, bool score_nuc) {
    begin_reading({tokens, records, false, score_nuc});
  }

  /// Begins to distil. No effect while the store holds no more than `keep` entries.
  void start_distil() {
    check_at_rest();
    store().check();
    if (size() > settings_.keep) begin_distillation();
  }

  /// What to run next; null at the end. If it throws, what was started is given up.
  const Pass* next() {
    if (passes_.pending() != nullptr || !in_flight()) return passes_.pending();
    Rollback give_up([&]() noexcept { failed(); });
    store().check_unchanged();
    while (in_flight() && passes_.pending() == nullptr) advance();
    give_up.release();
    return passes_.pending();
  }

  /// Takes what came of the pass. If it throws, the pass leaves no trace and what was started is given up.
  void done() {
    if (passes_.pending() == nullptr) invalid("there is nothing that could be done: next() says what to run");
    Rollback give_up([&]() noexcept { failed(); });
    store().check_unchanged();
    const std::size_t first = size();
    const double seconds = passes_.finish(policy_);
    give_up.release();
    if (stage_ == Stage::reading) return count_chunk(first);
    distilling_.cap_seconds += seconds;
    if (stage_ == Stage::probes) ++distilling_.probe;
  }

  /// The pass was not run: it leaves no trace, and what was started is given up.
  void failed() noexcept {
    passes_.undo();
    passes_.put_window_back();
    stage_ = Stage::nothing;
  }

  /// Runs what was started to its end.
  void run() {
    static_assert(ForwardPass<Engine>,
                  "infinipot: this engine is only described (DescribedPass in infinipot/concepts.hpp), so "
                  "feed(), generate(), distil() and recall() cannot run it: see Ccd::next()");
    Rollback give_up([&]() noexcept { failed(); });
    while (const Pass* const pass = next()) {
      run_pass(passes_.engine(), *pass);
      done();
    }
    give_up.release();
  }

  void set_policy(P policy) {
    protected_room_.check(policy, store().view().capacity() - limit_, passes_.most_watched());
    passes_.check_probes(policy);
    if (uses_nuc(policy) && !uses_nuc(policy_))
      invalid("the new policy needs NuC, which the one before did not ask for");
    Selector selector = selector_for(policy);
    passes_.prepare(policy);
    selector_ = std::move(selector);
    policy_ = std::move(policy);
    if constexpr (watch_of<P> == Watch::last_queries) {
      window_start_ = limit_ - watched_window(policy_);
      passes_.forget_window();
    }
  }

  /// From now on through another engine into another store, without observers or archive.
  void rebind(Engine& engine, S& store) noexcept {
    passes_.rebind(engine, store);
    observer = nullptr;
    choice_observer = nullptr;
    archive = {};
  }

  /// What the store holds. Throws std::invalid_argument if there is no room to go on.
  Held checked_room() const {
    if (size() > limit_) invalid("resuming with ", size(), " entries, but a distillation is due at ", limit_);
    const Held held = held_by(store().entries(), settings_.sinks);
    protected_room_.check_pinned(held.pinned, "cannot resume");
    return held;
  }

  /// Goes on with `pinned` pinned entries at `position` of the stream; of attention nothing is known.
  void restart(std::size_t pinned, std::uint64_t position) noexcept {
    passes_.received().clear();
    passes_.forget_window();
    pinned_ = pinned;
    stats.tokens_read = position;
  }

  /// Entries from `first` on were put into the store.
  void count_entries(std::size_t first, std::span<const Entry> entries) noexcept {
    pinned_ += pinned_among(first, entries);
    stats.tokens_read = entries.back().position + 1;
    passes_.forget_window();
    tracker_.restart({});
  }

  void check(std::span<const Token> tokens, Retention retention) const {
    passes_.check_range("token", tokens);
    if (retention != Retention::pinned) return;
    protected_room_.check_pinned(pinned_ + newly_pinned(tokens.size()), "cannot pin ", tokens.size(),
                                 " tokens");
  }

  P& policy() noexcept { return policy_; }
  const P& policy() const noexcept { return policy_; }
  const CcdSettings& settings() const noexcept { return settings_; }
  const ProtectedRoom& protected_room() const noexcept { return protected_room_; }
  std::size_t limit() const noexcept { return limit_; }
  NucTracker& tracker() noexcept { return tracker_; }
  const NucTracker& tracker() const noexcept { return tracker_; }
  Passes<Engine, S, P, X>& passes() noexcept { return passes_; }
  const Passes<Engine, S, P, X>& passes() const noexcept { return passes_; }
  GuardedStore<S>& store() noexcept { return passes_.store(); }
  const GuardedStore<S>& store() const noexcept { return passes_.store(); }
  std::size_t size() const noexcept { return store().size(); }
  std::size_t pinned() const noexcept { return pinned_; }

  CcdStats stats;
  std::optional<Token> unread;  // accepted, not read yet
  ArchiveLink<S, X> archive;
  std::function<void(const Distillation&)> observer;
  std::function<void(const Choice&)> choice_observer;

 private:
  /// What is being done. A distillation reads the window anew, then runs probes.
  enum class Stage : std::uint8_t { nothing, reading, window, probes };

  /// What is still to be read, behind what is unread.
  struct Reading {
    std::span<const Token> tokens;
    std::span<const Entry> records;  // of these tokens, if they have some already
    bool pinned = false;
    bool score_nuc = false;
  };

  /// The distillation that is in flight.
  struct Distilling {
    Stage then = Stage::nothing;  // what follows
    std::size_t before = 0;       // entries
    std::size_t probe = 0;        // the next one
    double cap_seconds = 0;
    Stopwatch time = {};
  };

  Selector selector_for(const P& policy) const {
    const S& own = store().view();
    return Selector(own.shape(), own.granularity(), own.capacity(), settings_.keep, rules_of(policy),
                    passes_.executor().workers());
  }

  void begin_reading(const Reading& reading) noexcept {
    reading_ = reading;
    stage_ = reads_unread() || !reading.tokens.empty() ? Stage::reading : Stage::nothing;
  }

  bool reads_unread() const noexcept { return unread && reading_.records.empty(); }

  /// Prepares a pass, or goes on to another stage.
  void advance() {
    if (stage_ == Stage::reading) {
      size() == limit_ ? begin_distillation() : prepare_chunk();
    } else if (stage_ == Stage::window) {
      if (passes_.window_is_out()) return passes_.prepare_window(policy_);
      passes_.end_window();
      stage_ = Stage::probes;
    } else if (!passes_.prepare_probe(policy_, distilling_.probe, stats.tokens_read)) {
      const Stage then = distilling_.then;
      distil();
      stage_ = then;
    }
  }

  void begin_distillation() {
    distilling_ = {.then = stage_, .before = size()};
    passes_.begin_window(policy_);
    stage_ = Stage::window;
  }

  /// Once attention is known.
  void distil() {
    const auto& [then, before, probes, cap_seconds, time] = distilling_;
    const double probe_seconds = time.seconds();
    passes_.score_entries(policy_);
    const std::size_t nans = selector_.select(policy_, store().entries(), passes_.received().scores(),
                                              protected_room_.protection(), passes_.executor());
    if (choice_observer)
      choice_observer(
          {stats.distillations + 1, store().entries(), passes_.received().scores(), selector_.kept()});
    store().keep(selector_.kept(), passes_.executor());
    passes_.carry(selector_.kept(), before);
    const double seconds = time.seconds();
    stats.distillations += 1;
    stats.nan_scores += nans;
    stats.distill_seconds += seconds;
    stats.probe_seconds += probe_seconds;
    stats.cap_seconds += cap_seconds;
    if (observer)
      observer({stats.distillations, before, nans, seconds, probe_seconds, cap_seconds, selector_.kept()});
  }

  std::size_t longest_chunk() const noexcept {
    const std::size_t end = size() < window_start_ ? window_start_ : limit_;
    return (std::min)(end - size(), entries_.size());
  }

  bool watches_now() const noexcept {
    return watch_of<P> == Watch::every_query || observes ||
           (watch_of<P> == Watch::last_queries && size() >= window_start_);
  }

  /// Prepares what is unread, or else the next chunk.
  void prepare_chunk() {
    const auto left = reads_unread() ? std::span<const Token>(&*unread, 1) : reading_.tokens;
    const auto chunk = left.first((std::min)(left.size(), longest_chunk()));
    const auto entries = std::span(entries_).first(chunk.size());
    const bool pinned = reading_.pinned && !reads_unread();
    if (reading_.records.empty())
      for (std::size_t i = 0; i < chunk.size(); ++i)
        entries[i] = {stats.tokens_read + i, chunk[i], 0, pinned};
    else
      std::ranges::copy(reading_.records.first(chunk.size()), entries.begin());
    if (reading_.score_nuc) entries[0].nuc = tracker_.score(chunk[0]);
    passes_.prepare_chunk(policy_, chunk, entries, tracker_, reading_.score_nuc, watches_now());
  }

  /// The chunk that was read, whose first entry is at `first`.
  void count_chunk(std::size_t first) noexcept {
    const auto entries = std::span(entries_).first(size() - first);
    tracker_.commit();
    pinned_ += pinned_among(first, entries);
    stats.tokens_read = entries.back().position + 1;
    archive.add(store().view(), first, entries, passes_.executor());
    if (reads_unread()) {
      unread.reset();
    } else {
      reading_.tokens = reading_.tokens.subspan(entries.size());
      if (!reading_.records.empty()) reading_.records = reading_.records.subspan(entries.size());
    }
    if (reading_.tokens.empty()) stage_ = Stage::nothing;
  }

  /// Of entries from `first` on, those beyond the sinks.
  std::size_t pinned_among(std::size_t first, std::span<const Entry> entries) const noexcept {
    const std::size_t sinks = settings_.sinks - (std::min)(first, settings_.sinks);
    return static_cast<std::size_t>(
        std::ranges::count(entries.subspan((std::min)(entries.size(), sinks)), true, &Entry::pinned));
  }

  /// Of `count` entries behind the last one and what is unread. Sinks stay anyway, so pinning them costs
  /// nothing.
  std::size_t newly_pinned(std::size_t count) const noexcept {
    const std::size_t from = size() + (unread ? 1 : 0), end = from + count;
    return end - (std::min)(end, (std::max)(from, settings_.sinks));
  }

  P policy_;
  CcdSettings settings_;
  ProtectedRoom protected_room_;
  std::size_t limit_;
  std::size_t window_start_;  // entries from here on are watched, for Watch::last_queries
  NucTracker tracker_;
  std::vector<Entry> entries_;  // (chunk) being read
  Passes<Engine, S, P, X> passes_;
  Selector selector_;
  std::size_t pinned_ = 0;  // beyond the sinks
  Stage stage_ = Stage::nothing;
  Reading reading_;
  Distilling distilling_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
