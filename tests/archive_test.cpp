#include "infinipot/archive.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "allocation_counter.hpp"
#include "archive_trial.hpp"
#include "executors/std_thread.hpp"
#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"

namespace {

using namespace archives;
using infinipot::MemoryArchive;

static_assert(Archive<MemoryArchive>);
static_assert(infinipot::ArchiveBlock<StoredBlock>);

constexpr std::uint64_t ample = 1U << 20U;

/// Centres and spreads unlike each other, as a model's are.
KeyChannels channels() {
  KeyChannels channels = infinipot::plain_key_channels(shape);
  reference::Random random(5);
  for (float& x : channels.centre) x = static_cast<float>(10 * random.uniform());
  for (float& x : channels.spread) x = static_cast<float>(1.5 + random.uniform());
  return channels;
}

TEST(MemoryArchive, GivesBackWhatWasArchived) {
  for (const ArchiveType type : all_types)
    for (const bool with_channels : {false, true}) {
      ArchiveSettings s = settings(type, 8, ample);
      if (with_channels) s.channels = channels();
      MemoryArchive archive(s);
      EXPECT_EQ(archive.has_rows(), type != ArchiveType::tokens);
      EXPECT_EQ(archive.end(), 0U);
      append(archive, 0, 30);
      EXPECT_EQ(archive.end(), 30U);
      EXPECT_EQ(read_all(archive), range(0, 30)) << static_cast<int>(type) << with_channels;
      EXPECT_EQ(archive.stats().entries, 30U);
    }
}

TEST(MemoryArchive, HoldsValuesOfTheirOwnWidthOrNone) {
  for (const ArchiveType type : all_types)
    for (const std::size_t value_dim : {0U, 20U, 70U}) {
      ArchiveSettings s = settings(type, 8, ample);
      s.channels = channels();
      s.shape.value_dim = value_dim;
      MemoryArchive archive(s);
      append(archive, 0, 30);
      EXPECT_EQ(read_all(archive), range(0, 30)) << static_cast<int>(type) << ", " << value_dim;
    }
}

TEST(MemoryArchive, HoldsTheCodesOfAPot) {
  if (infinipot::detail::finite_math_only) GTEST_SKIP() << "-ffast-math may divide otherwise in each";
  ArchiveSettings s = settings(ArchiveType::codes8, 8, ample);
  s.channels = channels();
  MemoryArchive archive(s);
  append(archive, 0, 8);
  infinipot::Pot<infinipot::int8> pot({.shape = shape,
                                       .capacity = 8,
                                       .key_storage = infinipot::KeyStorage::unrotated,
                                       .rope = infinipot::plain_rope(0)},
                                      s.channels);
  StoredBlock block;
  ASSERT_TRUE(archive.read(0, block));
  std::vector<float> row(shape.head_dim), other(shape.head_dim);
  for (std::size_t pair = 0; pair < shape.heads(); ++pair)
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t layer = pair / shape.kv_heads, head = pair % shape.kv_heads;
      pot.write(layer, head, i, key_of(i, pair, row.size()).data(), value_of(i, pair, row.size()).data());
      block.key(layer, head, i, row.data());
      pot.key_rows(layer, head, i, 1, other.data());
      EXPECT_EQ(row, other);
      block.value(layer, head, i, row.data());
      pot.value_rows(layer, head, i, 1, other.data());
      EXPECT_EQ(row, other);
    }
}

TEST(MemoryArchive, HasTheSameBitsOnAnyExecutorAndInAnyPieces) {
  const auto entries = entries_of(0, 50);
  for (const ArchiveType type : all_types) {
    MemoryArchive whole(settings(type, 8, ample)), pieces(settings(type, 8, ample));
    whole.append(entries, Rows(entries));
    reference::Random random(3);
    for (std::size_t at = 0; at < entries.size();) {
      const std::size_t n = std::min(random.below(12), entries.size() - at);
      const auto piece = std::span(entries).subspan(at, n);
      pieces.append(piece, Rows(piece), executors::StdThread(3));
      at += n;
    }
    StoredBlock one, other;
    std::vector<float> row(shape.head_dim), same(shape.head_dim);
    for (std::uint64_t at = 0; whole.read(at, one); at = one.entries().back().position + 1) {
      ASSERT_TRUE(pieces.read(at, other));
      ASSERT_EQ(one.entries().size(), other.entries().size());
      for (std::size_t i = 0; i < one.entries().size() && whole.has_rows(); ++i)
        for (std::size_t head = 0; head < shape.kv_heads; ++head) {
          one.key(1, head, i, row.data());
          other.key(1, head, i, same.data());
          EXPECT_EQ(row, same);
          one.value(0, head, i, row.data());
          other.value(0, head, i, same.data());
          EXPECT_EQ(row, same);
        }
    }
    EXPECT_EQ(read_all(pieces), range(0, 50));
  }
}

TEST(MemoryArchive, AGapOrAnotherRetentionBeginsABlock) {
  MemoryArchive archive(settings(ArchiveType::codes8, 8, ample));
  append(archive, 0, 3, true);
  append(archive, 3, 5);
  append(archive, 9, 12);
  append(archive, 12, 14, true);
  EXPECT_EQ(archive.end(), 14U);
  StoredBlock block;
  const auto expect_block = [&](std::uint64_t at, std::uint64_t first, std::uint64_t end, bool pinned) {
    ASSERT_TRUE(archive.read(at, block));
    EXPECT_EQ(block.entries().front().position, first);
    EXPECT_EQ(block.entries().back().position, end - 1);
    for (const Entry& entry : block.entries()) EXPECT_EQ(entry.pinned, pinned);
  };
  expect_block(0, 0, 3, true);
  expect_block(3, 3, 5, false);
  expect_block(5, 9, 12, false);  // in the gap
  expect_block(12, 12, 14, true);
  EXPECT_FALSE(archive.read(14, block));
}

TEST(MemoryArchive, IsReadFromAnyPosition) {
  MemoryArchive archive(settings(ArchiveType::float16, 4, ample));
  append(archive, 0, 18);
  StoredBlock block;
  for (const std::uint64_t at : {17U, 3U, 9U, 9U, 0U, 16U, 5U, 15U, 1U}) {
    ASSERT_TRUE(archive.read(at, block)) << at;
    EXPECT_EQ(block.entries().front().position, at);
    EXPECT_EQ(block.entries().size(), std::min<std::size_t>(18, at / 4 * 4 + 4) - at);
    EXPECT_EQ(read_all(archive, at), range(at, 18));
  }
  EXPECT_FALSE(archive.read(18, block));
  EXPECT_FALSE(archive.read(~std::uint64_t{0}, block));
}

TEST(MemoryArchive, EmptyHasNothing) {
  MemoryArchive archive(settings(ArchiveType::codes4, 4, ample));
  StoredBlock block;
  EXPECT_FALSE(archive.read(0, block));
  archive.append({}, Rows({}));
  EXPECT_EQ(archive.stats().entries, 0U);
}

TEST(MemoryArchive, TheOldestMakeRoom) {
  for (const ArchiveType type : all_types)
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      // Blocks of any size up to four entries, so that they do not fit the end of the memory alike.
      const std::uint64_t limit = (type == ArchiveType::tokens ? 900 : 24000) + 64 * seed;
      MemoryArchive archive(settings(type, 4, limit));
      reference::Random random(seed);
      std::uint64_t position = 0, appended = 0;
      for (int round = 0; round < 60; ++round) {
        const std::uint64_t n = 1 + random.below(6);
        append(archive, position, position + n, random.below(2) == 0);
        position += n + (random.below(3) == 0 ? 1 : 0);
        appended += n;
        const auto stats = archive.stats();
        ASSERT_EQ(stats.entries + stats.dropped, appended);
        ASSERT_LE(stats.bytes, limit);
        const auto held = read_all(archive);
        ASSERT_EQ(held.size(), stats.entries) << "seed " << seed << ", round " << round;
        ASSERT_EQ(held.back(), archive.end() - 1);
        ASSERT_EQ(stats.damaged, 0U);
      }
      EXPECT_GT(archive.stats().dropped, 0U);
      EXPECT_GE(archive.stats().entries, 4U);
    }
}

TEST(MemoryArchive, ReadersKeepTheirPlaceWhileItIsWritten) {
  MemoryArchive archive(settings(ArchiveType::codes8, 4, 12000));
  std::uint64_t written = 0, read = 0;
  StoredBlock block;
  for (int round = 0; round < 100; ++round) {
    append(archive, written, written + 3);
    written += 3;
    while (archive.read(read, block) && read + 6 < written) {
      ASSERT_EQ(block.entries().front().position, read);
      ASSERT_TRUE(is_entry(archive.settings(), block, 0));
      read = block.entries().back().position + 1;
    }
  }
  append(archive, written, written + 500);  // over the place and all
  ASSERT_TRUE(archive.read(read, block));
  EXPECT_GT(block.entries().front().position, written);
}

TEST(MemoryArchive, AllocatesNothingAfterConstruction) {
  for (const ArchiveType type : all_types) {
    MemoryArchive archive(settings(type, 8, type == ArchiveType::tokens ? 2000 : 40000));
    struct Zeros final : infinipot::RowSource {
      void key(std::size_t, std::size_t, std::size_t, float* key) const noexcept override {
        std::fill_n(key, shape.head_dim, 0.0F);
      }
      void value(std::size_t, std::size_t, std::size_t, float* value) const noexcept override {
        std::fill_n(value, shape.head_dim, 0.0F);
      }
    } rows;
    auto entries = entries_of(0, 300);
    StoredBlock block;
    archive.append(entries, rows);
    ASSERT_TRUE(archive.read(290, block) && archive.read(280, block));
    for (Entry& entry : entries) entry.position += 300;
    const allocation_counter::Scope counted;
    for (std::size_t at = 0; at < 300; at += 20) archive.append(std::span(entries).subspan(at, 20), rows);
    const bool found = archive.read(595, block) && archive.read(590, block);
    const std::size_t calls = counted.calls();
    EXPECT_EQ(calls, 0U);
    EXPECT_TRUE(found);
  }
}

TEST(MemoryArchive, TakesItsLimitAtOnce) {
  const allocation_counter::Scope counted;
  const MemoryArchive archive(settings(ArchiveType::codes8, 64, ample));
  const std::size_t bytes = counted.bytes();
  if (bytes == 0) GTEST_SKIP() << "a sanitizer's own operator new does not count";
  EXPECT_LE(bytes, ample + 2000);
  EXPECT_GT(bytes, ample - 200);
}

TEST(MemoryArchive, BlocksOutliveIt) {
  StoredBlock block;
  {
    MemoryArchive first(settings(ArchiveType::codes4, 8, ample));
    append(first, 0, 20);
    MemoryArchive archive(std::move(first));
    append(archive, 20, 30);
    EXPECT_EQ(read_all(archive), range(0, 30));
    ASSERT_TRUE(archive.read(3, block));
    archive = MemoryArchive(settings(ArchiveType::float32, 8, ample));
    EXPECT_EQ(read_all(archive), range(0, 0));
  }
  EXPECT_TRUE(is_entry(settings(ArchiveType::codes4), block, 0));
}

TEST(MemoryArchive, WhatIsNotFiniteReadsAsNan) {
  struct Bad final : infinipot::RowSource {
    void key(std::size_t, std::size_t, std::size_t, float* key) const noexcept override {
      std::fill_n(key, shape.head_dim, infinipot::detail::quiet_nan<float>());
    }
    void value(std::size_t, std::size_t, std::size_t, float* value) const noexcept override {
      std::fill_n(value, shape.head_dim, 1.0F);
    }
  } rows;
  for (const ArchiveType type : all_types) {
    MemoryArchive archive(settings(type, 8, ample));
    archive.append(entries_of(0, 1), rows);
    if (!archive.has_rows()) continue;
    StoredBlock block;
    ASSERT_TRUE(archive.read(0, block));
    std::vector<float> row(shape.head_dim);
    block.key(0, 0, 0, row.data());
    EXPECT_TRUE(infinipot::detail::is_nan(row.front()));
    block.value(0, 0, 0, row.data());
    EXPECT_NEAR(row.front(), 1, 0.01);
  }
}

TEST(MemoryArchive, RefusesSettingsInWords) {
  const auto refused = [](auto change, const std::vector<std::string>& parts) {
    ArchiveSettings s = settings(ArchiveType::codes8, 8, ample);
    change(s);
    trial::expect_invalid([&] { MemoryArchive archive(s); }, parts);
  };
  refused([](ArchiveSettings& s) { s.limit = 0; }, {"needs a limit"});
  refused([](ArchiveSettings& s) { s.limit = 4000; },
          {"4000 bytes is too small", "of 8 entries", "take 8192"});
  refused([](ArchiveSettings& s) { s.block = 0; }, {"block of 0", "1 .. 65536"});
  refused([](ArchiveSettings& s) { s.block = 65537; }, {"block of 65537"});
  refused([](ArchiveSettings& s) { s.shape.kv_heads = 3; }, {"query_heads 4"});
  refused([](ArchiveSettings& s) { s.rope = infinipot::plain_rope(40); }, {"40 channels", "head_dim is 36"});
  refused([](ArchiveSettings& s) { s.channels.centre = {1}; }, {"1 centres"});
  refused([](ArchiveSettings& s) { s.fingerprint.assign(256, 'x'); }, {"256 bytes", "255"});
  refused([](ArchiveSettings& s) { s.shape.head_dim = 1025; }, {"rows of 1025 channels", "1 .. 1024"});
  refused([](ArchiveSettings& s) { s.shape.value_dim = 1025; }, {"rows of 1025 channels", "1 .. 1024"});
  refused([](ArchiveSettings& s) { s.type = static_cast<ArchiveType>(5); }, {"type 5", "0 .. 4"});
  refused(
      [](ArchiveSettings& s) {
        s.shape = {1000, 8, 8, 1024};
        s.block = 4096;
      },
      {"4096 entries", "too large"});
  ArchiveSettings wide = settings(ArchiveType::tokens, 8, ample);
  wide.shape.head_dim = 5000;
  EXPECT_FALSE(MemoryArchive(wide).has_rows());
}

TEST(Crc32, OfTwoPartsIsThatOfTheWhole) {
  using infinipot::detail::Crc32;
  reference::Random random(1);
  std::vector<std::byte> bytes(5000);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
  const auto crc_of = [](std::span<const std::byte> part) {
    Crc32 crc;
    crc.add(part);
    return crc.value();
  };
  for (const std::size_t cut : {0U, 1U, 2U, 63U, 64U, 1000U, 4999U, 5000U}) {
    const auto whole = std::span<const std::byte>(bytes);
    EXPECT_EQ(infinipot::detail::crc_of_both(crc_of(whole.first(cut)), crc_of(whole.subspan(cut)),
                                             infinipot::detail::crc_shift(bytes.size() - cut)),
              crc_of(whole));
  }
}

}  // namespace
