// The steps of a recall, in a pot of their own, pass by pass.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/ccd/archive_link.hpp"
#include "infinipot/ccd/pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/stopwatch.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/recall/archive_part.hpp"
#include "infinipot/recall/own_entries.hpp"
#include "infinipot/recall/reader_access.hpp"
#include "infinipot/recall/recall_settings.hpp"
#include "infinipot/recall/replay.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The most probable token; NaN is never it, unless all are.
inline Token most_probable(std::span<const float> logits) noexcept {
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i)
    if (!is_nan(logits[i]) && (is_nan(logits[best]) || logits[i] > logits[best])) best = i;
  return static_cast<Token>(best);
}

/// What `make` makes of a catalyst, told how many entries are to stay if it asks.
template <class Make>
auto made(const Make& make, std::vector<Token> catalyst, std::size_t keep) {
  if constexpr (std::invocable<const Make&, std::vector<Token>, std::size_t>)
    return make(std::move(catalyst), keep);
  else
    return make(std::move(catalyst));
}

/// Distils archives through `work`, a store with an engine that runs against it, for a reader whose entries
/// are in `own`; all of these must outlive it. `Make` makes a policy, or settings that name one, of a
/// catalyst and, if it likes, of how many entries are to stay.
template <class Reader, Archive A, class Make>
class ArchiveDistiller {
  using Types = ReaderTypes<Reader>;
  using Engine = typename Types::Engine;
  using S = typename Types::Store;
  using X = typename Types::Executor;
  using Working = decltype(Ccd(std::declval<Engine&>(), std::declval<S&>(),
                               made(std::declval<const Make&>(), std::vector<Token>(), 0), CcdSettings(),
                               std::declval<X>()));
  using P = typename ReaderTypes<Working>::Policy;

 public:
  /// Throws std::invalid_argument for settings that cannot work.
  ArchiveDistiller(const Reader& reader, const S& own, std::span<const ArchivePart<A>> parts,
                   std::span<const Token> question, const RecallSettings& settings, const Make& make)
      : reader_(reader),
        own_(own),
        parts_(parts.begin(), parts.end()),
        question_(question.begin(), question.end()),
        settings_(settings),
        make_(make),
        leading_(leading_entries(own.entries(), reader.settings().sinks)),
        newest_(newest_entries(own.entries(), leading_, recent_in(own, settings.recent))),
        keep_(reader.settings().keep - (std::min)(newest_.size(), reader.settings().keep)),
        catalyst_(question_) {
    if (settings.steps == 0) invalid("a recall has at least 1 step");
    if (keep_ == 0)
      invalid("the ", newest_.size(), " newest entries that are to stay leave none of the ",
              reader.settings().keep, " that the reader keeps to the archive");
    if (question.empty()) invalid("a recall needs a question of at least 1 token");
    check_parts(parts, Shape(own.shape()));
    for (const ArchivePart<A>& part : parts) end_ += part.archive->end();
    const auto positions = own.entries().positions(0);
    known_.leading.assign(positions.begin(), positions.begin() + static_cast<std::ptrdiff_t>(leading_));
    if (!newest_.empty()) known_.from = newest_.front().position;
  }

  /// Positions of all archives, one behind the other.
  std::uint64_t end() const noexcept { return end_; }

  /// What was done so far.
  const Recalled& recalled() const noexcept { return recalled_; }

  /// What to run next in `work`, the same engine and store at every call; null at the end, or once it was
  /// given up. At the end `work` holds what the last step found, and what stays of the reader's own. Throws
  /// std::invalid_argument for settings that cannot work, and what stores and archives throw.
  const Pass* next(Engine& engine, S& work) {
    for (;;) {
      if (working_)
        if (const Pass* const pass = working_->next()) return pass;
      if (!go_on(engine, work)) return nullptr;
    }
  }

  void done() {
    if (!working_) invalid("there is nothing that could be done: next() says what to run");
    working_->done();
  }

  void failed() noexcept {
    if (working_) working_->failed();
  }

 private:
  /// What comes next in a step.
  enum class Stage : std::uint8_t { begin, replay, found, note, newest, draft, end };

  /// Does what comes next, or starts it. Returns false at the end.
  bool go_on(Engine& engine, S& work) {
    switch (stage_) {
      case Stage::begin:
        begin_step(engine, work);
        return true;
      case Stage::replay:
        replay();
        return stage_ != Stage::end;
      case Stage::found:
        recalled_.distillations += working_->stats().distillations;
        if (settings_.read_anew) read_anew(work);
        stage_ = Stage::note;
        return true;
      case Stage::note:
        note_found(work);
        stage_ = Stage::newest;
        return true;
      case Stage::newest:
        newest_left_.empty() ? end_step() : add_newest();
        return true;
      case Stage::draft:
        draft();
        return true;
      case Stage::end:
        break;
    }
    recalled_.done = !replay_.given_up();
    return false;
  }

  void begin_step(Engine& engine, S& work) {
    if (recalled_.steps == 0) check_room(work.capacity());
    step_began_ = time_.seconds();
    ++recalled_.steps;
    work.truncate(0);
    P policy(made(make_, std::move(catalyst_), keep_));
    const CcdSettings settings{.keep = room_beside_newest(work.capacity(), longest_probe(policy)),
                               .sinks = reader_.settings().sinks,
                               .chunk = reader_.settings().chunk};
    working_.emplace(engine, work, std::move(policy), settings, ReaderAccess::executor(reader_));
    put_leading(work);
    replay_.begin(parts_, known_);
    stage_ = Stage::replay;
  }

  /// Whether a catalyst of any step leaves room in the pot.
  void check_room(std::size_t capacity) const {
    std::size_t longest = question_.size();
    if (settings_.steps > 1) longest += settings_.next == NextCatalyst::draft ? settings_.draft : keep_;
    if (capacity <= keep_ || capacity - keep_ <= longest)
      invalid("a pot of ", capacity, " entries, of which ", keep_, " stay, has no room for a catalyst of ",
              longest, " tokens and one more");
  }

  /// keep_, or less so that the newest entries fit behind what a step found without another distillation,
  /// which could drop them.
  std::size_t room_beside_newest(std::size_t capacity, std::size_t probe) const {
    if (newest_.empty()) return keep_;
    if (capacity <= probe || capacity - probe <= newest_.size())
      invalid("a pot of ", capacity, " entries has no room for the ", newest_.size(),
              " newest that are to stay and a catalyst of ", probe, " tokens");
    return (std::min)(keep_, capacity - probe - newest_.size());
  }

  /// The reader's leading entries, as they are.
  void put_leading(S& work) {
    work.assign(own_, leading_);
    ReaderAccess::go_on(*working_, 0);
  }

  void replay() {
    if (replay_.feed(*working_, [&](std::uint64_t position) { return in_time(position); })) return;
    if (replay_.given_up()) {
      recalled_.seconds = time_.seconds();
      stage_ = Stage::end;
    } else {
      working_->start_distil();
      stage_ = Stage::found;
    }
  }

  bool in_time(std::uint64_t position) const {
    const double seconds = time_.seconds();
    return (recalled_.steps > 1 || seconds <= settings_.seconds) &&
           (!settings_.progress || settings_.progress({recalled_.steps, position, end_, seconds}));
  }

  void read_anew(S& work) {
    entries_ = most_held(work.entries(), leading_);
    put_leading(work);
    ReaderAccess::start(*working_, entries_, tokens_, false);
  }

  /// What the step found, and what stays of the reader's newest entries, behind all that the archives have.
  void note_found(const S& work) {
    const auto positions = work.entries().positions(0).subspan(leading_);
    recalled_.positions.assign(positions.begin(), positions.end());
    const auto tokens = work.entries().tokens(0).subspan(leading_);
    found_.assign(tokens.begin(), tokens.end());
    entries_ = newest_;
    std::uint64_t next = working_->stats().tokens_read;
    for (Entry& entry : entries_) {
      entry.position = (std::max)(entry.position, next);
      next = entry.position + 1;
    }
    newest_left_ = entries_;
  }

  void add_newest() {
    if constexpr (WritableEntries<S>) {
      const StoreRows<S> rows(own_, own_.entries().size() - newest_left_.size());
      newest_left_ = newest_left_.subspan(ReaderAccess::add(*working_, newest_left_, rows, 0, scratch_));
    } else {
      ReaderAccess::start(*working_, newest_left_, tokens_, false);
      newest_left_ = {};
    }
  }

  void end_step() {
    recalled_.seconds = time_.seconds();
    const bool goes_on = recalled_.steps < settings_.steps &&
                         recalled_.seconds + (recalled_.seconds - step_began_) <= settings_.seconds;
    if (goes_on && settings_.next == NextCatalyst::draft) {
      recalled_.draft.clear();
      working_->start(settings_.ask.empty() ? question_ : settings_.ask);
      stage_ = Stage::draft;
    } else {
      goes_on ? end_with_catalyst() : void(stage_ = Stage::end);
    }
  }

  /// One more token of the draft.
  void draft() {
    drafted_ = most_probable(working_->logits());
    if (recalled_.draft.size() == settings_.draft || (settings_.ends_draft && settings_.ends_draft(drafted_)))
      return end_with_catalyst();
    recalled_.draft.push_back(drafted_);
    working_->start({&drafted_, 1});
  }

  /// That of the next step.
  void end_with_catalyst() {
    catalyst_.clear();
    const auto append = [&](const std::vector<Token>& tokens) {
      catalyst_.insert(catalyst_.end(), tokens.begin(), tokens.end());
    };
    if (settings_.next != NextCatalyst::draft) append(found_);
    if (settings_.next != NextCatalyst::found || found_.empty()) append(question_);
    if (settings_.next == NextCatalyst::draft) append(recalled_.draft);
    stage_ = Stage::begin;
  }

  const Reader& reader_;
  const S& own_;
  std::vector<ArchivePart<A>> parts_;
  std::vector<Token> question_;
  RecallSettings settings_;
  Make make_;
  std::size_t leading_;        // entries of the reader's own that stay in front
  std::vector<Entry> newest_;  // and behind
  std::size_t keep_;           // the others
  OwnEntries known_;
  std::uint64_t end_ = 0;  // of all archives, one behind the other
  Stage stage_ = Stage::begin;
  Recalled recalled_;
  std::vector<Token> catalyst_;     // of the next step
  std::optional<Working> working_;  // of this one
  Replay<A> replay_;
  std::vector<Token> found_;            // by this step
  std::vector<Entry> entries_;          // being read anew or added behind
  std::span<const Entry> newest_left_;  // of entries_, not added yet
  std::vector<Token> tokens_;           // of entries_
  Token drafted_ = 0;                   // being read
  std::vector<float> scratch_;
  Stopwatch time_;
  double step_began_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
