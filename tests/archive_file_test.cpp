#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "archive_folder.hpp"
#include "archive_trial.hpp"
#include "expect_invalid.hpp"
#include "infinipot/archive/file_archive.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"

namespace {

using namespace archives;
using infinipot::Access;
using infinipot::Durability;
using infinipot::FileArchive;

static_assert(Archive<FileArchive>);
static_assert(!std::is_copy_constructible_v<FileArchive>);

/// What f throws, in words.
template <class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing thrown";
}

template <class F>
void expect_error(const F& f, const std::vector<std::string>& parts) {
  const std::string message = error_of(f);
  for (const auto& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "no \"" << part << "\" in \"" << message << '"';
}

TEST(FileArchive, GoesOnWhereItStopped) {
  const Folder folder;
  for (const ArchiveType type : all_types) {
    const std::string path = folder.file("type" + std::to_string(static_cast<int>(type)));
    ArchiveSettings s = settings(type);
    s.channels = infinipot::plain_key_channels(shape);
    s.channels.centre[3] = 2;
    FileArchive::create(path, s);
    std::uint64_t end = 0;
    // Nothing, a part of a block, what fills it, whole blocks, then pinned.
    for (const std::uint64_t more : {0U, 3U, 5U, 1U, 16U, 8U, 0U, 7U}) {
      FileArchive archive = FileArchive::open(path, s);
      ASSERT_EQ(archive.end(), end);
      ASSERT_EQ(archive.settings().channels.centre[3], 2);
      append(archive, end, end + more, more == 7);
      end += more;
      ASSERT_EQ(read_all(archive), range(0, end));
      ASSERT_EQ(archive.stats().damaged, 0U);
    }
    FileArchive archive = FileArchive::open(path, s, Access::read);
    EXPECT_EQ(read_all(archive), range(0, end));
    EXPECT_EQ(archive.stats().entries, end);
    StoredBlock block;
    ASSERT_TRUE(archive.read(end - 1, block));
    EXPECT_TRUE(block.entries().back().pinned);
  }
}

TEST(FileArchive, FlushesWhatIsInMemoryAlone) {
  const Folder folder;
  const std::string path = folder.file("a");
  FileArchive archive = FileArchive::create(path, settings(ArchiveType::codes8));
  const auto empty = std::filesystem::file_size(path);
  append(archive, 0, 7);
  EXPECT_EQ(std::filesystem::file_size(path), empty);
  EXPECT_EQ(archive.stats().entries, 7U);
  EXPECT_TRUE(archive.flush());
  const auto one = std::filesystem::file_size(path);
  EXPECT_GT(one, empty);
  EXPECT_TRUE(archive.flush(Durability::power));
  EXPECT_EQ(std::filesystem::file_size(path), one);
  append(archive, 7, 15);
  EXPECT_GT(std::filesystem::file_size(path), one) << "a full block is written at once";
  EXPECT_EQ(read_all(archive), range(0, 15));
  EXPECT_GT(archive.stats().seconds, 0);
  EXPECT_EQ(archive.stats().bytes + empty, std::filesystem::file_size(path));
}

template <class T>
T number_at(std::string_view file, std::size_t at) {
  T number;
  std::memcpy(&number, file.substr(at, sizeof number).data(), sizeof number);
  return number;
}

std::uint32_t crc_of(std::string_view bytes) {
  infinipot::detail::Crc32 crc;
  crc.add(std::as_bytes(std::span(bytes)));
  return crc.value();
}

// Read by nothing but the description in file_archive.hpp.
TEST(FileArchive, IsLaidOutAsDescribed) {
  const Folder folder;
  const std::string path = folder.file("a");
  ArchiveSettings s = settings(ArchiveType::float32, 4, 100000);
  s.channels = infinipot::plain_key_channels(shape);
  {
    FileArchive archive = FileArchive::create(path, s);
    append(archive, 5, 9);
    append(archive, 9, 12, true);
  }
  const std::string file = content(path);
  EXPECT_EQ(file.substr(0, 8), "infinarc");
  EXPECT_EQ(number_at<std::uint32_t>(file, 8), 1U);
  const auto header = number_at<std::uint32_t>(file, 12);
  EXPECT_EQ(number_at<std::uint32_t>(file, 16), 0U) << "type";
  EXPECT_EQ(number_at<std::uint32_t>(file, 20), 0U) << "pairing";
  EXPECT_EQ(number_at<std::uint32_t>(file, 24), s.fingerprint.size());
  const std::uint64_t numbers[] = {2, 4, 2, 36, 36, 4, 0, 100000, 16};
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(number_at<std::uint64_t>(file, 28 + 8 * i), numbers[i]) << i;
  EXPECT_EQ(number_at<double>(file, 100), 1.0);
  for (std::size_t i = 0; i < 16; ++i)
    EXPECT_EQ(number_at<double>(file, 108 + 8 * i), s.rope.frequencies[i]) << i;
  const std::size_t channels = 108 + 8 * 16;
  for (std::size_t i = 0; i < 144; ++i) {
    EXPECT_EQ(number_at<float>(file, channels + 4 * i), 0.0F);
    EXPECT_EQ(number_at<float>(file, channels + 4 * (144 + i)), 1.0F);
  }
  EXPECT_EQ(file.substr(channels + 8 * 144, 7), "a model");
  EXPECT_EQ(header, channels + 8 * 144 + 7 + 4);
  const auto id = number_at<std::uint32_t>(file, header - 4);
  EXPECT_EQ(id, crc_of(std::string_view(file).substr(0, header - 4)));

  constexpr std::size_t entry = 2 * 2 * 2 * 36 * sizeof(float);
  std::size_t at = (header + 63) / 64 * 64;
  for (std::uint32_t number = 0; number < 2; ++number) {
    const std::uint32_t count = number == 0 ? 4 : 3;
    const std::string_view block = std::string_view(file).substr(at);
    EXPECT_EQ(block.substr(0, 4), "iblk");
    EXPECT_EQ(number_at<std::uint32_t>(block, 4), id);
    EXPECT_EQ(number_at<std::uint64_t>(block, 8), number);
    EXPECT_EQ(number_at<std::uint64_t>(block, 16), 0U) << "oldest";
    EXPECT_EQ(number_at<std::uint64_t>(block, 24), number == 0 ? 5U : 9U);
    EXPECT_EQ(number_at<std::uint32_t>(block, 32), count);
    EXPECT_EQ(number_at<std::uint32_t>(block, 36), number) << "pinned";
    const auto payload = number_at<std::uint64_t>(block, 40);
    EXPECT_EQ(payload, 64 + count * entry);
    EXPECT_EQ(number_at<std::uint64_t>(block, 48), 0U) << "dropped";
    EXPECT_EQ(number_at<std::uint32_t>(block, 56), crc_of(block.substr(64, payload)));
    EXPECT_EQ(number_at<std::uint32_t>(block, 60), crc_of(block.substr(0, 60)));
    for (std::uint32_t i = 0; i < count; ++i) {
      const Entry archived = entry_of(number * 4 + 5 + i);
      EXPECT_EQ(number_at<Token>(block, 64 + 8 * i), archived.token);
      EXPECT_EQ(number_at<float>(block, 68 + 8 * i), archived.nuc);
      // The value of layer 1, head 0, in (layers, kv_heads, [key, value]).
      EXPECT_EQ(number_at<float>(block, 128 + i * entry + (2 * 2 + 1) * 36 * sizeof(float)),
                value_of(archived.position, 2, 36).front());
    }
    at += (64 + payload + 63) / 64 * 64;
  }
  EXPECT_EQ(at, file.size());
}

TEST(FileArchive, RefusesAnotherModelInWords) {
  const Folder folder;
  const std::string path = folder.file("a");
  FileArchive::create(path, settings(ArchiveType::codes8));
  const auto refused = [&](auto change, const std::vector<std::string>& parts) {
    ArchiveSettings s = settings(ArchiveType::codes4, 100, 77);  // of these the file's are taken
    change(s);
    for (const Access access : {Access::read, Access::append})
      trial::expect_invalid([&] { FileArchive::open(path, s, access); }, parts);
  };
  refused([](ArchiveSettings& s) { s.shape.layers = 3; }, {path, "another shape", "layers 2", "layers 3"});
  refused([](ArchiveSettings& s) { s.rope.pairing = infinipot::Pairing::interleaved; },
          {path, "half_split", "interleaved"});
  refused([](ArchiveSettings& s) { s.rope = infinipot::plain_rope(32, 500000); },
          {path, "other RoPE frequencies"});
  refused([](ArchiveSettings& s) { s.rope = infinipot::plain_rope(36); }, {"(16 of them)", "(18)"});
  refused([](ArchiveSettings& s) { s.rope.attention_factor = 1.25; },
          {path, "attention factor", "1, ", "1.25"});
  refused([](ArchiveSettings& s) { s.fingerprint = "b"; }, {path, "another model", "'a model'", "'b'"});
  const FileArchive archive = FileArchive::open(path, settings(ArchiveType::codes4, 100, 77));
  EXPECT_EQ(archive.settings().type, ArchiveType::codes8);
  EXPECT_EQ(archive.settings().block, 8U);
  EXPECT_EQ(archive.settings().limit, 0U);
}

TEST(FileArchive, RefusesWhatIsNoArchiveInWords) {
  const Folder folder;
  const std::string path = folder.file("a"), other = folder.file("b");
  const ArchiveSettings s = settings(ArchiveType::codes8);
  FileArchive::create(path, s);
  std::string file = content(path);
  const auto refused = [&](const std::string& bytes, const std::vector<std::string>& parts) {
    write(other, bytes);
    trial::expect_invalid([&] { FileArchive::open(other, s); }, parts);
    trial::expect_invalid([&] { FileArchive::inspect(other); }, parts);
    EXPECT_EQ(content(other), bytes);
  };
  refused("", {other, "not an archive", "0 bytes"});
  refused("infin", {other, "not an archive"});
  refused("infinpot and so on, and so on", {other, "not an archive"});
  refused(file.substr(0, 100), {other, "cut short"});
  std::string changed = file;
  changed[8] = 2;
  refused(changed, {other, "version 2", "reads version 1"});
  changed = file;
  changed[50] = 'x';
  refused(changed, {other, "damaged", "checksum"});
  expect_error([&] { FileArchive::open(folder.file("none"), s); },
               {"none", "cannot be opened", "No such file"});
  expect_error([&] { FileArchive::create(path, s); }, {path, "cannot be created", "exists"});
  expect_error([&] { FileArchive::create(folder.file("x") + "/y", s); }, {"cannot be created"});
  expect_error([&] { FileArchive::open("/dev/null", s); }, {"/dev/null is not a file"});
  EXPECT_EQ(content(path), file);
}

TEST(FileArchive, RefusesALimitThatIsTooSmall) {
  const Folder folder;
  const std::string path = folder.file("a");
  trial::expect_invalid([&] { FileArchive::create(path, settings(ArchiveType::codes8, 8, 5000)); },
                        {path, "limit of 5000", "two blocks of 8 entries"});
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(FileArchive, HasOneWriterOrSeveralReaders) {
  const Folder folder;
  const std::string path = folder.file("a");
  const ArchiveSettings s = settings(ArchiveType::codes8);
  {
    FileArchive writer = FileArchive::create(path, s);
    append(writer, 0, 20);
    expect_error([&] { FileArchive::open(path, s); }, {path, "in use"});
    expect_error([&] { FileArchive::open(path, s, Access::read); }, {path, "being written"});
    expect_error([&] { FileArchive::inspect(path); }, {path, "being written"});
  }
  FileArchive reader = FileArchive::open(path, s, Access::read);
  FileArchive other = FileArchive::open(path, s, Access::read);
  expect_error([&] { FileArchive::open(path, s); }, {path, "in use"});
  EXPECT_EQ(read_all(reader), range(0, 20));
  EXPECT_EQ(read_all(other), range(0, 20));

  EXPECT_FALSE(reader.ended());
  append(reader, 20, 23);
  EXPECT_TRUE(reader.ended());
  EXPECT_NE(reader.why().find("opened for reading only"), std::string_view::npos) << reader.why();
  EXPECT_EQ(reader.stats().lost, 3U);
  EXPECT_FALSE(reader.flush());
  EXPECT_EQ(read_all(reader), range(0, 20));
}

TEST(FileArchive, InspectsAnyModel) {
  const Folder folder;
  const std::string path = folder.file("a");
  ArchiveSettings s = settings(ArchiveType::codes4, 5, 20000);
  s.rope.attention_factor = 1.5;
  {
    FileArchive archive = FileArchive::create(path, s);
    append(archive, 0, 300);
  }
  const auto info = FileArchive::inspect(path);
  EXPECT_EQ(info.settings.shape, shape);
  EXPECT_EQ(info.settings.type, ArchiveType::codes4);
  EXPECT_EQ(info.settings.block, 5U);
  EXPECT_EQ(info.settings.limit, 20000U);
  EXPECT_EQ(info.settings.fingerprint, "a model");
  EXPECT_EQ(info.settings.rope.frequencies, s.rope.frequencies);
  EXPECT_EQ(info.settings.rope.attention_factor, 1.5);
  EXPECT_EQ(info.stats.entries + info.stats.dropped, 300U);
  EXPECT_GT(info.stats.dropped, 0U);
}

TEST(FileArchive, StaysWithinItsLimitAndGoesOnThere) {
  const Folder folder;
  for (const ArchiveType type : all_types)
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      const std::string path = folder.file(std::to_string(static_cast<int>(type)) + std::to_string(seed));
      const std::uint64_t limit = (type == ArchiveType::tokens ? 1000 : 24000) + 64 * seed;
      const ArchiveSettings s = settings(type, 4, limit);
      FileArchive archive = FileArchive::create(path, s);
      reference::Random random(seed);
      std::uint64_t position = 0, appended = 0;
      for (int round = 0; round < 60; ++round) {
        const std::uint64_t n = 1 + random.below(6);
        append(archive, position, position + n, random.below(2) == 0);
        position += n + (random.below(3) == 0 ? 1 : 0);
        appended += n;
        if (random.below(2) == 0) {
          ASSERT_TRUE(archive.flush());
          const auto held = read_all(archive);
          { const FileArchive closed(std::move(archive)); }
          archive = FileArchive::open(path, s);
          ASSERT_EQ(read_all(archive), held) << "seed " << seed << ", round " << round;
        }
        const auto stats = archive.stats();
        ASSERT_EQ(stats.entries + stats.dropped, appended);
        ASSERT_EQ(stats.damaged, 0U);
        ASSERT_EQ(read_all(archive).size(), stats.entries);
        ASSERT_LE(std::filesystem::file_size(path), limit);
      }
      EXPECT_GT(archive.stats().dropped, 0U);
    }
}

TEST(FileArchive, HasTheSameBytesHoweverTheyCame) {
  const Folder folder;
  const std::string whole = folder.file("whole"), pieces = folder.file("pieces");
  const ArchiveSettings s = settings(ArchiveType::codes8, 7, 30000);
  {
    FileArchive one = FileArchive::create(whole, s), other = FileArchive::create(pieces, s);
    append(one, 0, 200);
    for (std::uint64_t at = 0; at < 200; ++at) append(other, at, at + 1);
  }
  EXPECT_EQ(content(whole), content(pieces));
}

TEST(FileArchive, AllocatesNothingWhileItIsWritten) {
  const Folder folder;
  FileArchive archive = FileArchive::create(folder.file("a"), settings(ArchiveType::tokens, 8, 2000));
  const auto entries = entries_of(0, 500);
  const Rows rows(entries);
  const allocation_counter::Scope counted;
  bool flushed = true;
  for (std::size_t at = 0; at < 500; at += 20) {
    archive.append(std::span(entries).subspan(at, 20), rows);
    flushed = archive.flush(Durability::power) && flushed;
  }
  const std::size_t calls = counted.calls();
  EXPECT_EQ(calls, 0U);
  EXPECT_TRUE(flushed);
}

/// No file of this process grows beyond a size while this lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::uint64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = static_cast<rlim_t>(bytes);
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(FileArchive, AFullDiskEndsItAndNotTheReading) {
  const Folder folder;
  for (const std::uint64_t limit : {0U, 100000U})
    for (const std::uint64_t room : {9000U, 9001U, 9500U, 10000U, 11111U}) {
      const std::string path = folder.file(std::to_string(limit) + "_" + std::to_string(room));
      const ArchiveSettings s = settings(ArchiveType::codes8, 8, limit);
      std::uint64_t held = 0;
      {
        FileArchive archive = FileArchive::create(path, s);
        {
          const FileSizeLimit full(room);
          const auto entries = entries_of(0, 100);
          for (std::size_t at = 0; at < 100; at += 3)
            append(archive, std::span(entries).subspan(at, std::min<std::size_t>(3, 100 - at)));
          EXPECT_FALSE(archive.flush());
        }
        EXPECT_TRUE(archive.ended());
        EXPECT_NE(archive.why().find("cannot be written: File too large"), std::string_view::npos)
            << archive.why();
        held = archive.stats().entries;
        EXPECT_EQ(archive.stats().lost, 100 - held);
        EXPECT_EQ(archive.end(), held);
        EXPECT_EQ(held % 8, 0U);
        EXPECT_EQ(held, room < 11111U ? 24U : 32U);
        EXPECT_EQ(read_all(archive), range(0, held));
        append(archive, 100, 110);  // there would be room again, but it has ended
        EXPECT_EQ(archive.stats().lost, 110 - held);
        EXPECT_FALSE(archive.flush());
      }
      FileArchive archive = FileArchive::open(path, s);
      EXPECT_EQ(archive.stats().damaged, 0U) << "what was cut off was taken back";
      EXPECT_FALSE(archive.ended());
      EXPECT_EQ(read_all(archive), range(0, held));
      append(archive, held, held + 50);
      EXPECT_TRUE(archive.flush());
      EXPECT_EQ(read_all(archive), range(0, held + 50));
    }
}

TEST(FileArchive, ADiskWithoutRoomForAHeaderIsSaid) {
  const Folder folder;
  const std::string path = folder.file("a");
  const FileSizeLimit full(100);
  expect_error([&] { FileArchive::create(path, settings(ArchiveType::codes8)); },
               {path, "cannot be written", "File too large"});
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(FileArchive, Moves) {
  const Folder folder;
  const ArchiveSettings s = settings(ArchiveType::codes4);
  const std::string path = folder.file("a"), other = folder.file("b");
  FileArchive first = FileArchive::create(path, s);
  append(first, 0, 5);
  FileArchive archive(std::move(first));
  append(archive, 5, 12);
  EXPECT_EQ(read_all(archive), range(0, 12));
  archive = FileArchive::create(other, s);  // flushes and closes the first
  EXPECT_EQ(FileArchive::inspect(path).stats.entries, 12U);
  append(archive, 0, 3);
  archive.flush();
  EXPECT_EQ(read_all(archive), range(0, 3));
}

}  // namespace
