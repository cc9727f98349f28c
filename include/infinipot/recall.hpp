// Recall: brings back what a question needs of all that was read (Ccd::archive_to).
//
// A pot that was distilled for one question does not know the next one's answer. The archive does: recall()
// runs it through a pot once more, with the question as catalyst. Its rows are copied instead of computed, so
// only catalysts run through the model: about a fourteenth of the time that reading took.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/ccd.hpp"
#include "infinipot/ccd/guarded_store.hpp"
#include "infinipot/ccd/pass.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/policy/infinipot.hpp"
#include "infinipot/recall/archive_part.hpp"
#include "infinipot/recall/distil_archive.hpp"
#include "infinipot/recall/reader_access.hpp"
#include "infinipot/recall/recall_settings.hpp"
#include "infinipot/recall/replay.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Makes the policy of a recall of a catalyst that leaves `keep` entries: recommended_settings().
struct RecommendedPolicy {
  InfinipotSettings operator()(std::vector<Token> catalyst, std::size_t keep) const {
    return recommended_settings(std::move(catalyst), keep);
  }
};

namespace detail {

/// A store that can be copied by fork().
template <class S>
concept Forkable = requires(const S& view) {
  view.fork();
};

/// A copy of a store, or none.
template <class S>
struct Copied {
  std::optional<S> store;
};
template <class S>
requires(!Forkable<S>) struct Copied<S> {
};

}  // namespace detail

/// recall() turned inside out, for a scheduler that owns the loop: it says what to run in the pot that it
/// recalls in, as Ccd::next() does. Engine, archives and the reader, which must not be used meanwhile, must
/// outlive it. One that is destroyed before its end has failed(). Allocates.
template <class Reader, Archive A, class Make = RecommendedPolicy>
class Recaller {
  using Engine = typename detail::ReaderTypes<Reader>::Engine;
  using S = typename detail::ReaderTypes<Reader>::Store;
  static_assert(AssignableStore<S>,
                "infinipot: to recall, the store needs assign(); see AssignableStore in "
                "infinipot/concepts.hpp");

 public:
  /// In another pot, which must outlive it, with an engine that runs against that. Throws what recall()
  /// throws before anything changes.
  template <Recallable Archives>
  Recaller(Reader& reader, Engine& engine, S& pot, Archives&& archives, std::span<const Token> question,
           const RecallSettings& settings = {}, const Make& make = {})
      : reader_(at_rest(reader)),
        engine_(std::addressof(engine)),
        work_(std::addressof(not_of(reader, pot))),
        distiller_(reader, own(), detail::all_of(detail::parts_of(archives)), question, settings, make),
        revision_(own().entries().revision()) {}

  /// In the reader's own pot, of which a copy is made meanwhile (fork()), with the reader's engine.
  template <Recallable Archives>
  Recaller(Reader& reader, Archives&& archives, std::span<const Token> question,
           const RecallSettings& settings = {}, const Make& make = {})
      : reader_(at_rest(reader)),
        engine_(std::addressof(detail::ReaderAccess::machine(reader).passes().engine())),
        work_(std::addressof(store().target())),
        copied_{store().view().fork()},
        distiller_(reader, own(), detail::all_of(detail::parts_of(archives)), question, settings, make),
        revision_(store().entries().revision()) {}

  Recaller(const Recaller&) = delete;
  Recaller& operator=(const Recaller&) = delete;
  ~Recaller() { failed(); }

  /// What to run next: the same until done() or failed(). Null at the end, when the reader has what was
  /// recalled, or once it was given up: see recalled(). Throws what recall() throws; then the reader is as it
  /// was.
  const Pass* next() {
    if (!open_) return nullptr;
    detail::Rollback give_up([&]() noexcept { failed(); });
    check_reader();
    changed_ = true;
    const Pass* const pass = distiller_.next(*engine_, *work_);
    if (pass == nullptr && !recalled().done) return nullptr;
    if (pass == nullptr) finish();
    give_up.release();
    return pass;
  }

  /// The pass was run. Throws as Ccd::done() does; then the reader is as it was.
  void done() {
    detail::Rollback give_up([&]() noexcept { failed(); });
    distiller_.done();
    give_up.release();
  }

  /// Gives up, unless it is at its end: the reader is as it was.
  void failed() noexcept {
    if (!open_) return;
    open_ = false;
    distiller_.failed();
    if constexpr (detail::Forkable<S>)
      if (copied_.store && changed_) put_back();
  }

  /// What was done so far; of positions and the draft, the last step's.
  const Recalled& recalled() const noexcept { return distiller_.recalled(); }

 private:
  static Reader& at_rest(Reader& reader) {
    detail::ReaderAccess::machine(reader).check_at_rest();
    detail::ReaderAccess::store(reader).check();
    return reader;
  }

  static S& not_of(Reader& reader, S& pot) {
    if (std::addressof(detail::ReaderAccess::store(reader).view()) == std::addressof(pot))
      detail::invalid("this pot is the reader's own: leave out engine and pot");
    return pot;
  }

  detail::GuardedStore<S>& store() noexcept { return detail::ReaderAccess::store(reader_); }

  /// The reader's own entries.
  const S& own() noexcept {
    if constexpr (detail::Forkable<S>)
      if (copied_.store) return *copied_.store;
    return store().view();
  }

  bool in_own_pot() noexcept { return work_ == std::addressof(store().view()); }

  void check_reader() {
    detail::ReaderAccess::machine(reader_).check_at_rest();
    if ((!in_own_pot() || !changed_) && store().entries().revision() != revision_)
      detail::invalid("the reader's entries have changed since the recall began: begin it anew");
  }

  void finish() {
    if (!in_own_pot()) {
      detail::ReaderAccess::check_pinned(reader_, work_->entries());
      store().target().assign(*work_, work_->entries().size());
    }
    detail::ReaderAccess::go_on(reader_, (std::max)(reader_.stats().tokens_read, distiller_.end()));
    open_ = false;
  }

  void put_back() noexcept {
    detail::returns([&] {
      store().target().assign(own(), own().entries().size());
      store().accept();
    });
  }

  Reader& reader_;
  Engine* engine_;
  S* work_;
  detail::Copied<S> copied_;
  detail::ArchiveDistiller<Reader, A, Make> distiller_;
  std::uint64_t revision_;  // of the reader's entries
  bool changed_ = false;    // whether there may be others in the pot by now
  bool open_ = true;
};

template <class Reader, class Engine, class S, Recallable Archives, class Make = RecommendedPolicy>
Recaller(Reader&, Engine&, S&, Archives&&, std::span<const Token>, const RecallSettings& = {},
         const Make& = {}) -> Recaller<Reader, detail::ArchiveIn<Archives>, Make>;
template <class Reader, Recallable Archives, class Make = RecommendedPolicy>
Recaller(Reader&, Archives&&, std::span<const Token>, const RecallSettings& = {}, const Make& = {})
    -> Recaller<Reader, detail::ArchiveIn<Archives>, Make>;

namespace detail {

template <class Engine, class Recall>
Recalled run_recall(Engine& engine, Recall& recall) {
  static_assert(ForwardPass<Engine>,
                "infinipot: this engine is only described (DescribedPass in infinipot/concepts.hpp), so "
                "recall() cannot run it: see Recaller");
  while (const Pass* const pass = recall.next()) {
    run_pass(engine, *pass);
    recall.done();
  }
  return recall.recalled();
}

}  // namespace detail

/// Distils archives (an archive, an ArchivePart or a span of those) with `question` as catalyst, in another
/// pot with an engine that runs against it. The reader's pot then holds: its own sinks and the pinned entries
/// behind them; what the archives gave, as much as fits into its `keep`; its newest entries
/// (RecallSettings::recent). The reader goes on: question, answer, more text, further recalls. What the other
/// pot held is gone.
///
/// The best question is all that will follow: the question, the answer header, the answer's first words.
/// `make(catalyst)`, or make(catalyst, keep), gives the policy of a step, or settings that name it. Positions
/// are those of the text that the reader archived, or, if it read nothing, those of the archive. What its
/// policy collected while reading (h2o, reread, expected_attention) starts over. Where rows cannot be had (an
/// archive of token ids, a store that is no WritableEntries, a policy that watches the queries of all
/// tokens), tokens are read anew, at the cost of reading.
///
/// Throws std::invalid_argument for settings that cannot work, an archive of another shape, or a pot of
/// another kind; what the engine and the archives throw. A recall that throws or is given up
/// (Recalled::done) leaves the reader as it was.
template <class Reader, Recallable Archives, class Make = RecommendedPolicy>
Recalled recall(Reader& reader, typename detail::ReaderTypes<Reader>::Engine& engine,
                typename detail::ReaderTypes<Reader>::Store& pot, Archives&& archives,
                std::span<const Token> question, const RecallSettings& settings = {}, const Make& make = {}) {
  Recaller<Reader, detail::ArchiveIn<Archives>, Make> recaller(reader, engine, pot, archives, question,
                                                               settings, make);
  return detail::run_recall(engine, recaller);
}

/// The same in the reader's own pot, of which a copy is made meanwhile (fork()).
template <class Reader, Recallable Archives, class Make = RecommendedPolicy>
Recalled recall(Reader& reader, Archives&& archives, std::span<const Token> question,
                const RecallSettings& settings = {}, const Make& make = {}) {
  using S = typename detail::ReaderTypes<Reader>::Store;
  static_assert(AssignableStore<S> && detail::Forkable<S>,
                "infinipot: to recall in the reader's own pot, the store needs assign() and fork(); see "
                "AssignableStore in infinipot/concepts.hpp");
  Recaller<Reader, detail::ArchiveIn<Archives>, Make> recaller(reader, archives, question, settings, make);
  return detail::run_recall(detail::ReaderAccess::machine(reader).passes().engine(), recaller);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
