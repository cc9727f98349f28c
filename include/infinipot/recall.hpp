// Recall: brings back what a question needs of all that was read (Ccd::archive_to).
//
// A pot that was distilled for one question does not know the next one's answer. The archive does: recall()
// runs it through a pot once more, with the question as catalyst. Its rows are copied instead of computed, so
// only catalysts run through the model: about a fourteenth of the time that reading took.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/ccd.hpp"
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

/// Makes the policy of a recall of a catalyst: recommended_settings().
struct RecommendedPolicy {
  InfinipotSettings operator()(std::vector<Token> catalyst) const {
    return recommended_settings(std::move(catalyst));
  }
};

/// Distils archives (an archive, an ArchivePart or a span of those) with `question` as catalyst, in another
/// pot with an engine that runs against it. The reader's pot then holds: its own sinks and the pinned entries
/// behind them; what the archives gave, as much as fits into its `keep`; its newest entries
/// (RecallSettings::recent). The reader goes on: question, answer, more text, further recalls. What the other
/// pot held is gone.
///
/// The best question is all that will follow: the question, the answer header, the answer's first words.
/// `make(catalyst)` gives the policy of a step, or settings that name it. Positions are those of the text
/// that the reader archived, or, if it read nothing, those of the archive. What its policy collected while
/// reading (h2o, reread, expected_attention) starts over. Where rows cannot be had (an archive of token ids,
/// a store that is no WritableEntries, a policy that watches the queries of all tokens), tokens are read
/// anew, at the cost of reading.
///
/// Throws std::invalid_argument for settings that cannot work, an archive of another shape, or a pot of
/// another kind; what the engine and the archives throw. A recall that throws or is given up
/// (Recalled::done) leaves the reader as it was.
template <class Reader, Recallable Archives, class Make = RecommendedPolicy>
Recalled recall(Reader& reader, typename detail::ReaderTypes<Reader>::Engine& engine,
                typename detail::ReaderTypes<Reader>::Store& pot, Archives&& archives,
                std::span<const Token> question, const RecallSettings& settings = {}, const Make& make = {}) {
  static_assert(AssignableStore<typename detail::ReaderTypes<Reader>::Store>,
                "infinipot: to recall, the store needs assign(); see AssignableStore in "
                "infinipot/concepts.hpp");
  auto& store = detail::ReaderAccess::store(reader);
  store.check();
  if (&store.view() == &pot) detail::invalid("this pot is the reader's own: leave out engine and pot");
  const auto parts = detail::parts_of(archives);
  detail::ArchiveDistiller distiller(reader, store.view(), detail::all_of(parts), question, settings, make);
  Recalled recalled = distiller.run(engine, pot);
  if (!recalled.done) return recalled;
  detail::ReaderAccess::check_pinned(reader, pot.entries());
  store.target().assign(pot, pot.entries().size());
  detail::ReaderAccess::go_on(reader, (std::max)(reader.stats().tokens_read, distiller.end()));
  return recalled;
}

/// The same in the reader's own pot, of which a copy is made meanwhile (fork()).
template <class Reader, Recallable Archives, class Make = RecommendedPolicy>
Recalled recall(Reader& reader, Archives&& archives, std::span<const Token> question,
                const RecallSettings& settings = {}, const Make& make = {}) {
  using S = typename detail::ReaderTypes<Reader>::Store;
  static_assert(
      AssignableStore<S> && requires(const S& view) { view.fork(); },
      "infinipot: to recall in the reader's own pot, the store needs assign() and fork(); see "
      "AssignableStore in infinipot/concepts.hpp");
  auto& store = detail::ReaderAccess::store(reader);
  store.check();
  const auto parts = detail::parts_of(archives);
  const auto own = store.view().fork();
  detail::ArchiveDistiller distiller(reader, own, detail::all_of(parts), question, settings, make);
  detail::Rollback put_back([&]() noexcept {
    detail::returns([&] {
      store.target().assign(own, own.entries().size());
      store.accept();
    });
  });
  Recalled recalled = distiller.run(detail::ReaderAccess::engine(reader), store.target());
  if (!recalled.done) return recalled;
  detail::ReaderAccess::go_on(reader, (std::max)(reader.stats().tokens_read, distiller.end()));
  put_back.release();
  return recalled;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
