// Archives in files. POSIX.
//
// A file of version 1 is little-endian and aligned, so that a mapped file can be read in place:
//   header   "infinarc", version u32, bytes of the header u32, type u32 (ArchiveType), RoPE pairing u32,
//            bytes of the fingerprint u32; layers, query_heads, kv_heads, head_dim, value channels, block,
//            first channel that RoPE turns, limit, number of RoPE frequencies u64; attention factor f64;
//            frequencies f64; centres, then spreads of the key channels f32, if there are any (as many as
//            fill the header); fingerprint; CRC-32 u32 of all that
//   blocks   in text order, each at a multiple of 64 bytes (archive/block_header.hpp)
// With a limit, blocks wrap around and overwrite the oldest: a block of the next number stands after this
// one, or right after the header. The newest block's header says which is the oldest one that is still valid.
#pragma once

#if __has_include(<unistd.h>)

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/archive/archive_header.hpp"
#include "infinipot/archive/archive_settings.hpp"
#include "infinipot/archive/file_device.hpp"
#include "infinipot/archive/log_archive.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/stopwatch.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What an archive's file is opened for.
enum class Access : std::uint8_t { read, append };

/// What a flush() makes safe against.
enum class Durability : std::uint8_t {
  process,  ///< the end of this program, by kill -9 too: everything is with the operating system
  power     ///< the loss of power: the disk says that it has everything
};

/// What a file says of itself.
struct ArchiveInfo {
  ArchiveSettings settings;
  ArchiveStats stats;
};

/// An Archive in a file. One program writes it, or several read it.
///
/// What append() takes goes to the operating system when a block is full; until then, up to
/// ArchiveSettings::block - 1 entries are in this program's memory alone. They survive its sudden end only
/// after flush(), and a loss of power only after flush(Durability::power); nothing else is promised of what
/// came since the last one. A block that was cut short by such an end is dropped when the file is opened.
///
/// If the file cannot be written, such as on a full disk, the archive ends: why() says so, what could not be
/// written is counted in stats().lost, and what stands in the file can still be read.
class FileArchive : public detail::LogArchive<detail::FileDevice> {
 public:
  /// A new file. Throws std::runtime_error if there is one, or if it cannot be written;
  /// std::invalid_argument for settings out of range, or a limit too small for two blocks; std::bad_alloc.
  static FileArchive create(const std::string& path, ArchiveSettings settings) {
    settings = detail::checked_archive(std::move(settings));
    std::vector<std::byte> header = detail::archive_header_bytes(settings);
    const auto id = detail::archive_id(header);
    header.resize(static_cast<std::size_t>(detail::block_aligned(header.size())));
    detail::ArchiveParts parts = make_parts(path, std::move(settings), id, header.size(), Access::append);
    detail::FileDevice device(path, detail::FileDevice::Mode::create);
    if (!device.write(0, header)) {
      const std::string error = device.error();
      ::unlink(path.c_str());
      detail::fail("infinipot: ", path, " cannot be written: ", error);
    }
    device.sync();
    detail::sync_folder(path);
    return {std::move(parts), std::move(device), header.size()};
  }

  /// A file that exists, of the model that `expected` describes by shape, rope and fingerprint; the others of
  /// settings() are the file's. A block that was cut short at its end is counted in stats().damaged, and if
  /// the file is to be appended to, removed. Throws std::runtime_error if the file cannot be opened or is in
  /// use; std::invalid_argument if it is no archive, of another version, damaged in its header, or of another
  /// model; std::bad_alloc.
  static FileArchive open(const std::string& path, const ArchiveSettings& expected,
                          Access access = Access::append) {
    return open(path, &expected, access);
  }

  /// What a file holds, whatever model it is of. Throws as open() does.
  static ArchiveInfo inspect(const std::string& path) {
    const FileArchive archive = open(path, nullptr, Access::read);
    return {archive.settings(), archive.stats()};
  }

  FileArchive(FileArchive&&) noexcept = default;
  FileArchive& operator=(FileArchive&& other) noexcept {
    FileArchive old(std::move(*this));
    LogArchive::operator=(std::move(other));
    return *this;
  }

  /// Flushes (Durability::process).
  ~FileArchive() {
    if (log().device().is_open()) flush();
  }

  /// Writes the entries that are in memory alone, as a block of their own. False if the archive has ended,
  /// now or before; then why() says why.
  bool flush(Durability durability = Durability::process) noexcept {
    const detail::Stopwatch stopwatch;
    bool done = write_block();
    if (done && durability == Durability::power && !log().device().sync()) {
      end_with(log().device().error());
      done = false;
    }
    add_seconds(stopwatch.seconds());
    return done;
  }

 private:
  FileArchive(detail::ArchiveParts&& parts, detail::FileDevice device, std::uint64_t begin)
      : LogArchive(std::move(parts), std::move(device), begin, end_of(parts.settings.limit)) {}

  /// Of the bytes that blocks may take.
  static std::uint64_t end_of(std::uint64_t limit) noexcept {
    return (limit == 0 ? ~std::uint64_t{0} : limit) / detail::block_alignment * detail::block_alignment;
  }

  static detail::ArchiveParts make_parts(const std::string& path, ArchiveSettings&& checked, std::uint32_t id,
                                         std::uint64_t header_bytes, Access access) {
    detail::ArchiveParts parts = detail::archive_parts(std::move(checked), id);
    const std::uint64_t limit = parts.settings.limit,
                        least = header_bytes + 2 * parts.layout.bytes(parts.settings.block);
    if (limit != 0 && end_of(limit) < least)
      detail::invalid("the archive ", path, " with a limit of ", limit, " bytes is too small: two blocks of ",
                      parts.settings.block, " entries take ", detail::block_aligned(least),
                      "; give it more, or make its blocks smaller");
    if (access == Access::append) parts.allocate();
    return parts;
  }

  static FileArchive open(const std::string& path, const ArchiveSettings* expected, Access access) {
    using Mode = detail::FileDevice::Mode;
    detail::FileDevice device(path, access == Access::read ? Mode::read : Mode::append);
    std::vector<std::byte> header(detail::archive_preamble_bytes);
    const auto read = [&] {
      if (device.size() < header.size() || !device.read(0, header))
        detail::invalid(path, " is not an archive: it has only ", device.size(), " bytes, or cannot be read");
    };
    read();
    header.resize(detail::archive_header_size(header, device.size(), path));
    read();
    ArchiveSettings settings = detail::read_archive_header(header, path);
    if (expected != nullptr) detail::check_same_model(settings, *expected, path);
    const std::uint64_t begin = detail::block_aligned(header.size());
    detail::ArchiveParts parts = make_parts(path, detail::checked_archive(std::move(settings)),
                                            detail::archive_id(header), begin, access);
    FileArchive archive(std::move(parts), std::move(device), begin);
    archive.find_blocks(access);
    return archive;
  }

  void find_blocks(Access access) {
    const auto damage = log().open();
    opened(damage.blocks, access == Access::read);
    if (access == Access::read) return;
    detail::FileDevice& device = log().device();
    if (device.size() > damage.keep_bytes) device.cut(damage.keep_bytes);
    for (const std::uint64_t at : damage.torn)
      if (at < device.size()) device.erase_header(at);
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE

#endif
