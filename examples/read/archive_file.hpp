// The file of --archive.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "infinipot/archive.hpp"
#include "infinipot/archive/archive_settings.hpp"
#include "infinipot/archive/file_archive.hpp"
#include "infinipot/pot/quantized_pot.hpp"
#include "options.hpp"
#include "report.hpp"

namespace reading {

/// Measures what codes need to know about a model's keys.
using MakeChannels = std::function<infinipot::KeyChannels()>;

class ArchiveFile {
 public:
  /// The archive that the options name: of a program that reads documents a new one or, to be gone on with,
  /// the one that is there; else that, to be asked alone. `model` has the model's shape, rope and
  /// fingerprint. `channels` is called for a new one with codes only. Throws UsageError for one that is not
  /// there, of another model, of another type or limit than the options say, without rows if `rows` is
  /// false and it has some, and that cannot be read or written.
  ArchiveFile(const Options& options, const infinipot::ArchiveSettings& model, bool rows,
              const MakeChannels& channels);

  infinipot::FileArchive& file() { return file_; }
  bool writes() const { return writes_; }
  std::string type() const;  ///< as --archive-type has it

  /// Writes what is in memory alone, so that it outlives this program, at most once a second.
  void flush_now_and_then();
  void flush();
  void sync();  ///< so that it outlives a loss of power

  /// What is to be said of it, the first time only, once it has ended.
  std::optional<std::string> warning();

  ArchiveReport report() const;

 private:
  std::string path_;
  bool writes_;
  infinipot::FileArchive file_;
  std::chrono::steady_clock::time_point flushed_ = std::chrono::steady_clock::now();
  bool warned_ = false;
};

/// What recalls read of an archive: all of it, or its entries before `to`. It ends where the archive does.
class ArchiveView {
 public:
  using Block = infinipot::FileArchive::Block;

  /// The archive must outlive the object.
  explicit ArchiveView(infinipot::FileArchive& archive, std::uint64_t to = UINT64_MAX)
      : archive_(archive), to_(to) {}

  infinipot::Shape shape() const { return archive_.shape(); }
  bool has_rows() const { return archive_.has_rows(); }
  std::uint64_t end() const { return archive_.end(); }
  void append(std::span<const infinipot::Entry>, const infinipot::RowSource&) noexcept {}
  bool read(std::uint64_t position, Block& block) { return position < to_ && archive_.read(position, block); }

 private:
  infinipot::FileArchive& archive_;
  std::uint64_t to_;
};

static_assert(infinipot::Archive<ArchiveView>);

/// The first entries of an archive: those that are pinned, and at least as many as a reader has sinks. A
/// reader that goes on from them has older entries in front of what it reads next, and so can recall.
struct ArchiveBeginning {
  bool pinned = false;    ///< whether the first one is
  std::uint64_t end = 0;  ///< one after the last one's position
};

ArchiveBeginning beginning_of(infinipot::FileArchive& archive, std::size_t sinks);

}  // namespace reading
