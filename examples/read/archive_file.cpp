#include "archive_file.hpp"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <utility>

#include "option_checks.hpp"

namespace reading {
namespace {

using infinipot::ArchiveSettings;
using infinipot::ArchiveType;
using infinipot::FileArchive;

constexpr std::pair<ArchiveType, const char*> types[] = {{ArchiveType::codes8, "int8"},
                                                         {ArchiveType::codes4, "int4"},
                                                         {ArchiveType::float16, "f16"},
                                                         {ArchiveType::float32, "f32"},
                                                         {ArchiveType::tokens, "tokens"}};

std::string name_of(ArchiveType type) {
  return std::ranges::find(types, type, &std::pair<ArchiveType, const char*>::first)->second;
}

ArchiveType type_of(const std::string& name) {
  return std::ranges::find_if(types, [&](const auto& type) { return type.second == name; })->first;
}

[[noreturn]] void refuse(const std::string& why) { throw UsageError("--archive: " + why); }

/// Ids alone are the same whatever turns the keys.
ArchiveSettings of_type(ArchiveSettings settings, ArchiveType type) {
  settings.type = type;
  if (type == ArchiveType::tokens) settings.rope = {};
  return settings;
}

FileArchive create(const Options& options, const ArchiveSettings& model, bool rows,
                   const MakeChannels& channels) {
  const std::string usual = rows ? "int8" : "tokens";
  ArchiveSettings settings =
      of_type(model, type_of(options.archive_type.empty() ? usual : options.archive_type));
  settings.limit = options.archive_limit;
  if (settings.type == ArchiveType::codes8 || settings.type == ArchiveType::codes4)
    settings.channels = channels();
  return FileArchive::create(options.archive, std::move(settings));
}

FileArchive open(const Options& options, const ArchiveSettings& model, bool rows, bool writes) {
  const ArchiveSettings found = FileArchive::inspect(options.archive).settings;
  const std::string type = name_of(found.type), &path = options.archive;
  if (!options.archive_type.empty() && type != options.archive_type)
    throw UsageError("--archive-type " + options.archive_type + ": " + path + " is of type " + type);
  if (!rows && found.type != ArchiveType::tokens)
    refuse(path + " is of type " + type + ", but this program's cache cannot be written by rows: it needs " +
           "one of tokens");
  if (options.archive_limit > 0 && options.archive_limit != found.limit)
    throw UsageError("--archive-limit: " + path + " has " +
                     (found.limit > 0 ? "a limit of " + std::to_string(found.limit) + " bytes" : "no limit") +
                     ", which stays");
  return FileArchive::open(path, of_type(model, found.type),
                           writes ? infinipot::Access::append : infinipot::Access::read);
}

FileArchive create_or_open(const Options& options, const ArchiveSettings& model, bool rows, bool writes,
                           const MakeChannels& channels) try {
  const std::string& path = options.archive;
  std::error_code error;
  if (std::filesystem::exists(path, error)) return open(options, model, rows, writes);
  if (!writes) refuse(path + " does not exist; to make one, name a --document to read");
  return create(options, model, rows, channels);
} catch (const UsageError&) {
  throw;
} catch (const std::bad_alloc&) {
  throw;
} catch (const std::exception& error) {
  refuse(without_library(error.what()));
}

}  // namespace

ArchiveFile::ArchiveFile(const Options& options, const infinipot::ArchiveSettings& model, bool rows,
                         const MakeChannels& channels)
    : path_(options.archive),
      writes_(reads_documents(options)),
      file_(create_or_open(options, model, rows, writes_, channels)) {}

std::string ArchiveFile::type() const { return name_of(file_.settings().type); }

void ArchiveFile::flush_now_and_then() {
  const auto now = std::chrono::steady_clock::now();
  if (now - flushed_ >= std::chrono::seconds(1)) flush();
}

void ArchiveFile::sync() {
  if (writes_) file_.flush(infinipot::Durability::power);
}

void ArchiveFile::flush() {
  if (writes_) file_.flush();
  flushed_ = std::chrono::steady_clock::now();
}

std::optional<std::string> ArchiveFile::warning() {
  if (!writes_ || !file_.ended() || std::exchange(warned_, true)) return std::nullopt;
  return "--archive: " + path_ + ": " + std::string(file_.why()) + "; what is read from now on is not in it";
}

ArchiveReport ArchiveFile::report() const {
  const infinipot::ArchiveStats stats = file_.stats();
  return {stats.entries, stats.bytes, stats.seconds, std::string(file_.why())};
}

ArchiveBeginning beginning_of(infinipot::FileArchive& archive, std::size_t sinks) {
  ArchiveBeginning beginning;
  infinipot::FileArchive::Block block;
  for (std::size_t entries = 0; archive.read(beginning.end, block);)
    for (const infinipot::Entry& entry : block.entries()) {
      if (entries == 0) beginning.pinned = entry.pinned;
      if (!entry.pinned && entries >= std::max<std::size_t>(sinks, 1)) return beginning;
      ++entries;
      beginning.end = entry.position + 1;
    }
  return beginning;
}

}  // namespace reading
