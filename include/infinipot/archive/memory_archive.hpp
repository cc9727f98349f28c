// An archive in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "infinipot/archive/archive_settings.hpp"
#include "infinipot/archive/log_archive.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {

/// Memory as a device of BlockLog. Precondition: all that is read and written lies within.
class MemoryDevice {
 public:
  explicit MemoryDevice(std::span<std::byte> memory) noexcept : memory_(memory) {}

  std::uint64_t size() const noexcept { return memory_.size(); }
  bool read(std::uint64_t at, std::span<std::byte> bytes) const noexcept {
    std::memcpy(bytes.data(), memory_.data() + at, bytes.size());
    return true;
  }
  bool write(std::uint64_t at, std::span<const std::byte> bytes) noexcept {
    std::memcpy(memory_.data() + at, bytes.data(), bytes.size());
    return true;
  }
  const char* error() const noexcept { return "the memory failed"; }

 private:
  std::span<std::byte> memory_;
};

}  // namespace detail

/// An Archive in memory of its own: ArchiveSettings::limit bytes, allocated once. When they are full, the
/// oldest blocks make room. It never ends.
class MemoryArchive : public detail::LogArchive<detail::MemoryDevice> {
 public:
  /// Throws std::invalid_argument for settings out of range, or if the limit is too small for the block that
  /// is being filled and two others; std::bad_alloc.
  explicit MemoryArchive(ArchiveSettings settings)
      : MemoryArchive(parts(detail::checked_archive(std::move(settings)))) {}

  MemoryArchive(MemoryArchive&&) noexcept = default;
  MemoryArchive& operator=(MemoryArchive&&) noexcept = default;

 private:
  explicit MemoryArchive(detail::ArchiveParts&& parts)
      : LogArchive(std::move(parts), detail::MemoryDevice(parts.memory), 0, parts.memory.size()) {}

  static detail::ArchiveParts parts(ArchiveSettings&& checked) {
    const std::uint64_t limit = checked.limit;
    if (limit == 0) detail::invalid("an archive in memory needs a limit: the bytes that it may take");
    if (limit > (std::numeric_limits<std::size_t>::max)())
      detail::invalid("an archive of ", limit, " bytes is too large for memory");
    detail::ArchiveParts parts = detail::archive_parts(std::move(checked), 0);
    const std::uint64_t taken = parts.arena.bytes(),
                        least = taken + 2 * parts.layout.bytes(parts.settings.block);
    if (limit < least)
      detail::invalid("an archive of ", limit, " bytes is too small: the block that is being filled and two ",
                      "others, of ", parts.settings.block, " entries each, take ", least,
                      "; give it more, or make its blocks smaller");
    const auto blocks =
        static_cast<std::size_t>(limit - taken) / detail::block_alignment * detail::block_alignment;
    parts.memory_slot = parts.arena.reserve<std::byte>(blocks);
    parts.allocate();
    return parts;
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
