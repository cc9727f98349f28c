#include "infinipot/pot/pot_file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/try_pot_file.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"

namespace {

using infinipot::bf16;
using infinipot::Entry;
using infinipot::f16;
using infinipot::Granularity;
using infinipot::Index;
using infinipot::int4;
using infinipot::int8;
using infinipot::KeyChannels;
using infinipot::KeyStorage;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Pot;
using infinipot::PotSettings;
using infinipot::Selection;

using Bytes = std::vector<std::byte>;

template <class T>
Bytes saved(const Pot<T>& pot, std::span<const std::byte> extra = {}) {
  std::ostringstream out;
  infinipot::save_pot(pot, out, extra);
  const std::string text = out.str();
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// Writes random tokens until the pot holds `size` entries.
template <class T>
void fill(Pot<T>& pot, std::size_t size, reference::Random& random, std::uint64_t& position) {
  const std::size_t d = pot.shape().head_dim, v = pot.shape().value_channels();
  while (pot.size() < size) {
    for (std::size_t layer = 0; layer < pot.shape().layers; ++layer)
      for (std::size_t head = 0; head < pot.shape().kv_heads; ++head) {
        const auto key = random.uniforms(d), value = random.uniforms(v);
        pot.write(layer, head, pot.size(), std::vector<float>(key.begin(), key.end()).data(),
                  std::vector<float>(value.begin(), value.end()).data());
      }
    pot.append(std::vector{Entry{position, static_cast<infinipot::Token>(position % 77),
                                 static_cast<float>(random.uniform()), random.below(5) == 0}});
    ++position;
  }
}

/// Keeps `keep` random entries.
template <class T>
void distil(Pot<T>& pot, std::size_t keep, reference::Random& random) {
  Selection kept(pot.entries().lanes(), keep);
  for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
    std::ranges::copy(random.subset<Index>(keep, pot.size()), kept.lane(lane).begin());
  pot.keep(kept);
}

/// A pot after `rounds` distillations, not full.
template <class T>
Pot<T> used_pot(const PotSettings& settings, int rounds, std::uint64_t seed) {
  Pot<T> pot(settings);
  reference::Random random(seed);
  std::uint64_t position = 0;
  for (int round = 0; round < rounds; ++round) {
    fill(pot, pot.capacity(), random, position);
    distil(pot, pot.max_keep() - random.below(2), random);
  }
  fill(pot, pot.size() + 3, random, position);
  return pot;
}

PotSettings small_settings(KeyStorage storage = KeyStorage::rotated,
                           Granularity granularity = Granularity::head,
                           Pairing pairing = Pairing::half_split) {
  return {.shape = {2, 4, 2, 36},
          .capacity = 17,
          .max_keep = 9,
          .granularity = granularity,
          .key_storage = storage,
          .rope = plain_rope(34, 10000, pairing)};
}

template <class T>
class PotFiles : public testing::Test {};
using Types = testing::Types<float, f16, bf16, int8, int4>;
TYPED_TEST_SUITE(PotFiles, Types);

template <class Check>
void for_all_settings(Check check) {
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated})
    for (const Granularity granularity : {Granularity::head, Granularity::layer, Granularity::shared})
      for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved})
        for (const bool others : {false, true}) {
          PotSettings settings = small_settings(storage, granularity, pairing);
          if (others) {  // values of their own width, RoPE behind other channels and not in all layers
            settings.shape.value_dim = 20;
            settings.rope.frequencies.resize(15);
            settings.rope.first_channel = 3;
            settings.layers_without_rope = {0};
          }
          check(settings);
        }
}

TYPED_TEST(PotFiles, GoOnAsIfNothingHadHappened) {
  for_all_settings([](const PotSettings& settings) {
    for (const int rounds : {0, 1, 4}) {
      auto pot = used_pot<TypeParam>(settings, rounds, 11);
      const Bytes file = saved(pot);
      auto loaded = infinipot::load_pot<TypeParam>(file);
      ASSERT_EQ(saved(loaded), file);
      for (Pot<TypeParam>* const each : {&pot, &loaded}) {
        reference::Random random(12);
        std::uint64_t position = 1000;
        for (int round = 0; round < 3; ++round) {
          fill(*each, each->capacity(), random, position);
          distil(*each, 7, random);
        }
      }
      ASSERT_EQ(saved(loaded), saved(pot));
    }
  });
}

TYPED_TEST(PotFiles, HoldWhatThePotHolds) {
  const auto pot = used_pot<TypeParam>(small_settings(), 3, 13);
  const auto loaded = infinipot::load_pot<TypeParam>(saved(pot));
  ASSERT_EQ(loaded.size(), pot.size());
  std::vector<float> tile(36), other(36);
  for (std::size_t pair = 0; pair < 4; ++pair) {
    EXPECT_TRUE(std::ranges::equal(loaded.entries().positions(pair), pot.entries().positions(pair)));
    EXPECT_TRUE(std::ranges::equal(loaded.entries().tokens(pair), pot.entries().tokens(pair)));
    EXPECT_TRUE(std::ranges::equal(loaded.entries().nuc(pair), pot.entries().nuc(pair)));
    EXPECT_TRUE(std::ranges::equal(loaded.entries().pinned(pair), pot.entries().pinned(pair)));
    EXPECT_TRUE(std::ranges::equal(loaded.entries().survived(pair), pot.entries().survived(pair)));
    for (std::size_t i = 0; i < pot.size(); ++i) {
      const auto row = pot.key_rows(pair / 2, pair % 2, i, 1, tile.data());
      const auto same = loaded.key_rows(pair / 2, pair % 2, i, 1, other.data());
      EXPECT_TRUE(std::equal(row.data, row.data + 36, same.data));
    }
  }
}

TYPED_TEST(PotFiles, AreRestoredIntoALargerPot) {
  const auto pot = used_pot<TypeParam>(small_settings(), 2, 14);
  PotSettings larger = small_settings();
  larger.capacity = 40;
  larger.max_keep = 30;
  auto into = used_pot<TypeParam>(larger, 3, 15);
  const Bytes file = saved(pot);
  infinipot::restore_pot(file, into);
  ASSERT_EQ(into.size(), pot.size());
  // It goes on exactly as the other would.
  auto loaded = infinipot::load_pot<TypeParam>(file);
  reference::Random random(16), same(16);
  distil(into, 5, random);
  distil(loaded, 5, same);
  std::vector<float> tile(36), other(36);
  for (std::size_t i = 0; i < 5; ++i) {
    const auto row = loaded.key_rows(1, 1, i, 1, tile.data());
    const auto copy = into.key_rows(1, 1, i, 1, other.data());
    EXPECT_TRUE(std::equal(row.data, row.data + 36, copy.data));
  }
}

template <class T>
void expect_damage_is_noticed(const PotSettings& settings) {
  const auto pot = used_pot<T>(settings, 2, 17);
  auto into = used_pot<T>(settings, 1, 18);
  const Bytes before = saved(into), file = saved(pot);
  const std::size_t padding_may_differ = [&] {  // zeros between sections are not covered
    Bytes damaged = file;
    std::size_t unnoticed = 0;
    for (std::size_t i = 0; i < file.size(); ++i) {
      damaged[i] ^= std::byte{1};
      try {
        infinipot::restore_pot(damaged, into);
        EXPECT_EQ(file[i], std::byte{0}) << "byte " << i;
        ++unnoticed;
        infinipot::restore_pot(before, into);
      } catch (const std::invalid_argument&) {
      }
      damaged[i] = file[i];
    }
    return unnoticed;
  }();
  EXPECT_EQ(saved(into), before);
  EXPECT_LE(padding_may_differ, 12U * 63 + 4) << "bytes of padding at most, and of the header's last word";
}

TYPED_TEST(PotFiles, EveryDamagedByteIsNoticedAndNothingChanges) {
  expect_damage_is_noticed<TypeParam>(small_settings());
}

TYPED_TEST(PotFiles, EveryShorterOrLongerFileIsRefused) {
  const auto pot = used_pot<TypeParam>(small_settings(), 1, 19);
  Bytes file = saved(pot);
  for (std::size_t size = 0; size < file.size(); size += size < 600 ? 1 : 37)
    EXPECT_THROW(infinipot::check_pot_file(std::span(file).first(size)), std::invalid_argument) << size;
  file.push_back(std::byte{0});
  EXPECT_THROW(infinipot::check_pot_file(file), std::invalid_argument);
}

/// Random damage, some of it with all checksums corrected, as in a hostile file.
TYPED_TEST(PotFiles, HostileOnesDoNoHarm) {
  reference::Random random(20);
  const Bytes files[] = {
      saved(used_pot<TypeParam>(small_settings(), 2, 21)),
      saved(used_pot<TypeParam>(small_settings(KeyStorage::unrotated, Granularity::shared), 1, 22)),
      saved(Pot<TypeParam>({.shape = {1, 1, 1, 2}, .capacity = 2, .rope = plain_rope(2)}))};
  const std::uint64_t numbers[] = {0,
                                   1,
                                   2,
                                   3,
                                   0xFF,
                                   0x100,
                                   0xFFFF,
                                   0x7FFFFFFF,
                                   0x80000000,
                                   0xFFFFFFFF,
                                   std::uint64_t{1} << 61,
                                   ~std::uint64_t{0},
                                   ~std::uint64_t{0} / 8};
  std::size_t accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    Bytes file = files[random.below(3)];
    for (std::size_t change = 1 + random.below(3); change > 0; --change) {
      // Mostly in the header, where the numbers are.
      const std::size_t end = random.below(4) == 0 ? file.size() : std::min<std::size_t>(file.size(), 520);
      const std::size_t at = random.below(end - 8) / 4 * 4;
      const std::uint64_t number = numbers[random.below(std::size(numbers))];
      std::memcpy(file.data() + at, &number, random.below(2) == 0 ? 4 : 8);
    }
    if (random.below(8) == 0) file.resize(random.below(file.size()));
    fuzz::repair_checksums(file);
    if (fuzz::try_pot_file(file)) ++accepted;
  }
  EXPECT_GT(accepted, 20U) << "all were refused at once, so nothing was tried";
}

/// Rows of so many bytes that the number overflows, to 0.
template <class T>
void expect_too_wide_values_are_refused(std::uint64_t value_dim) {
  constexpr std::size_t value_dim_at = 120;
  PotSettings settings = small_settings();
  settings.shape.value_dim = 0;
  for (const bool empty : {false, true}) {
    Bytes file = saved(empty ? Pot<T>(settings) : used_pot<T>(settings, 1, 28));
    ASSERT_EQ(infinipot::check_pot_file(file).settings.shape.value_channels(), 0U);
    std::memcpy(file.data() + value_dim_at, &value_dim, sizeof value_dim);
    fuzz::repair_checksums(file);
    EXPECT_THROW(infinipot::load_pot<T>(file), std::invalid_argument) << empty;
    if (!empty) {
      EXPECT_THROW(infinipot::check_pot_file(file), std::invalid_argument);
    }
  }
}

TEST(PotFile, OfValuesTooWideForAnyMemoryIsRefused) {
  expect_too_wide_values_are_refused<float>(std::uint64_t{1} << 62U);
  expect_too_wide_values_are_refused<f16>(std::uint64_t{1} << 63U);
  expect_too_wide_values_are_refused<int8>(17361641481138401520U);
}

// --- What is refused, and why ---

std::string message_of(const auto& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(PotFile, OfPositionsThatNoTextHasIsRefused) {
  for (const std::uint64_t position : {std::uint64_t{1} << 62U, ~std::uint64_t{0}}) {
    Pot<float> pot(small_settings());
    pot.append(std::vector{Entry{position - 1}});
    if (position - 1 < std::uint64_t{1} << 62U) infinipot::check_pot_file(saved(pot));
    pot.append(std::vector{Entry{position}});
    EXPECT_NE(message_of([&] { infinipot::check_pot_file(saved(pot)); }).find("is that of no text"),
              std::string::npos);
  }
}

TEST(PotFile, OfAnotherPotIsRefusedWithTheReason) {
  const auto pot = used_pot<float>(small_settings(), 2, 23);
  const Bytes file = saved(pot);
  const auto into = [&](auto&& change, const char* reason) {
    PotSettings settings = small_settings();
    change(settings);
    Pot<float> other(settings);
    const Bytes before = saved(other);
    const std::string message = message_of([&] { infinipot::restore_pot(file, other); });
    EXPECT_NE(message.find(reason), std::string::npos) << message;
    EXPECT_EQ(saved(other), before);
  };
  into([](PotSettings& s) { s.shape.layers = 3; }, "another shape, (layers 2, ");
  into([](PotSettings& s) { s.shape.query_heads = 2; }, "another shape");
  into([](PotSettings& s) { s.granularity = Granularity::shared; }, "another granularity");
  into([](PotSettings& s) { s.key_storage = KeyStorage::unrotated; }, "another key storage");
  into([](PotSettings& s) { s.rope.frequencies[2] += 1e-9; }, "another RoPE");
  into([](PotSettings& s) { s.rope.pairing = Pairing::interleaved; }, "another RoPE");
  into([](PotSettings& s) { s.rope.attention_factor = 1.1; }, "another RoPE");
  into([](PotSettings& s) { s.rope.first_channel = 2; }, "another RoPE");
  into([](PotSettings& s) { s.layers_without_rope = {1}; }, "another RoPE");
  into([](PotSettings& s) { s.shape.value_dim = 0; }, "another shape");
  into([](PotSettings& s) { s.capacity = 16; }, "17 entries");
  into([](PotSettings& s) { s.max_keep = 5; }, "max_keep is 5");
  EXPECT_NE(message_of([&] { infinipot::load_pot<f16>(file); }).find("another element type"),
            std::string::npos);
}

TEST(PotFile, ThatIsNoneIsRefusedWithTheReason) {
  const auto reason = [](std::string text) {
    return message_of([&] { infinipot::check_pot_file(std::as_bytes(std::span(text))); });
  };
  EXPECT_NE(reason("").find("not a pot file"), std::string::npos);
  EXPECT_NE(reason("GGUF and so on").find("not a pot file"), std::string::npos);
  EXPECT_NE(reason("infinpot").find("ends inside its header"), std::string::npos);
  Bytes file = saved(used_pot<float>(small_settings(), 1, 24));
  file[8] = std::byte{3};
  EXPECT_NE(message_of([&] {
              infinipot::check_pot_file(file);
            }).find("version 3; this library reads versions 1 .. 2"),
            std::string::npos);
  for (const auto& [at, words] : {std::pair(24U, "element type 5 is out of range 0 .. 4"),
                                  {28U, "key storage 5 is out of range 0 .. 1"},
                                  {32U, "granularity 5 is out of range 0 .. 2"},
                                  {36U, "RoPE pairing 5 is out of range 0 .. 1"}}) {
    Bytes unknown = saved(used_pot<float>(small_settings(), 1, 24));
    unknown[at] = std::byte{5};
    EXPECT_NE(message_of([&] { infinipot::check_pot_file(unknown); }).find(words), std::string::npos);
  }
}

/// Five tokens in two layers of one kv head, three of which a distillation kept, and two more.
const char version_1[] =
    "696e66696e706f7401000000b0010000c0040000000000000000000000000000000000000000000002000000000000000100"
    "0000000000000100000000000000020000000000000006000000000000000300000000000000050000000000000003000000"
    "0000000000000000000000000100000000000000000000000000f03f000000000000f03fc001000000000000500000000000"
    "00007751c7b5000000004002000000000000500000000000000032a096b200000000c0020000000000003000000000000000"
    "be7527e20000000000030000000000001800000000000000d7140b760000000040030000000000005000000000000000b0d1"
    "cfcd00000000c0030000000000002800000000000000b83cc70000000000000400000000000028000000000000000f187695"
    "0000000040040000000000000a00000000000000501b4d4c00000000800400000000000028000000000000007198a8720000"
    "0000c00400000000000000000000000000000000000000000000c00400000000000000000000000000000000000000000000"
    "c00400000000000000000000000000000000000000000000941aa9b700000000000000000000000000000000000000000000"
    "803f00000000e079cf3ffb8f21c0c02a05c0d27c91c00000c040000000000000e040000000009206f63f044292bf99971d40"
    "56f7fdbfe92b404054d634c00000c0400000803f0000e0400000803f00000000000000000000000000000000000000000000"
    "00000000000000000000000000000000000000000000000000000000008000000000000000c000000000000080c000000000"
    "0000a0c0000000000000c0c000000000000080bf0000003f000000c00000003f000040c00000003f0000a0c00000003f0000"
    "c0c00000003f0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000803f0000000000004040000000000000a04000000000000000400000803f000040400000803f000080400000"
    "803f000000000000000000000000000000000000000002000000040000000100000002000000030000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000002000000000000000400"
    "0000000000000500000000000000060000000000000001000000000000000200000000000000030000000000000005000000"
    "0000000006000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000a0000000c0000000e0000000f000000100000000b0000000c0000000d0000000f00000010000000"
    "000000000000000000000000000000000000000000000000000000000000003f0000803f0000a03f0000c03f0000803e0000"
    "003f0000403f0000a03f0000c03f000000000000000000000000000000000000000000000000000100000000010000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000010000000100000001000000000000000000000001000000010000000100000000000000000000000000000000000000"
    "00000000000000000000000000000000";

TEST(PotFile, OfVersion1IsReadAndWrittenToTheByte) {
  Bytes file;
  for (const char* hex = version_1; *hex != 0; hex += 2)
    file.push_back(static_cast<std::byte>(std::stoi(std::string(hex, 2), nullptr, 16)));
  const auto info = infinipot::check_pot_file(file);
  EXPECT_EQ(info.survivors, 3U);
  const auto pot = infinipot::load_pot<float>(file);
  ASSERT_EQ(pot.size(), 5U);
  const std::uint64_t positions[2][5] = {{0, 2, 4, 5, 6}, {1, 2, 3, 5, 6}};
  for (std::size_t lane = 0; lane < 2; ++lane) {
    EXPECT_TRUE(std::ranges::equal(pot.entries().positions(lane), positions[lane]));
    for (std::size_t t = 0; t < 5; ++t) {
      const std::uint64_t position = positions[lane][t];
      EXPECT_EQ(pot.entries().tokens(lane)[t], static_cast<infinipot::Token>(10 + position));
      EXPECT_EQ(pot.entries().nuc(lane)[t], 0.25F * static_cast<float>(position));
      EXPECT_EQ(pot.entries().pinned(lane)[t], position == 2 ? 1 : 0);
      EXPECT_EQ(pot.entries().survived(lane)[t], t < 3 ? 1U : 0U);
      EXPECT_EQ(pot.values(lane).row(0, t)[0], -static_cast<float>(position));
    }
  }
  // All behind the header is the same in a file of this version.
  const Bytes now = saved(pot);
  constexpr std::ptrdiff_t header = 448, header_now = 512;
  EXPECT_TRUE(std::equal(file.begin() + header, file.end(), now.begin() + header_now, now.end()));
}

TEST(PotFile, SaysWhatIsInIt) {
  const auto pot = used_pot<f16>(small_settings(), 2, 25);
  const std::string logits = "any bytes";
  const Bytes file = saved(pot, std::as_bytes(std::span(logits)));
  const auto info = infinipot::check_pot_file(file);
  EXPECT_EQ(info.element, infinipot::ElementCode::float16);
  EXPECT_EQ(info.settings.shape, pot.shape());
  EXPECT_EQ(info.settings.capacity, 17U);
  EXPECT_EQ(info.settings.max_keep, 9U);
  EXPECT_EQ(info.settings.rope.frequencies, pot.rope().frequencies);
  EXPECT_EQ(info.size, pot.size());
  EXPECT_TRUE(std::ranges::equal(info.extra, std::as_bytes(std::span(logits))));
  EXPECT_EQ(saved(infinipot::load_pot<f16>(file), info.extra), file);
}

TEST(PotFile, KeepsKeyChannels) {
  KeyChannels channels = infinipot::plain_key_channels(small_settings().shape);
  channels.centre[5] = 3;
  channels.spread[7] = 0.25F;
  Pot<int4> pot(small_settings(), channels);
  const auto loaded = infinipot::load_pot<int4>(saved(pot));
  EXPECT_EQ(saved(loaded), saved(pot));
  Pot<int4> without(small_settings());
  EXPECT_NE(message_of([&] { infinipot::restore_pot(saved(pot), without); }).find("key channels"),
            std::string::npos);
}

TEST(PotFile, SectionsStandOnCacheLines) {
  const auto pot = used_pot<float>(small_settings(), 1, 26);
  const Bytes file = saved(pot);
  const auto header = infinipot::detail::checked_header(file);
  for (const auto& section : header.table) EXPECT_EQ(section.offset % 64, 0U);
  // The first key's place in the file.
  float first = 0;
  std::memcpy(&first, file.data() + header.table[0].offset, sizeof first);
  EXPECT_EQ(first, *pot.keys(0).row(0, 0));
}

TEST(Crc32, IsThatOfZlib) {
  const std::string text = "123456789, and some more than eight bytes";
  infinipot::detail::Crc32 crc, pieces, nine;
  crc.add(std::as_bytes(std::span(text)));
  for (std::size_t i = 0; i < text.size(); i += 5)
    pieces.add(std::as_bytes(std::span(text).subspan(i, std::min<std::size_t>(5, text.size() - i))));
  nine.add(std::as_bytes(std::span(text).first(9)));
  EXPECT_EQ(nine.value(), 0xCBF43926U);
  EXPECT_EQ(crc.value(), pieces.value());
  EXPECT_EQ(infinipot::detail::Crc32().value(), 0U);
}

}  // namespace
