// Archives whose files were damaged, cut short, or whose writer was killed: what is read back was archived,
// and nothing is lost but what stood there.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "archive_folder.hpp"
#include "archive_trial.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"

namespace {

using namespace archives;
using infinipot::Access;
using infinipot::FileArchive;

/// A small model, so that every byte can be tried.
ArchiveSettings small(ArchiveType type, std::uint64_t limit = 0) {
  return {.shape = {1, 1, 1, 3}, .rope = infinipot::plain_rope(2), .type = type, .block = 3, .limit = limit};
}

std::uint64_t small_limit(ArchiveType type) { return type == ArchiveType::tokens ? 700 : 1300; }

/// Blocks of three, two and one.
template <class A>
void fill(A& archive, std::uint64_t count) {
  for (std::uint64_t at = archive.end(); at < count;) {
    const std::uint64_t n = std::min<std::uint64_t>(at % 4 + 1, count - at);
    append(archive, at, at + n);
    if (at % 3 == 1) archive.flush();
    at += n;
  }
}

/// Opens a file, whatever has become of it. What it holds, checked; nothing if it is refused.
struct Opened {
  bool refused = false;
  std::vector<std::uint64_t> positions;
  infinipot::ArchiveStats stats;
};

Opened opened(const std::string& path, const ArchiveSettings& s, Access access) {
  Opened result;
  try {
    FileArchive archive = FileArchive::open(path, s, access);
    result.positions = read_all(archive);
    if (access == Access::append) {
      const std::uint64_t end = archive.end();
      append(archive, end, end + 4);
      EXPECT_TRUE(archive.flush());
      const auto more = read_all(archive, end);
      EXPECT_EQ(more, range(end, end + 4)) << "what comes afterwards is held";
    }
    result.stats = archive.stats();
  } catch (const std::invalid_argument&) {
    result.refused = true;
  }
  return result;
}

std::size_t missing(const std::vector<std::uint64_t>& all, const std::vector<std::uint64_t>& of) {
  std::vector<std::uint64_t> gone;
  std::ranges::set_difference(all, of, std::back_inserter(gone));
  return gone.size();
}

TEST(DamagedArchive, LosesTheBlockWhereAByteIsWrongAndNoOther) {
  const Folder folder;
  const std::string path = folder.file("a"), other = folder.file("b");
  for (const ArchiveType type : {ArchiveType::float32, ArchiveType::codes8, ArchiveType::tokens})
    for (const std::uint64_t limit : {std::uint64_t{0}, small_limit(type)}) {
      std::filesystem::remove(path);
      const ArchiveSettings s = small(type, limit);
      std::vector<std::uint64_t> held;
      {
        FileArchive archive = FileArchive::create(path, s);
        fill(archive, 23);
        ASSERT_TRUE(archive.flush());
        held = read_all(archive);
        ASSERT_EQ(archive.stats().dropped > 0, limit != 0);
      }
      const std::string file = content(path);
      std::size_t refused = 0, damaged = 0;
      for (std::size_t at = 0; at < file.size(); ++at)
        for (const char flip : {'\x01', '\xFF'}) {
          std::string changed = file;
          changed[at] = static_cast<char>(changed[at] ^ flip);
          for (const Access access : {Access::read, Access::append}) {
            write(other, changed);
            const Opened found = opened(other, s, access);
            refused += found.refused ? 1 : 0;
            if (found.refused) continue;
            const std::size_t lost = missing(held, found.positions);
            ASSERT_LE(lost, 3U) << "byte " << at;
            damaged += found.stats.damaged;
            ASSERT_GE(found.stats.damaged, lost == 0 ? 0U : 1U) << "byte " << at;
            ASSERT_LE(found.stats.damaged, 1U) << "byte " << at;
          }
        }
      EXPECT_GT(refused, 100U);
      EXPECT_LT(refused, 4 * 192U);
      EXPECT_GT(damaged, file.size());
    }
}

TEST(DamagedArchive, CutShortLosesWhatWasCutOff) {
  const Folder folder;
  const std::string path = folder.file("a"), other = folder.file("b");
  for (const ArchiveType type : {ArchiveType::codes4, ArchiveType::tokens})
    for (const std::uint64_t limit : {std::uint64_t{0}, std::uint64_t{1U << 16U}}) {
      std::filesystem::remove(path);
      const ArchiveSettings s = small(type, limit);
      std::vector<std::pair<std::size_t, std::uint64_t>> flushed;  // size of the file, entries
      {
        FileArchive archive = FileArchive::create(path, s);
        for (std::uint64_t end = 0;; end += 2) {
          archive.flush();
          flushed.emplace_back(std::filesystem::file_size(path), end);
          if (end == 14) break;
          append(archive, end, end + 2);
        }
      }
      const std::string file = content(path);
      for (std::size_t size = 0; size < file.size(); ++size)
        for (const Access access : {Access::read, Access::append}) {
          write(other, std::string_view(file).substr(0, size));
          const Opened found = opened(other, s, access);
          if (size < flushed.front().first) {
            // Zeros at the header's end may be missing.
            EXPECT_TRUE(found.refused || found.positions.empty());
            continue;
          }
          ASSERT_FALSE(found.refused) << size;
          auto last = std::ranges::upper_bound(flushed, size, {}, [](const auto& x) { return x.first; });
          --last;
          ASSERT_EQ(found.positions, range(0, last->second)) << size;
          ASSERT_EQ(found.stats.damaged, size == last->first ? 0U : 1U) << size;
        }
    }
}

/// The bytes after a block was written in part: the first `part` of those that changed (or the last) are new.
std::string torn(const std::string& before, const std::string& after, double part, bool first) {
  std::size_t from = 0, to = after.size();
  while (from < before.size() && from < after.size() && before[from] == after[from]) ++from;
  while (to > from && to <= before.size() && before[to - 1] == after[to - 1]) --to;
  const auto cut = from + static_cast<std::size_t>(part * static_cast<double>(to - from));
  std::string file = before;
  if (first) {
    file.resize(std::max(before.size(), cut));
    std::copy(after.begin() + static_cast<std::ptrdiff_t>(from),
              after.begin() + static_cast<std::ptrdiff_t>(cut),
              file.begin() + static_cast<std::ptrdiff_t>(from));
  } else {
    file.resize(std::max(before.size(), to));
    std::copy(after.begin() + static_cast<std::ptrdiff_t>(cut),
              after.begin() + static_cast<std::ptrdiff_t>(to),
              file.begin() + static_cast<std::ptrdiff_t>(cut));
  }
  return file;
}

TEST(DamagedArchive, ABlockWrittenInPartLosesItselfAndWhatItOverwrote) {
  const Folder folder;
  const std::string path = folder.file("a"), other = folder.file("b");
  for (const ArchiveType type : {ArchiveType::codes8, ArchiveType::tokens})
    for (const std::uint64_t limit : {std::uint64_t{0}, small_limit(type)}) {
      std::filesystem::remove(path);
      const ArchiveSettings s = small(type, limit);
      FileArchive archive = FileArchive::create(path, s);
      std::string before = content(path);
      std::vector<std::uint64_t> held;
      for (std::uint64_t end = 0; end < 60;) {
        const std::uint64_t n = end % 3 + 1;
        append(archive, end, end + n);
        ASSERT_TRUE(archive.flush());
        end += n;
        const std::string after = content(path);
        const auto now = read_all(archive);
        // What the block before it left, without what this one drops.
        std::vector<std::uint64_t> certain;
        std::ranges::set_intersection(held, now, std::back_inserter(certain));
        for (double part = 0; part < 1; part += 0.07)
          for (const bool first : {true, false})
            for (const Access access : {Access::read, Access::append}) {
              write(other, torn(before, after, part, first));
              const Opened found = opened(other, s, access);
              ASSERT_FALSE(found.refused);
              ASSERT_EQ(missing(certain, found.positions), 0U) << end << ' ' << part << ' ' << first;
            }
        before = after;
        held = now;
      }
    }
}

TEST(DamagedArchive, OtherArchivesBlocksAreNotTaken) {
  const Folder folder;
  const std::string path = folder.file("a"), other = folder.file("b");
  ArchiveSettings s = small(ArchiveType::codes8);
  const auto make = [&](const std::string& at, std::uint64_t count) {
    FileArchive archive = FileArchive::create(at, s);
    append(archive, 0, count);
  };
  make(path, 3);
  s.fingerprint = "other";
  make(other, 9);
  const std::string file = content(path), foreign = content(other);
  write(path, file + foreign.substr(file.size()));
  s.fingerprint = "";
  FileArchive archive = FileArchive::open(path, s);
  EXPECT_EQ(read_all(archive), range(0, 3));
  EXPECT_EQ(archive.stats().damaged, 1U);
  EXPECT_EQ(content(path), file) << "removed";
}

/// Archives until it is killed, in blocks of 60 KB. Says after each flush what is safe.
[[noreturn]] void archive_forever(const std::string& path, const ArchiveSettings& s, int pipe,
                                  std::uint64_t seed) {
  struct Plain final : infinipot::RowSource {
    std::span<const Entry> entries;
    void key(std::size_t, std::size_t, std::size_t i, float* key) const noexcept override {
      std::fill_n(key, 512, static_cast<float>(entries[i].position));
    }
    void value(std::size_t, std::size_t, std::size_t i, float* value) const noexcept override {
      std::fill_n(value, 512, -static_cast<float>(entries[i].position));
    }
  } rows;
  FileArchive archive = FileArchive::open(path, s);
  reference::Random random(seed);
  for (;;) {
    const auto entries = entries_of(archive.end(), archive.end() + 1 + random.below(40));
    rows.entries = entries;
    archive.append(entries, rows);
    if (random.below(4) != 0) continue;
    const std::uint64_t end = archive.end();
    if (!archive.flush() || write(pipe, &end, sizeof end) != sizeof end) _exit(1);
  }
}

bool is_plain(const StoredBlock& block, std::size_t i) {
  std::vector<float> row(512);
  const auto position = static_cast<float>(block.entries()[i].position);
  const Entry archived = entry_of(block.entries()[i].position);
  const auto all = [&](float x) {
    return std::ranges::all_of(row, [x](float y) { return !(y < x || y > x); });
  };
  block.key(0, 0, i, row.data());
  if (!all(position) || block.entries()[i].token != archived.token) return false;
  block.value(0, 0, i, row.data());
  return all(-position);
}

void kill_a_hundred_times(std::uint64_t limit) {
  const Folder folder;
  const std::string path = folder.file("a");
  const ArchiveSettings s{.shape = {1, 1, 1, 512}, .type = ArchiveType::float32, .block = 15, .limit = limit};
  constexpr std::uint64_t entry_bytes = 4096 + 8, block_bytes = 15 * entry_bytes + 128;
  reference::Random random(limit);
  std::uint64_t torn = 0;
  for (std::uint64_t round = 0; round < 100; ++round) {
    if (round % 10 == 0) {
      std::filesystem::remove(path);
      FileArchive::create(path, s);
    }
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe[0]);
      archive_forever(path, s, pipe[1], round);
    }
    close(pipe[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(500 + random.below(15000)));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer failed";
    std::uint64_t flushed = 0, end = 0;
    while (read(pipe[0], &end, sizeof end) == sizeof end) flushed = end;
    close(pipe[0]);

    FileArchive archive = FileArchive::open(path, s);
    torn += archive.stats().damaged;
    ASSERT_GE(archive.end(), flushed);
    ASSERT_LE(archive.stats().damaged, 1U);
    StoredBlock block;
    std::uint64_t position = 0, held = 0;
    while (archive.read(position, block)) {
      ASSERT_TRUE(position == block.entries().front().position || held == 0) << "a gap at " << position;
      for (std::size_t i = 0; i < block.entries().size(); ++i) ASSERT_TRUE(is_plain(block, i)) << position;
      held += block.entries().size();
      position = block.entries().back().position + 1;
    }
    ASSERT_EQ(position, archive.end());
    // All of it, or as much as the limit has room for, without what the block that was cut short overwrote.
    const std::uint64_t room = limit == 0 ? position : (limit - 4 * block_bytes) / (entry_bytes + 192);
    ASSERT_GE(held, std::min(position, room));
  }
  std::printf("blocks cut short: %d of 100\n", static_cast<int>(torn));
}

TEST(KilledArchive, HoldsWhatWasFlushed) { kill_a_hundred_times(0); }
TEST(KilledArchive, HoldsWhatWasFlushedWithinItsLimit) { kill_a_hundred_times(1500000); }

}  // namespace
