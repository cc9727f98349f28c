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

/// Feeds archives to readers, piece by piece. Keeps its memory from one to the next.
template <Archive A>
class Replay {
 public:
  /// Begins with all parts, the first one without the reader's `own` entries. Both must outlive the replay.
  void begin(std::span<const ArchivePart<A>> parts, const OwnEntries& own) {
    parts_ = parts;
    own_ = &own;
    part_ = next_ = end_ = 0;
    before_ = at_ = 0;
    left_ = {};
    given_up_ = false;
  }

  /// Feeds the next piece, or starts what must run before or for it. go_on(position) is called before each
  /// block with its place in all parts; false gives up. Returns false at the end.
  template <class Reader, class GoOn>
  bool feed(Reader& reader, const GoOn& go_on) {
    while (left_.empty())
      if (!next_run() && !next_block(go_on)) return false;
    if constexpr (takes_rows<Reader>)
      if (parts_[part_].archive->has_rows()) {
        const std::size_t added = ReaderAccess::add(reader, left_, block_, row_, scratch_);
        left_ = left_.subspan(added);
        row_ += added;
        return true;
      }
    ReaderAccess::start(reader, left_, tokens_, uses_nuc(reader.policy()));
    left_ = {};
    return true;
  }

  bool given_up() const noexcept { return given_up_; }

 private:
  /// Finds the next run of wanted entries in the block. Returns false at its end.
  bool next_run() {
    if (next_ == end_) return false;
    const std::span<const Entry> all = block_.entries();
    const ArchivePart<A>& part = parts_[part_];
    const auto wanted = [&](const Entry& entry) {
      return (entry.pinned || (entry.position >= part.from && entry.position < part.to)) &&
             !(before_ == 0 && own_->has(entry.position));
    };
    const auto from = std::find_if(all.begin() + static_cast<std::ptrdiff_t>(next_), all.end(), wanted);
    const auto to = std::find_if_not(from, all.end(), wanted);
    row_ = static_cast<std::size_t>(from - all.begin());
    next_ = static_cast<std::size_t>(to - all.begin());
    entries_.assign(from, to);
    for (Entry& entry : entries_) entry.position += before_;
    left_ = entries_;
    return true;
  }

  /// Reads the next block. Returns false at the end of all parts.
  template <class GoOn>
  bool next_block(const GoOn& go_on) {
    for (; part_ < parts_.size(); ++part_, at_ = 0) {
      next_ = end_ = 0;
      if (parts_[part_].archive->read(at_, block_)) {
        const std::span<const Entry> all = block_.entries();
        if (all.empty() || all.front().position < at_ || all.back().position < all.front().position)
          invalid("an archive gave entries out of order, asked for those from position ", at_, " on");
        given_up_ = !go_on(before_ + all.front().position);
        if (given_up_) return false;
        at_ = all.back().position + 1;
        end_ = all.size();
        return true;
      }
      before_ += parts_[part_].archive->end();
    }
    return false;
  }

  std::span<const ArchivePart<A>> parts_;
  const OwnEntries* own_ = nullptr;
  std::size_t part_ = 0;            // being fed
  std::uint64_t before_ = 0;        // positions of the parts before it
  std::uint64_t at_ = 0;            // of its next block
  typename A::Block block_;         // being fed
  std::size_t next_ = 0, end_ = 0;  // its entries that are not looked at yet
  std::vector<Entry> entries_;      // a run of it
  std::span<const Entry> left_;     // of the run, not fed yet
  std::size_t row_ = 0;             // in the block, of the first that is left
  std::vector<Token> tokens_;       // of the run
  std::vector<float> scratch_;
  bool given_up_ = false;
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
  detail::ReaderAccess::machine(reader).check_at_rest();
  detail::ReaderAccess::store(reader).check();
  detail::check_parts(all, Shape(detail::ReaderAccess::store(reader).view().shape()));
  const auto archive = detail::ReaderAccess::detach(reader);
  detail::Rollback attach([&]() noexcept { detail::ReaderAccess::put_back(reader, archive); });
  const detail::OwnEntries none;
  auto run = detail::replay_of(all);
  run.begin(all, none);
  while (run.feed(reader, [](std::uint64_t) { return true; })) detail::ReaderAccess::machine(reader).run();
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
