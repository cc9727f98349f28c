#include "infinipot/pot/quantized_pot.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::Entry;
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
using infinipot::detail::is_nan;

static_assert(infinipot::Store<Pot<int8>> && infinipot::ReadableKeys<Pot<int8>>);
static_assert(infinipot::Store<Pot<int4>> && infinipot::ReadableKeys<Pot<int4>>);
static_assert(std::is_nothrow_move_constructible_v<Pot<int8>> && !std::is_copy_constructible_v<Pot<int4>>);

template <class T>
class QuantizedPots : public testing::Test {};
using Types = testing::Types<int8, int4>;
TYPED_TEST_SUITE(QuantizedPots, Types);

constexpr KeyStorage storages[] = {KeyStorage::rotated, KeyStorage::unrotated};
constexpr Pairing pairings[] = {Pairing::half_split, Pairing::interleaved};
constexpr Granularity granularities[] = {Granularity::head, Granularity::layer, Granularity::shared};

/// Steps of a code for channels within -1 .. 1, and the rest: f16 scales, single precision.
template <class T>
constexpr double half_step = std::same_as<T, int8> ? 0.5 / 127 + 0x1p-11 : 0.5 * 2 / 15 + 4 * 0x1p-11;

/// A raw key or value, and where it came from.
struct Item {
  std::vector<double> key, value;
  Entry entry;
};

/// Fills pots with random tokens, and keeps in double precision what it wrote.
template <class T>
class Engine {
 public:
  Engine(const PotSettings& settings, std::uint64_t seed, KeyChannels channels = {})
      : settings_(settings), channels_(std::move(channels)), heads_(settings.shape.heads()), random_(seed) {}

  void feed(Pot<T>& pot, std::size_t count) {
    const std::size_t d = settings_.shape.head_dim, v = settings_.shape.value_channels();
    std::vector<Entry> entries;
    for (std::size_t n = 0; n < count; ++n) {
      const Entry entry{next_++, static_cast<infinipot::Token>(next_ % 50), 0.5F, false};
      for (std::size_t pair = 0; pair < heads_.size(); ++pair) {
        Item item{random_.uniforms(d), random_.uniforms(v), entry};
        for (std::size_t c = 0; c < d && !channels_.spread.empty(); ++c)
          item.key[c] = static_cast<double>(channels_.centre[pair * d + c]) +
                        static_cast<double>(channels_.spread[pair * d + c]) * item.key[c];
        const auto position = static_cast<double>(heads_[pair].size());
        const auto key = settings_.key_storage == KeyStorage::unrotated
                             ? item.key
                             : reference::rotated(item.key, rope_of(pair), position);
        pot.write(pair / settings_.shape.kv_heads, pair % settings_.shape.kv_heads, heads_[pair].size(),
                  floats(key).data(), floats(item.value).data());
        heads_[pair].push_back(std::move(item));
      }
      entries.push_back(entry);
    }
    pot.append(entries);
  }

  Selection select(std::size_t keep) {
    Selection kept(settings_.shape.lanes(settings_.granularity), keep);
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
      std::ranges::copy(random_.subset<Index>(keep, heads_[0].size()), kept.lane(lane).begin());
    return kept;
  }

  void keep(const Selection& kept) {
    for (std::size_t pair = 0; pair < heads_.size(); ++pair) {
      std::vector<Item> next;
      for (const Index i : kept.lane(pair / settings_.shape.heads_per_lane(settings_.granularity)))
        next.push_back(heads_[pair][i]);
      heads_[pair] = std::move(next);
    }
  }

  void truncate(std::size_t size) {
    for (auto& head : heads_) head.resize(std::min(head.size(), size));
  }

  /// Worst error of keys and values, as a share of half a step.
  double worst_error(const Pot<T>& pot) const {
    double worst = 0;
    const std::size_t d = settings_.shape.head_dim, v = settings_.shape.value_channels();
    const std::size_t kv_heads = settings_.shape.kv_heads, n = pot.size();
    std::vector<float> keys(n * d), values(n * v);
    for (std::size_t pair = 0; pair < heads_.size(); ++pair) {
      EXPECT_EQ(heads_[pair].size(), n);
      pot.key_rows(pair / kv_heads, pair % kv_heads, 0, n, keys.data());
      pot.value_rows(pair / kv_heads, pair % kv_heads, 0, n, values.data());
      for (std::size_t i = 0; i < n; ++i) {
        const Item& item = heads_[pair][i];
        const auto exact = reference::rotated(item.key, rope_of(pair), static_cast<double>(i));
        const auto bounds = key_bounds(pair);
        for (std::size_t c = 0; c < d; ++c)
          worst = std::max(worst, std::fabs(static_cast<double>(keys[i * d + c]) - exact[c]) / bounds[c]);
        for (std::size_t c = 0; c < v; ++c)
          worst = std::max(worst,
                           std::fabs(static_cast<double>(values[i * v + c]) - item.value[c]) / half_step<T>);
      }
    }
    return worst;
  }

  reference::Random& random() { return random_; }

 private:
  static std::vector<float> floats(const std::vector<double>& x) { return {x.begin(), x.end()}; }

  infinipot::Rope rope_of(std::size_t pair) const {
    return reference::rope_of(settings_, pair / settings_.shape.kv_heads);
  }

  /// A rotation mixes the errors of the two channels of a pair.
  std::vector<double> key_bounds(std::size_t pair) const {
    const infinipot::Rope rope = rope_of(pair);
    const std::size_t d = settings_.shape.head_dim, pairs = rope.rotary_dim() / 2;
    std::vector<double> own(d, half_step<T> + 1e-6);
    for (std::size_t c = 0; c < d && !channels_.spread.empty(); ++c)
      own[c] = half_step<T> * static_cast<double>(channels_.spread[pair * d + c]) +
               1e-6 * (1 + std::fabs(static_cast<double>(channels_.centre[pair * d + c])));
    std::vector<double> mixed = own;
    for (std::size_t i = 0; i < pairs; ++i) {
      const auto [a, b] = reference::channels(rope, i);
      mixed[a] = mixed[b] = std::hypot(own[a], own[b]) * rope.attention_factor;
    }
    return mixed;
  }

  PotSettings settings_;
  KeyChannels channels_;
  std::vector<std::vector<Item>> heads_;
  reference::Random random_;
  std::uint64_t next_ = 0;
};

struct Case {
  infinipot::Shape shape;
  std::size_t rotary_dim, capacity;
  std::size_t first_channel = 0;
  std::vector<std::size_t> layers_without_rope = {};
};
const Case cases[] = {{{1, 1, 1, 2}, 2, 2},          {{2, 4, 2, 2}, 0, 3},
                      {{1, 3, 3, 64}, 64, 13},       {{2, 2, 2, 80}, 80, 31},
                      {{1, 8, 4, 80}, 20, 31},       {{2, 6, 3, 128}, 126, 64},
                      {{2, 8, 1, 72, 0}, 8, 19, 64}, {{3, 4, 4, 48, 32}, 16, 12, 32, {1}}};

template <class Check>
void for_all_settings(Check check) {
  for (const Case& c : cases)
    for (const KeyStorage storage : storages)
      for (const Granularity granularity : granularities)
        for (const Pairing pairing : pairings) {
          SCOPED_TRACE(testing::Message()
                       << "d " << c.shape.head_dim << " r " << c.rotary_dim << " storage "
                       << static_cast<int>(storage) << " granularity " << static_cast<int>(granularity)
                       << " pairing " << static_cast<int>(pairing));
          check(PotSettings{.shape = c.shape,
                            .capacity = c.capacity,
                            .max_keep = c.capacity - 1,
                            .granularity = granularity,
                            .key_storage = storage,
                            .rope = {pairing, plain_rope(c.rotary_dim).frequencies, 1, c.first_channel},
                            .layers_without_rope = c.layers_without_rope});
        }
}

TYPED_TEST(QuantizedPots, FollowAModelThroughRandomOperations) {
  for_all_settings([](const PotSettings& settings) {
    Pot<TypeParam> pot(settings);
    Engine<TypeParam> engine(settings, settings.capacity);
    for (int round = 0; round < 6; ++round) {
      engine.feed(pot, settings.capacity - pot.size());
      if (round % 3 == 1) {
        const std::size_t size = engine.random().below(pot.size() + 2);
        pot.truncate(size);
        engine.truncate(size);
      }
      ASSERT_LE(engine.worst_error(pot), 1);
      if (pot.size() == 0) continue;
      const Selection kept =
          engine.select(1 + engine.random().below(std::min(pot.size(), settings.max_keep)));
      pot.keep(kept);
      engine.keep(kept);
      ASSERT_LE(engine.worst_error(pot), 1);
      const auto fork = pot.fork();
      ASSERT_LE(engine.worst_error(fork), 1);
    }
  });
}

/// Channels of very different sizes, as keys have them.
KeyChannels uneven_channels(const infinipot::Shape& shape) {
  KeyChannels channels = plain_key_channels(shape);
  for (std::size_t i = 0; i < channels.centre.size(); ++i) {
    channels.centre[i] = static_cast<float>(i % 7) - 3;
    channels.spread[i] = i % 5 == 0 ? 20.0F : 0.05F;
  }
  return channels;
}

TYPED_TEST(QuantizedPots, ErrorsFollowTheSpreadOfEachChannel) {
  for_all_settings([](const PotSettings& settings) {
    const KeyChannels channels = uneven_channels(settings.shape);
    Pot<TypeParam> pot(settings, channels);
    Engine<TypeParam> engine(settings, 5, channels);
    engine.feed(pot, settings.capacity);
    ASSERT_LE(engine.worst_error(pot), 1);
    const Selection kept = engine.select(settings.capacity / 2);
    pot.keep(kept);
    engine.keep(kept);
    ASSERT_LE(engine.worst_error(pot), 1);
    ASSERT_LE(engine.worst_error(pot.fork()), 1);
  });
}

TYPED_TEST(QuantizedPots, DoNotDriftInAThousandDistillations) {
  // Half is dropped each time but never the last entry: it moves in every round.
  for (const KeyStorage storage : storages)
    for (const Pairing pairing : pairings) {
      const PotSettings settings{.shape = {1, 1, 1, 64},
                                 .capacity = 80,
                                 .max_keep = 72,
                                 .key_storage = storage,
                                 .rope = plain_rope(64, 10000, pairing)};
      Pot<TypeParam> pot(settings);
      Engine<TypeParam> engine(settings, 6);
      engine.feed(pot, 80);
      std::vector<float> before(64), after(64);
      double once = 0;
      for (int round = 0; round < 1000; ++round) {
        // One of the first entries goes, until it is the last one's turn.
        Selection kept(1, pot.size() - 1);
        const auto gone = static_cast<Index>(engine.random().below(8));
        for (Index i = 0, j = 0; i < pot.size(); ++i)
          if (i != gone) kept.lane(0)[j++] = i;
        while (kept.keep() > settings.max_keep) kept = engine.select(settings.max_keep);
        pot.keep(kept);
        engine.keep(kept);
        engine.feed(pot, 80 - pot.size());
        const double worst = engine.worst_error(pot);
        if (round == 0) once = worst;
        ASSERT_LE(worst, 1) << "round " << round;
      }
      EXPECT_GT(once, 0.25) << "the bound is too wide to tell anything";
    }
}

TYPED_TEST(QuantizedPots, MoveOnlyBytes) {
  // An entry that returns to its old position reads as before, to the bit.
  const PotSettings settings{.shape = {2, 2, 2, 64}, .capacity = 32, .rope = plain_rope(64)};
  Pot<TypeParam> pot(settings);
  Engine<TypeParam> engine(settings, 7);
  engine.feed(pot, 32);
  std::vector<float> before(64), after(64);
  pot.value_rows(1, 1, 30, 1, before.data());
  Selection kept(4, 2);
  for (std::size_t lane = 0; lane < 4; ++lane) {
    kept.lane(lane)[0] = 3;
    kept.lane(lane)[1] = 30;
  }
  pot.keep(kept);
  pot.value_rows(1, 1, 1, 1, after.data());
  EXPECT_EQ(before, after);
}

TYPED_TEST(QuantizedPots, AttentionFactorCountsOnce) {
  for (const KeyStorage storage : storages) {
    PotSettings settings{
        .shape = {1, 1, 1, 32}, .capacity = 8, .key_storage = storage, .rope = plain_rope(32)};
    settings.rope.attention_factor = 1.3;
    Pot<TypeParam> pot(settings);
    Engine<TypeParam> engine(settings, 8);
    engine.feed(pot, 8);
    // For rotated keys the factor is part of what is quantised.
    EXPECT_LE(engine.worst_error(pot), storage == KeyStorage::rotated ? 1.3 : 1.0);
  }
}

TYPED_TEST(QuantizedPots, NanIsSeen) {
  const PotSettings settings{.shape = {1, 1, 1, 64}, .capacity = 4, .rope = {}};
  Pot<TypeParam> pot(settings);
  std::vector<float> row(64, 1.0F), bad = row;
  bad[3] = std::numeric_limits<float>::quiet_NaN();
  pot.write(0, 0, 0, bad.data(), row.data());
  pot.write(0, 0, 1, row.data(), bad.data());
  pot.append(std::vector<Entry>(2));
  std::vector<float> keys(128), values(128);
  pot.key_rows(0, 0, 0, 2, keys.data());
  pot.value_rows(0, 0, 0, 2, values.data());
  EXPECT_TRUE(is_nan(keys[3]) && is_nan(values[64 + 3]));
  EXPECT_NEAR(keys[64 + 3], 1, 0.01);
  EXPECT_NEAR(values[3], 1, 0.01);
  EXPECT_NEAR(keys[40], 1, 0.01) << "another group";
}

TYPED_TEST(QuantizedPots, AllocateOnceAndSayHowMuch) {
  const PotSettings settings{.shape = {2, 4, 2, 64}, .capacity = 100, .rope = plain_rope(64)};
  const allocation_counter::Scope construction;
  Pot<TypeParam> pot(settings);
  EXPECT_EQ(construction.bytes(), pot.bytes() + settings.rope.frequencies.size() * sizeof(double));
  const std::size_t rows = 2 * 4 * 100 * infinipot::detail::row_bytes<TypeParam>(64);
  EXPECT_GE(pot.bytes(), rows);
  EXPECT_LE(pot.bytes(), rows + 100 * 64 * 4 + 4 * 100 * 21 + 10 * 64);
  Engine<TypeParam> engine(settings, 9);
  engine.feed(pot, 100);
  const Selection kept = engine.select(50);
  std::vector<float> tile(100 * 64);
  const std::vector<Entry> entries(10);
  const allocation_counter::Scope counted;
  pot.keep(kept);
  pot.write(0, 0, 50, tile.data(), tile.data());
  pot.append(entries);
  pot.key_rows(1, 1, 0, 60, tile.data());
  pot.value_rows(1, 1, 0, 60, tile.data());
  const std::size_t calls = counted.calls();
  EXPECT_EQ(calls, 0U);
}

// --- Channels ---

TEST(KeyChannels, AreMeasuredOnThePotsEntries) {
  reference::Random random(10);
  for (const KeyStorage storage : storages) {
    const PotSettings settings{.shape = {1, 2, 2, 8},
                               .capacity = 50,
                               .key_storage = storage,
                               .rope = plain_rope(8, 10000, Pairing::interleaved)};
    Pot<float> pot(settings);
    std::vector<std::vector<std::vector<double>>> raw(2);
    for (std::size_t i = 0; i < 50; ++i)
      for (std::size_t head = 0; head < 2; ++head) {
        raw[head].push_back(random.uniforms(8));
        for (std::size_t c = 0; c < 8; ++c) raw[head][i][c] = static_cast<double>(c) + 0.1 * raw[head][i][c];
        const auto key = storage == KeyStorage::unrotated
                             ? raw[head][i]
                             : reference::rotated(raw[head][i], settings.rope, static_cast<double>(i));
        const std::vector<float> row(key.begin(), key.end());
        pot.write(0, head, i, row.data(), row.data());
      }
    pot.append(std::vector<Entry>(50));
    const KeyChannels channels = infinipot::measure_key_channels(pot);
    for (std::size_t head = 0; head < 2; ++head)
      for (std::size_t c = 0; c < 8; ++c) {
        double mean = 0, variance = 0;
        for (const auto& key : raw[head]) mean += key[c] / 50;
        for (const auto& key : raw[head]) variance += (key[c] - mean) * (key[c] - mean) / 50;
        EXPECT_NEAR(channels.centre[head * 8 + c], mean, 1e-5);
        EXPECT_NEAR(channels.spread[head * 8 + c], std::max(std::sqrt(variance), 1e-3 * mean + 1e-6), 1e-5);
      }
  }
}

std::string message_of(const auto& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(KeyChannels, AreChecked) {
  const infinipot::Shape shape{1, 1, 1, 4};
  const PotSettings settings{.shape = shape, .capacity = 4, .rope = {}};
  const auto refused = [&](KeyChannels channels) {
    return message_of([&] { Pot<int8>(settings, channels); });
  };
  EXPECT_NE(refused({{1, 2}, {1, 1, 1, 1}}).find("2 centres and 4 spreads"), std::string::npos);
  EXPECT_NE(refused({{0, 0, 0, NAN}, {1, 1, 1, 1}}).find("centre nan is not finite"), std::string::npos);
  EXPECT_NE(refused({{0, 0, 0, 0}, {1, 1, 0, 1}}).find("spread 0 is not"), std::string::npos);
  EXPECT_NE(refused({{0, 0, 0, 0}, {1, 1, INFINITY, 1}}).find("spread inf is not"), std::string::npos);
  Pot<float> empty(settings);
  EXPECT_NE(message_of([&] { infinipot::measure_key_channels(empty); }).find("at least 2 entries"),
            std::string::npos);
}

TEST(QuantizedPot, HeadsMayNotBeTooWide) {
  EXPECT_NE(message_of([] {
              Pot<int4>({.shape = {1, 1, 1, 1025}, .capacity = 4, .rope = {}});
            }).find("head_dim 1025"),
            std::string::npos);
  // The last one's rows would have 2^64 bytes of 8-bit codes: 0.
  for (const std::size_t wide : {std::size_t{1025}, std::size_t{17361641481138401520U}})
    EXPECT_NE(message_of([&] {
                Pot<int8>({.shape = {1, 1, 1, 4, wide}, .capacity = 4, .rope = {}});
              }).find("value_dim " + std::to_string(wide)),
              std::string::npos);
}

}  // namespace
