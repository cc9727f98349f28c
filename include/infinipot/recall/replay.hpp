// Runs archives through a reader: their rows are copied into its pot instead of being computed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/recall/archive_part.hpp"
#include "infinipot/recall/own_entries.hpp"
#include "infinipot/recall/reader_access.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {

/// Feeds archives to readers. Keeps its memory from one to the next.
template <Archive A>
class Replay {
 public:
  /// Feeds all parts, the first one without the reader's `own` entries. go_on(position) is called before each
  /// block with its place in all parts; false ends it. Returns whether it came to the end.
  template <class Reader, class GoOn>
  bool run(Reader& reader, std::span<const ArchivePart<A>> parts, const OwnEntries& own, const GoOn& go_on) {
    std::uint64_t before = 0;
    for (const ArchivePart<A>& part : parts) {
      for (std::uint64_t at = 0; part.archive->read(at, block_); at = block_.entries().back().position + 1) {
        const std::span<const Entry> all = block_.entries();
        if (all.empty() || all.front().position < at || all.back().position < all.front().position)
          invalid("an archive gave entries out of order, asked for those from position ", at, " on");
        if (!go_on(before + all.front().position)) return false;
        for (std::size_t begin = 0; begin < all.size();) {
          const auto wanted = [&](const Entry& entry) {
            return (entry.pinned || (entry.position >= part.from && entry.position < part.to)) &&
                   !(before == 0 && own.has(entry.position));
          };
          const auto from = std::find_if(all.begin() + static_cast<std::ptrdiff_t>(begin), all.end(), wanted);
          const auto to = std::find_if_not(from, all.end(), wanted);
          feed(reader, *part.archive, {from, to}, before, static_cast<std::size_t>(from - all.begin()));
          begin = static_cast<std::size_t>(to - all.begin());
        }
      }
      before += part.archive->end();
    }
    return true;
  }

 private:
  template <class Reader>
  void feed(Reader& reader, const A& archive, std::span<const Entry> entries, std::uint64_t before,
            std::size_t at) {
    if (entries.empty()) return;
    entries_.assign(entries.begin(), entries.end());
    for (Entry& entry : entries_) entry.position += before;
    if constexpr (takes_rows<Reader>)
      if (archive.has_rows()) return ReaderAccess::add(reader, entries_, block_, at, scratch_);
    ReaderAccess::read(reader, entries_, uses_nuc(reader.policy()));
  }

  typename A::Block block_;
  std::vector<Entry> entries_;
  std::vector<float> scratch_;
};

template <Archive A>
Replay<A> replay_of(std::span<const ArchivePart<A>> /*parts*/) {
  return {};
}

/// Throws std::invalid_argument unless all archives are of this shape.
template <Archive A>
void check_parts(std::span<const ArchivePart<A>> parts, const Shape& shape) {
  for (const ArchivePart<A>& part : parts) {
    if (part.archive == nullptr) invalid("an archive to recall is at a null pointer");
    if (const Shape other = part.archive->shape(); !(other == shape))
      invalid("the archive is of shape ", other, ", but the pot is of ", shape);
  }
}

}  // namespace detail

/// Feeds an archive, an ArchivePart or a span of those to a reader, distilling as often as needed, as if it
/// read the text: only catalysts run through the model. Positions of a second archive go on where the first
/// one ends. What the reader's store and policy cannot take as rows, and an archive of token ids, is read
/// anew. If the reader is archived, what is fed is not archived again.
///
/// Throws std::invalid_argument for an archive of another shape and for entries at or before those that the
/// reader has; what the engine and the archive throw. What was fed before stays fed.
template <class Reader, Recallable Archives>
void replay(Reader& reader, Archives&& archives) {
  const auto parts = detail::parts_of(archives);
  const auto all = detail::all_of(parts);
  detail::ReaderAccess::store(reader).check();
  detail::check_parts(all, Shape(detail::ReaderAccess::store(reader).view().shape()));
  const auto archive = detail::ReaderAccess::detach(reader);
  detail::Rollback attach([&]() noexcept { detail::ReaderAccess::put_back(reader, archive); });
  detail::replay_of(all).run(reader, all, {}, [](std::uint64_t) { return true; });
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
