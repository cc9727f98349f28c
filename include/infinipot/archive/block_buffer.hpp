// The block of an archive that is being filled, in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "infinipot/archive.hpp"
#include "infinipot/archive/block_header.hpp"
#include "infinipot/archive/row_codec.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/pot/crc32.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Header, records and rows, so that a finished block is one piece of memory.
class BlockBuffer {
 public:
  BlockBuffer() = default;

  /// Over layout.bytes(layout.block) bytes, aligned to 64, and `layout.block` numbers.
  BlockBuffer(const BlockLayout& layout, std::span<std::byte> memory, std::span<std::uint32_t> crcs) noexcept
      : layout_(layout),
        memory_(memory),
        crcs_(crcs),
        rows_(memory.data() + sizeof(BlockHeader) + layout.rows_at(layout.block)),
        entry_shift_(crc_shift(layout.entry_bytes)) {}

  std::size_t count() const noexcept { return count_; }
  std::uint64_t first() const noexcept { return first_; }
  std::uint64_t end() const noexcept { return first_ + count_; }
  bool pinned() const noexcept { return pinned_; }
  bool full() const noexcept { return count_ == layout_.block; }

  /// How many of these entries the block can take: without a gap, all pinned or none.
  std::size_t takes(std::span<const Entry> entries) const noexcept {
    const std::uint64_t next = count_ == 0 ? entries.front().position : end();
    const bool pinned = count_ == 0 ? entries.front().pinned : pinned_;
    const std::size_t most = (std::min)(entries.size(), layout_.block - count_);
    std::size_t taken = 0;
    while (taken < most && entries[taken].position == next + taken && entries[taken].pinned == pinned)
      ++taken;
    return taken;
  }

  /// Adds entries from `at` of the source on. Precondition: the block takes them.
  template <Executor X>
  void add(std::span<const Entry> entries, const ArchiveRows& rows, const RowSource& source, std::size_t at,
           X& executor) noexcept {
    if (count_ == 0) {
      first_ = entries.front().position;
      pinned_ = entries.front().pinned;
      rows_crc_ = 0;
    }
    for (std::size_t i = 0; i < entries.size(); ++i) put_record(count_ + i, entries[i]);
    if (rows.has_rows()) {
      executor.for_each(entries.size(), [&](std::size_t i, std::size_t) {
        const std::span<std::byte> entry(rows_ + (count_ + i) * layout_.entry_bytes, layout_.entry_bytes);
        rows.encode(source, at + i, entry.data());
        Crc32 crc;
        crc.add(entry);
        crcs_[i] = crc.value();
      });
      for (std::size_t i = 0; i < entries.size(); ++i)
        rows_crc_ = crc_of_both(rows_crc_, crcs_[i], entry_shift_);
    }
    count_ += entries.size();
  }

  /// The finished block, until the next entries come. Its number and the oldest one are the caller's.
  std::span<const std::byte> finish(BlockHeader& header) noexcept {
    // Records move up to the rows; token ids stay where they are.
    const auto records_bytes = static_cast<std::size_t>(layout_.rows_at(count_));
    std::byte* const records = layout_.entry_bytes == 0 ? first_record() : rows_ - records_bytes;
    if (records != first_record()) std::memmove(records, first_record(), count_ * layout_.record_bytes());
    std::fill(records + count_ * layout_.record_bytes(), records + records_bytes, std::byte{0});
    header.archive = layout_.archive;
    header.first = first_;
    header.count = static_cast<std::uint32_t>(count_);
    header.pinned = pinned_ ? 1 : 0;
    header.payload_bytes = layout_.payload_bytes(count_);
    Crc32 crc;
    crc.add({records, records_bytes});
    const std::size_t rows_bytes = count_ * layout_.entry_bytes;
    header.payload_crc =
        rows_bytes == 0 ? crc.value() : crc_of_both(crc.value(), rows_crc_, crc_shift(rows_bytes));
    header.header_crc = header.crc();
    std::byte* const block = records - sizeof header;
    std::memcpy(block, &header, sizeof header);
    const auto bytes = static_cast<std::size_t>(layout_.bytes(count_));
    std::fill(records + records_bytes + rows_bytes, block + bytes, std::byte{0});
    return {block, bytes};
  }

  void clear() noexcept { count_ = 0; }

  /// The payload as finish() would make it, into (layout.payload_bytes(count())) bytes.
  void copy(std::byte* out) const noexcept {
    std::memcpy(out, first_record(), count_ * layout_.record_bytes());
    if (layout_.entry_bytes != 0)
      std::memcpy(out + layout_.rows_at(count_), rows_, count_ * layout_.entry_bytes);
  }

 private:
  std::byte* first_record() const noexcept { return memory_.data() + sizeof(BlockHeader); }

  void put_record(std::size_t i, const Entry& entry) noexcept {
    std::byte* const record = first_record() + i * layout_.record_bytes();
    std::memcpy(record, &entry.token, sizeof entry.token);
    if (layout_.entry_bytes != 0) std::memcpy(record + sizeof entry.token, &entry.nuc, sizeof entry.nuc);
  }

  BlockLayout layout_;
  std::span<std::byte> memory_;
  std::span<std::uint32_t> crcs_;  // of the rows of each entry that is being added
  std::byte* rows_ = nullptr;
  std::uint32_t entry_shift_ = 0;
  std::size_t count_ = 0;
  std::uint64_t first_ = 0;
  bool pinned_ = false;
  std::uint32_t rows_crc_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
