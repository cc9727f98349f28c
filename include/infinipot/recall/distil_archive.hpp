// The steps of a recall, in a pot of their own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/ccd/archive_link.hpp"
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

/// Distils archives through `work`, a store with an engine that runs against it, for a reader whose entries
/// are in `own`. `Make` makes a policy, or settings that name one, of a catalyst.
template <class Reader, Archive A, class Make>
class ArchiveDistiller {
  using Types = ReaderTypes<Reader>;
  using Engine = typename Types::Engine;
  using S = typename Types::Store;
  using X = typename Types::Executor;
  using Working =
      decltype(Ccd(std::declval<Engine&>(), std::declval<S&>(),
                   std::declval<const Make&>()(std::vector<Token>()), CcdSettings(), std::declval<X>()));
  using P = typename ReaderTypes<Working>::Policy;

 public:
  /// Throws std::invalid_argument for settings that cannot work.
  ArchiveDistiller(const Reader& reader, const S& own, std::span<const ArchivePart<A>> parts,
                   std::span<const Token> question, const RecallSettings& settings, const Make& make)
      : reader_(reader),
        own_(own),
        parts_(parts),
        question_(question.begin(), question.end()),
        settings_(settings),
        make_(make),
        leading_(leading_entries(own.entries(), reader.settings().sinks)),
        newest_(newest_entries(own.entries(), leading_, recent_in(own, settings.recent))),
        keep_(reader.settings().keep - (std::min)(newest_.size(), reader.settings().keep)) {
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

  /// All steps; on return `work` holds what the last one found, and what stays of the reader's own. Throws
  /// std::invalid_argument for settings that cannot work, and what engine and archives throw.
  Recalled run(Engine& engine, S& work) {
    check_room(work.capacity());
    Recalled recalled;
    for (std::vector<Token> catalyst = question_; !catalyst.empty(); catalyst = next_catalyst(recalled)) {
      const double before = time_.seconds();
      ++recalled.steps;
      work.truncate(0);
      Working working(engine, work, P(make_(std::move(catalyst))),
                      {.keep = keep_, .sinks = reader_.settings().sinks, .chunk = reader_.settings().chunk},
                      ReaderAccess::executor(reader_));
      const bool came_to_end = run_step(working, work, recalled);
      recalled.seconds = time_.seconds();
      if (!came_to_end) return recalled;
      goes_on_ = recalled.steps < settings_.steps &&
                 recalled.seconds + (recalled.seconds - before) <= settings_.seconds;
      if (goes_on_ && settings_.next == NextCatalyst::draft) draft(working, recalled);
    }
    recalled.done = true;
    return recalled;
  }

 private:
  /// Whether a catalyst of any step leaves room in the pot.
  void check_room(std::size_t capacity) const {
    std::size_t longest = question_.size();
    if (settings_.steps > 1) longest += settings_.next == NextCatalyst::draft ? settings_.draft : keep_;
    if (capacity <= keep_ || capacity - keep_ <= longest)
      invalid("a pot of ", capacity, " entries, of which ", keep_, " stay, has no room for a catalyst of ",
              longest, " tokens and one more");
  }

  /// Returns false if it was given up.
  bool run_step(Working& working, S& work, Recalled& recalled) {
    begin(working, work);
    const auto go_on = [&](std::uint64_t position) { return in_time(recalled.steps, position); };
    if (!replay_.run(working, parts_, known_, go_on)) return false;
    working.distil();
    recalled.distillations += working.stats().distillations;
    if (settings_.read_anew) read_anew(working, work);
    const auto found = work.entries().positions(0).subspan(leading_);
    recalled.positions.assign(found.begin(), found.end());
    found_.assign(work.entries().tokens(0).begin() + static_cast<std::ptrdiff_t>(leading_),
                  work.entries().tokens(0).end());
    add_newest(working);
    return true;
  }

  /// The reader's leading entries, as they are.
  void begin(Working& working, S& work) const {
    work.assign(own_, leading_);
    ReaderAccess::go_on(working, 0);
  }

  bool in_time(std::size_t step, std::uint64_t position) const {
    const double seconds = time_.seconds();
    return (step > 1 || seconds <= settings_.seconds) &&
           (!settings_.progress || settings_.progress({step, position, end_, seconds}));
  }

  void read_anew(Working& working, S& work) const {
    const std::vector<Entry> kept = most_held(work.entries(), leading_);
    begin(working, work);
    ReaderAccess::read(working, kept, false);
  }

  /// What stays of the reader's newest entries, behind all that the archives have.
  void add_newest(Working& working) {
    std::vector<Entry> newest = newest_;
    std::uint64_t next = working.stats().tokens_read;
    for (Entry& entry : newest) {
      entry.position = (std::max)(entry.position, next);
      next = entry.position + 1;
    }
    if constexpr (WritableEntries<S>)
      ReaderAccess::add(working, newest, StoreRows<S>(own_, own_.entries().size() - newest.size()), 0,
                        scratch_);
    else
      ReaderAccess::read(working, newest, false);
  }

  void draft(Working& working, Recalled& recalled) const {
    recalled.draft.clear();
    working.feed(settings_.ask.empty() ? question_ : settings_.ask);
    working.generate(settings_.draft, most_probable, [&](Token token) {
      if (settings_.ends_draft && settings_.ends_draft(token)) return false;
      recalled.draft.push_back(token);
      return true;
    });
  }

  /// Empty after the last step.
  std::vector<Token> next_catalyst(const Recalled& recalled) const {
    std::vector<Token> catalyst;
    if (!goes_on_) return catalyst;
    const auto append = [&](const std::vector<Token>& tokens) {
      catalyst.insert(catalyst.end(), tokens.begin(), tokens.end());
    };
    if (settings_.next != NextCatalyst::draft) append(found_);
    if (settings_.next != NextCatalyst::found || found_.empty()) append(question_);
    if (settings_.next == NextCatalyst::draft) append(recalled.draft);
    return catalyst;
  }

  const Reader& reader_;
  const S& own_;
  std::span<const ArchivePart<A>> parts_;
  std::vector<Token> question_;
  const RecallSettings& settings_;
  const Make& make_;
  std::size_t leading_;        // entries of the reader's own that stay in front
  std::vector<Entry> newest_;  // and behind
  std::size_t keep_;           // the others
  OwnEntries known_;
  std::uint64_t end_ = 0;     // of all archives, one behind the other
  std::vector<Token> found_;  // by the last step
  bool goes_on_ = false;      // with another step
  Replay<A> replay_;
  std::vector<float> scratch_;
  Stopwatch time_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
