// What archives in memory and in files share: entries come, are gathered into blocks, and are read back.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/archive/archive_settings.hpp"
#include "infinipot/archive/block_buffer.hpp"
#include "infinipot/archive/block_header.hpp"
#include "infinipot/archive/block_log.hpp"
#include "infinipot/archive/row_codec.hpp"
#include "infinipot/archive/stored_block.hpp"
#include "infinipot/detail/arena.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/stopwatch.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Throws std::invalid_argument for settings out of range.
inline ArchiveSettings checked_archive(ArchiveSettings settings) {
  constexpr std::size_t most_block = 65536, most_fingerprint = 255;
  settings.shape.validate();
  settings.rope.validate(settings.shape.head_dim);
  if (static_cast<std::uint32_t>(settings.type) > static_cast<std::uint32_t>(ArchiveType::tokens))
    invalid("archive type ", static_cast<std::uint32_t>(settings.type), " is out of range 0 .. 4");
  const std::size_t channels = (std::max)(settings.shape.head_dim, settings.shape.value_channels());
  if (settings.type != ArchiveType::tokens && channels > most_archived_channels)
    invalid("rows of ", channels, " channels in an archive are out of range 1 .. ", most_archived_channels);
  if (settings.block == 0 || settings.block > most_block)
    invalid("an archive's block of ", settings.block, " entries is out of range 1 .. ", most_block);
  if (settings.fingerprint.size() > most_fingerprint)
    invalid("an archive's fingerprint of ", settings.fingerprint.size(), " bytes is longer than ",
            most_fingerprint);
  if (!settings.channels.centre.empty() || !settings.channels.spread.empty())
    settings.channels.validate(settings.shape);
  return settings;
}

/// What an archive is made of, besides its device.
struct ArchiveParts {
  ArchiveSettings settings;
  std::shared_ptr<const ArchiveRows> rows;
  BlockLayout layout;
  Arena arena;
  BlockBuffer buffer;           ///< after allocate()
  std::span<std::byte> memory;  ///< for the blocks of an archive in memory

  Arena::Slot<std::byte> buffer_slot = {}, memory_slot = {};
  Arena::Slot<std::uint32_t> crcs_slot = {};

  /// Throws std::bad_alloc.
  void allocate() {
    arena.allocate();
    memory = arena.take(memory_slot);
    buffer = BlockBuffer(layout, arena.take(buffer_slot), arena.take(crcs_slot));
  }
};

/// `archive` is BlockHeader::archive. Throws std::invalid_argument if a block would be too large.
inline ArchiveParts archive_parts(ArchiveSettings checked, std::uint32_t archive) {
  constexpr std::size_t most = std::size_t{1} << 30U;
  ArchiveParts parts;
  parts.rows = std::make_shared<const ArchiveRows>(checked);
  const std::size_t entry = parts.rows->entry_bytes();
  if (entry > most / checked.block)
    invalid("an archive's block of ", checked.block, " entries of ", entry,
            " bytes is too large; make it at most ", most, " bytes");
  parts.layout = {checked.block, entry, archive};
  // A block of few tokens stands at the end of its memory, and is filled up behind it.
  parts.buffer_slot = parts.arena.reserve<std::byte>(
      static_cast<std::size_t>(parts.layout.bytes(checked.block) + block_alignment));
  parts.crcs_slot = parts.arena.reserve<std::uint32_t>(entry != 0 ? checked.block : 0);
  parts.settings = std::move(checked);
  return parts;
}

/// An Archive on a device (BlockLog). Its owner says what to do when the device can no more.
template <class Device>
class LogArchive {
 public:
  using Block = StoredBlock;

  const Shape& shape() const noexcept { return settings_.shape; }
  const ArchiveSettings& settings() const noexcept { return settings_; }
  bool has_rows() const noexcept { return rows_->has_rows(); }

  /// One after the newest entry's position; 0 if nothing was archived.
  std::uint64_t end() const noexcept { return buffer_.count() != 0 ? buffer_.end() : log_end_; }

  /// How it fares now.
  ArchiveStats stats() const noexcept {
    ArchiveStats stats = stats_;
    stats.entries = log_.entries() + buffer_.count();
    stats.bytes = log_.bytes() + log_.layout().payload_bytes(buffer_.count());
    stats.dropped = log_.dropped();
    stats.damaged += damaged_.size();
    return stats;
  }

  /// Whether it can no more. What it holds can still be read; what comes is counted in stats().lost.
  bool ended() const noexcept { return why_[0] != '\0'; }

  /// Why, in words; empty if it has not ended.
  std::string_view why() const noexcept { return why_.data(); }

  /// Archives entries; `rows` gives their keys and values, and is not asked for them by an archive of tokens.
  /// Encodes on the executor, with the same bits on any. Allocates nothing and never throws.
  /// Precondition: positions ascend, from end() on.
  template <Executor X = Serial>
  void append(std::span<const Entry> entries, const RowSource& rows, X executor = {}) noexcept {
    const Stopwatch stopwatch;
    for (std::size_t at = 0; at < entries.size();) {
      if (read_only_ && !ended()) end_with("it was opened for reading only");
      if (ended()) {
        stats_.lost += entries.size() - at;
        break;
      }
      const auto rest = entries.subspan(at);
      const std::size_t taken = buffer_.takes(rest);
      buffer_.add(rest.first(taken), *rows_, rows, at, executor);
      at += taken;
      if (buffer_.full() || taken == 0) write_block();
    }
    stats_.seconds += stopwatch.seconds();
  }

  /// The first entries at or after a position, as many as stand in a block. False if there are none. Blocks
  /// that are damaged are skipped and counted. Reading in order finds each block at once, elsewhere by way of
  /// the headers of those before it. Throws std::bad_alloc.
  bool read(std::uint64_t position, Block& block) {
    for (bool more = seek(position); more; more = log_.next(cursor_)) {
      const BlockHeader& header = cursor_.header;
      if (header.end() <= position) continue;
      if (log_.read(cursor_, block.payload(static_cast<std::size_t>(header.payload_bytes)))) {
        assign(block, position, header.first, header.count, header.pinned != 0);
        return true;
      }
      remember_damage(header.number);
    }
    if (buffer_.count() == 0 || buffer_.end() <= position) return false;
    buffer_.copy(
        block.payload(static_cast<std::size_t>(log_.layout().payload_bytes(buffer_.count()))).data());
    assign(block, position, buffer_.first(), buffer_.count(), buffer_.pinned());
    return true;
  }

 protected:
  /// On the device's bytes from `begin` to before `end`.
  LogArchive(ArchiveParts&& parts, Device device, std::uint64_t begin, std::uint64_t end)
      : settings_(std::move(parts.settings)),
        rows_(std::move(parts.rows)),
        arena_(std::move(parts.arena)),
        log_(std::move(device), parts.layout, begin, end),
        buffer_(parts.buffer) {}
  LogArchive(LogArchive&&) noexcept = default;
  LogArchive& operator=(LogArchive&&) noexcept = default;
  ~LogArchive() = default;

  /// Writes the block that is being filled, if there is one. False if the archive has ended.
  bool write_block() noexcept {
    if (ended()) return false;
    if (buffer_.count() == 0) return true;
    BlockPlace place = log_.make_room(buffer_.count());
    const auto block = buffer_.finish(place.header);
    if (log_.write(place, block)) {
      log_end_ = place.header.end();
      buffer_.clear();
      return true;
    }
    end_with(log_.device().error());
    return false;
  }

  /// Ends the archive.
  void end_with(const char* why) noexcept {
    std::snprintf(why_.data(), why_.size(), "the archive cannot be written: %s", why);
    stats_.lost += buffer_.count();
    buffer_.clear();
  }

  /// After BlockLog::open().
  void opened(std::uint64_t damaged, bool read_only) noexcept {
    stats_.damaged = damaged;
    log_end_ = log_.empty() ? 0 : log_.newest().end();
    read_only_ = read_only;
  }

  BlockLog<Device>& log() noexcept { return log_; }
  const BlockLog<Device>& log() const noexcept { return log_; }
  void add_seconds(double seconds) noexcept { stats_.seconds += seconds; }

 private:
  /// Sets the cursor to a block that does not lie behind the position. False if there is none.
  bool seek(std::uint64_t position) noexcept {
    if (log_.empty() || position >= log_end_) return false;
    const bool valid = cursor_.header.count != 0 && cursor_.header.number >= log_.oldest().header.number &&
                       cursor_.header.first <= position;
    if (!valid) cursor_ = log_.oldest();
    return true;
  }

  void assign(Block& block, std::uint64_t position, std::uint64_t first, std::size_t count, bool pinned) {
    const std::size_t skip = position > first ? static_cast<std::size_t>(position - first) : 0;
    block.assign(rows_, log_.layout(), first, count, pinned, skip);
  }

  void remember_damage(std::uint64_t number) {
    const auto at = std::lower_bound(damaged_.begin(), damaged_.end(), number);
    if (at == damaged_.end() || *at != number) damaged_.insert(at, number);
  }

  ArchiveSettings settings_;
  std::shared_ptr<const ArchiveRows> rows_;  // blocks that were read share it
  Arena arena_;
  BlockLog<Device> log_;
  BlockBuffer buffer_;
  std::uint64_t log_end_ = 0;  // position after the newest block
  BlockPlace cursor_;          // of the last block read
  ArchiveStats stats_;
  std::vector<std::uint64_t> damaged_;  // numbers of blocks whose payload was found damaged, ascending
  std::array<char, 160> why_{};
  bool read_only_ = false;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
