#include "infinipot/pot.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/pot/pot_file.hpp"
#include "reference/random.hpp"
#include "reference/reference_pot.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::bf16;
using infinipot::Entry;
using infinipot::f16;
using infinipot::Granularity;
using infinipot::Index;
using infinipot::KeyStorage;
using infinipot::KvLayout;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Pot;
using infinipot::PotSettings;
using infinipot::Rope;
using infinipot::Selection;
using infinipot::Shape;
using infinipot::strided_rows;

static_assert(infinipot::Store<Pot<float>> && infinipot::Store<Pot<f16>> && infinipot::Store<Pot<bf16>>);
static_assert(infinipot::ReadableKeys<Pot<float>> && infinipot::ReadableKeys<Pot<f16>>);
static_assert(std::is_nothrow_move_constructible_v<Pot<float>> && !std::is_copy_constructible_v<Pot<float>>);

constexpr Granularity granularities[] = {Granularity::head, Granularity::layer, Granularity::shared};
constexpr KeyStorage storages[] = {KeyStorage::rotated, KeyStorage::unrotated};
constexpr Pairing pairings[] = {Pairing::half_split, Pairing::interleaved};

struct Case {
  Shape shape;
  std::size_t rotary_dim, capacity;
  std::size_t first_channel = 0;
  std::vector<std::size_t> layers_without_rope = {};
};
const Case cases[] = {{{1, 1, 1, 2}, 2, 2},
                      {{2, 4, 2, 2}, 0, 3},
                      {{1, 3, 3, 64}, 64, 3},
                      {{3, 4, 1, 64}, 32, 13},
                      {{2, 2, 2, 80}, 80, 7},
                      {{1, 8, 4, 80}, 20, 31},
                      {{2, 6, 3, 96}, 96, 17},
                      {{1, 2, 2, 128}, 128, 63},
                      {{2, 2, 1, 128}, 126, 64},
                      {{1, 4, 2, 256}, 256, 65},
                      {{5, 5, 5, 6}, 4, 23},
                      // DeepSeek's MLA, its expanded form, SmolLM3, and full layers of Cohere 2
                      {{2, 8, 1, 72, 0}, 8, 19, 64},
                      {{2, 4, 4, 48, 32}, 16, 12, 32},
                      {{4, 4, 2, 32}, 32, 14, 0, {1, 3}},
                      {{2, 4, 2, 16, 24}, 16, 9, 0, {0, 1}}};

PotSettings settings_of(const Case& c, KeyStorage storage, Granularity granularity, Pairing pairing) {
  return {.shape = c.shape,
          .capacity = c.capacity,
          .max_keep = c.capacity - 1,
          .granularity = granularity,
          .key_storage = storage,
          .rope = {pairing, plain_rope(c.rotary_dim).frequencies, 1, c.first_channel},
          .layers_without_rope = c.layers_without_rope};
}

/// The key row that an engine would write for a raw key.
std::vector<double> exact_key(const std::vector<double>& raw, const Rope& rope, KeyStorage storage,
                              std::size_t position) {
  return storage == KeyStorage::unrotated ? raw
                                          : reference::rotated(raw, rope, static_cast<double>(position));
}

/// An engine that fills pots with random tokens, and remembers in full precision what it wrote.
template <class T>
class Engine {
 public:
  Engine(const PotSettings& settings, std::uint64_t seed)
      : settings_(settings), model_(settings.shape, settings.granularity), random_(seed) {}

  /// Writes the same `count` tokens into all pots.
  void feed(std::size_t count, const std::vector<Pot<T>*>& pots) {
    std::vector<Entry> entries(count);
    for (Entry& entry : entries) {
      entry = {next_position_++, static_cast<infinipot::Token>(random_.below(1000)),
               static_cast<float>(random_.uniform()), random_.below(4) == 0};
      write(entry, pots);
    }
    for (Pot<T>* pot : pots) pot->append(entries);
  }

  /// A random selection, different in every lane.
  Selection select(std::size_t keep) {
    const std::size_t lanes = settings_.shape.lanes(settings_.granularity);
    Selection selection(lanes, keep);
    for (std::size_t lane = 0; lane < lanes; ++lane)
      std::ranges::copy(random_.subset<Index>(keep, model_.size()), selection.lane(lane).begin());
    return selection;
  }

  /// Keys were rounded `roundings` times at most.
  void expect_holds(const Pot<T>& pot, int roundings = 1) {
    ASSERT_EQ(pot.size(), model_.size());
    for (std::size_t layer = 0; layer < settings_.shape.layers; ++layer)
      for (std::size_t head = 0; head < settings_.shape.kv_heads; ++head)
        for (std::size_t i = 0; i < pot.size(); ++i) {
          SCOPED_TRACE(testing::Message() << "layer " << layer << " head " << head << " entry " << i);
          const reference::Item& item = model_.head(layer, head)[i];
          ASSERT_NO_FATAL_FAILURE(expect_record(pot, model_.lane(layer, head), i, item));
          ASSERT_NO_FATAL_FAILURE(expect_key(pot.keys(layer).row(head, i),
                                             reference::rope_of(settings_, layer), i, item, roundings));
          for (std::size_t c = 0; c < settings_.shape.value_channels(); ++c)
            ASSERT_EQ(pot.values(layer).row(head, i)[c], reference::stored<T>(item.value[c]));
        }
  }

  reference::Pot& model() { return model_; }
  reference::Random& random() { return random_; }

 private:
  void write(const Entry& entry, const std::vector<Pot<T>*>& pots) {
    const std::size_t d = settings_.shape.head_dim, v = settings_.shape.value_channels(), at = model_.size();
    for (std::size_t layer = 0; layer < settings_.shape.layers; ++layer)
      for (std::size_t head = 0; head < settings_.shape.kv_heads; ++head) {
        const std::vector<double> raw = random_.uniforms(d), value = random_.uniforms(v);
        const auto key = exact_key(raw, reference::rope_of(settings_, layer), settings_.key_storage, at);
        for (Pot<T>* pot : pots) {
          std::ranges::transform(key, pot->keys(layer).row(head, at), reference::stored<T>);
          if (v > 0) std::ranges::transform(value, pot->values(layer).row(head, at), reference::stored<T>);
        }
        model_.head(layer, head).push_back({raw, {value.begin(), value.end()}, entry, 0});
      }
  }

  void expect_record(const Pot<T>& pot, std::size_t lane, std::size_t i, const reference::Item& item) const {
    ASSERT_EQ(pot.entries().positions(lane)[i], item.entry.position);
    ASSERT_EQ(pot.entries().tokens(lane)[i], item.entry.token);
    ASSERT_EQ(pot.entries().nuc(lane)[i], item.entry.nuc);
    ASSERT_EQ(pot.entries().pinned(lane)[i] != 0, item.entry.pinned);
    ASSERT_EQ(pot.entries().survived(lane)[i], item.survived);
  }

  void expect_key(const T* key, const Rope& rope, std::size_t i, const reference::Item& item,
                  int roundings) const {
    const std::size_t d = settings_.shape.head_dim;
    if (settings_.key_storage == KeyStorage::unrotated) {
      for (std::size_t c = 0; c < d; ++c) ASSERT_EQ(key[c], reference::stored<T>(item.raw_key[c]));
    } else {
      const auto exact = reference::rotated(item.raw_key, rope, static_cast<double>(i));
      // A key that was rounded is longer by a unit roundoff at most, and so is the next one's bound.
      ASSERT_LE(reference::stored_error(key, exact, item.raw_key, rope),
                roundings * (1 + (roundings - 1) * reference::roundoff<T>));
    }
  }

  PotSettings settings_;
  reference::Pot model_;
  reference::Random random_;
  std::uint64_t next_position_ = 0;
};

template <class T>
class Pots : public testing::Test {};
using Elements = testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(Pots, Elements);

template <class T, class Check>
void for_all_settings(Check check) {
  for (const Case& c : cases)
    for (const KeyStorage storage : storages)
      for (const Granularity granularity : granularities)
        for (const Pairing pairing : pairings) {
          SCOPED_TRACE(testing::Message()
                       << "capacity " << c.capacity << " d " << c.shape.head_dim << " r " << c.rotary_dim
                       << " granularity " << static_cast<int>(granularity) << " storage "
                       << static_cast<int>(storage) << " pairing " << static_cast<int>(pairing));
          ASSERT_NO_FATAL_FAILURE(check(settings_of(c, storage, granularity, pairing)));
        }
}

// --- What a pot holds ---

TYPED_TEST(Pots, FollowAModelThroughRandomOperations) {
  for_all_settings<TypeParam>([](const PotSettings& settings) {
    Pot<TypeParam> pot(settings);
    Engine<TypeParam> engine(settings, settings.capacity);
    for (int round = 0; round < 6; ++round) {
      const std::size_t room = settings.capacity - pot.size();
      engine.feed(round % 2 == 0 ? room : engine.random().below(room + 1), {&pot});
      if (engine.random().below(3) == 0) {
        const std::size_t size = engine.random().below(pot.size() + 2);
        pot.truncate(size);
        engine.model().truncate(size);
      }
      ASSERT_NO_FATAL_FAILURE(engine.expect_holds(pot));
      if (pot.size() == 0) continue;
      const Selection kept =
          engine.select(1 + engine.random().below(std::min(pot.size(), settings.max_keep)));
      pot.keep(kept);
      engine.model().keep(kept);
      ASSERT_NO_FATAL_FAILURE(engine.expect_holds(pot));
    }
  });
}

TYPED_TEST(Pots, TruncationBelowTheSurvivorsForgetsTheirOrigins) {
  // New keys are written where survivors stood, whose origins must not be taken for theirs.
  const PotSettings settings =
      settings_of(cases[6], KeyStorage::rotated, Granularity::head, Pairing::half_split);
  Pot<TypeParam> pot(settings);
  Engine<TypeParam> engine(settings, 1);
  for (int round = 0; round < 10; ++round) {
    engine.feed(settings.capacity - pot.size(), {&pot});
    Selection kept = engine.select(10);
    pot.keep(kept);
    engine.model().keep(kept);
    pot.truncate(4);
    engine.model().truncate(4);
    engine.feed(6, {&pot});
    kept = engine.select(8);
    pot.keep(kept);
    engine.model().keep(kept);
    ASSERT_NO_FATAL_FAILURE(engine.expect_holds(pot));
  }
}

TYPED_TEST(Pots, TakeEntriesOfALargerOneThatStoodBeyondTheirPositions) {
  for_all_settings<TypeParam>([](const PotSettings& settings) {
    PotSettings larger = settings;
    larger.capacity = 3 * settings.capacity;
    larger.max_keep = settings.max_keep;
    Pot<TypeParam> from(larger), pot(settings);
    Engine<TypeParam> engine(larger, settings.capacity);
    engine.feed(larger.capacity, {&from});
    const Selection first = engine.select(settings.max_keep);
    from.keep(first);
    engine.model().keep(first);
    engine.feed(1, {&from});
    pot.assign(from, from.size());
    ASSERT_NO_FATAL_FAILURE(engine.expect_holds(pot));
    for (int round = 0; round < 2; ++round) {
      const Selection kept = engine.select((pot.size() + 1) / 2);
      pot.keep(kept);
      engine.model().keep(kept);
      ASSERT_NO_FATAL_FAILURE(engine.expect_holds(pot, 2));
      std::ostringstream file;
      infinipot::save_pot(pot, file);
      const std::string bytes = file.str();
      const auto loaded = infinipot::load_pot<TypeParam>(std::as_bytes(std::span(bytes)));
      ASSERT_NO_FATAL_FAILURE(engine.expect_holds(loaded, 2));
    }
  });
}

TYPED_TEST(Pots, KeepingNothingEmptiesThem) {
  const PotSettings settings =
      settings_of(cases[3], KeyStorage::rotated, Granularity::head, Pairing::interleaved);
  Pot<TypeParam> pot(settings);
  Engine<TypeParam> engine(settings, 2);
  engine.feed(9, {&pot});
  pot.keep(Selection(3, 0));
  engine.model().truncate(0);
  EXPECT_EQ(pot.size(), 0u);
  engine.feed(settings.capacity, {&pot});
  engine.expect_holds(pot);
}

TYPED_TEST(Pots, SurviveAMove) {
  const PotSettings settings =
      settings_of(cases[5], KeyStorage::rotated, Granularity::head, Pairing::half_split);
  Pot<TypeParam> first(settings);
  Engine<TypeParam> engine(settings, 3);
  engine.feed(20, {&first});
  Selection kept = engine.select(11);
  first.keep(kept);
  engine.model().keep(kept);
  Pot<TypeParam> second(std::move(first));
  ASSERT_NO_FATAL_FAILURE(engine.expect_holds(second));
  Pot<TypeParam> third({.shape = {1, 1, 1, 2}, .capacity = 2, .rope = {}});
  third = std::move(second);
  engine.feed(15, {&third});
  kept = engine.select(7);
  third.keep(kept);
  engine.model().keep(kept);
  ASSERT_NO_FATAL_FAILURE(engine.expect_holds(third));
}

TEST(Pot, TwoLanesKeepDifferentTokensAndDoNotTouchEachOther) {
  // Head 0 keeps the first entries, which do not move: not a bit of it may change, whatever head 1 does.
  const PotSettings settings{.shape = {1, 2, 2, 8},
                             .capacity = 8,
                             .max_keep = 4,
                             .granularity = Granularity::head,
                             .rope = plain_rope(8)};
  Pot<float> pot(settings);
  Engine<float> engine(settings, 4);
  engine.feed(8, {&pot});
  const std::vector<float> before(pot.keys(0).row(0, 0), pot.keys(0).row(0, 0) + 4 * 8);
  Selection kept(2, 4);
  std::ranges::copy(std::vector<Index>{0, 1, 2, 3}, kept.lane(0).begin());
  std::ranges::copy(std::vector<Index>{1, 4, 6, 7}, kept.lane(1).begin());
  pot.keep(kept);
  engine.model().keep(kept);
  engine.expect_holds(pot);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), pot.keys(0).row(0, 0)));
  EXPECT_TRUE(std::ranges::equal(pot.entries().positions(0), std::vector<std::uint64_t>{0, 1, 2, 3}));
  EXPECT_TRUE(std::ranges::equal(pot.entries().positions(1), std::vector<std::uint64_t>{1, 4, 6, 7}));
}

TEST(Pot, ShowsItsSettings) {
  const Rope rope = plain_rope(32, 500000, Pairing::interleaved);
  const Pot<f16> pot({.shape = {3, 6, 2, 64},
                      .capacity = 21,
                      .granularity = Granularity::layer,
                      .key_storage = KeyStorage::unrotated,
                      .rope = rope});
  EXPECT_EQ(pot.shape(), (Shape{3, 6, 2, 64}));
  EXPECT_EQ(pot.capacity(), 21u);
  EXPECT_EQ(pot.max_keep(), 10u);  // half, rounded down
  EXPECT_EQ(pot.granularity(), Granularity::layer);
  EXPECT_EQ(pot.key_storage(), KeyStorage::unrotated);
  EXPECT_EQ(pot.rope().frequencies, rope.frequencies);
  EXPECT_EQ(pot.rope().pairing, Pairing::interleaved);
  EXPECT_EQ(pot.size(), 0u);
  EXPECT_EQ(pot.entries().lanes(), 3u);
  EXPECT_EQ(pot.entries().capacity(), 21u);
}

TEST(Pot, RowsStandOnCacheLines) {
  const Pot<f16> pot({.shape = {2, 2, 2, 80}, .capacity = 5, .rope = plain_rope(80)});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pot.keys(0).data) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pot.values(0).data) % 64, 0u);
}

TYPED_TEST(Pots, BeginWithZeros) {
  const PotSettings settings =
      settings_of(cases[5], KeyStorage::rotated, Granularity::head, Pairing::half_split);
  const std::size_t all = settings.shape.heads() * settings.capacity * settings.shape.head_dim;
  for (int round = 0; round < 2; ++round) {  // the second may get the memory that the first has freed
    const Pot<TypeParam> pot(settings);
    for (TypeParam* const rows : {pot.keys(0).data, pot.values(0).data}) {
      EXPECT_EQ(std::count(rows, rows + all, TypeParam(0.0f)), static_cast<std::ptrdiff_t>(all));
      std::fill_n(rows, all, TypeParam(1.0f));
    }
  }
}

// --- Layouts ---

/// An engine's own memory: canaries everywhere, to check whatever is not a row of the pot.
template <class T>
struct Memory {
  static constexpr std::size_t guard = 7;

  Memory(const Shape& s, std::size_t rows, std::size_t elements)
      : shape(s), capacity(rows), data(elements, canary()) {}

  static T canary() { return T(-77.0f); }

  /// calm: separate K and V, (layer, entry, kv_heads * head_dim), with `gap` elements after each entry.
  static Memory calm(const Shape& shape, std::size_t capacity, std::size_t gap) {
    const auto size = [&](std::size_t channels) {
      return shape.layers * capacity * (shape.kv_heads * channels + gap);
    };
    const std::size_t d = shape.head_dim, v = shape.value_channels();
    Memory memory(shape, capacity, guard + size(d) + guard + size(v) + guard);
    const auto rows = [&](T* first, std::size_t channels) {
      const auto entry = static_cast<std::ptrdiff_t>(shape.kv_heads * channels + gap);
      return strided_rows(first, shape.layers, static_cast<std::ptrdiff_t>(capacity) * entry,
                          static_cast<std::ptrdiff_t>(channels), entry);
    };
    T* const keys = memory.data.data() + guard;
    memory.layout = {rows(keys, d), {}};
    if (v > 0) memory.layout.values = rows(keys + size(d) + guard, v);
    return memory;
  }

  /// gemma.cpp: one row per entry, [layer][kv_head][K, V], with `gap` elements after each row.
  static Memory gemma(const Shape& shape, std::size_t capacity, std::size_t gap) {
    const std::size_t d = shape.head_dim, both = d + shape.value_channels(),
                      entry = shape.heads() * both + gap;
    Memory memory(shape, capacity, guard + capacity * entry + guard);
    const auto layer = static_cast<std::ptrdiff_t>(shape.kv_heads * both);
    const auto head = static_cast<std::ptrdiff_t>(both), row = static_cast<std::ptrdiff_t>(entry);
    T* const keys = memory.data.data() + guard;
    memory.layout = {strided_rows(keys, shape.layers, layer, head, row), {}};
    if (both > d) memory.layout.values = strided_rows(keys + d, shape.layers, layer, head, row);
    return memory;
  }

  /// A copy with all rows of the pot blanked: the rest must never change.
  std::vector<T> outside() {
    std::vector<T> copy = data;
    const auto blank = [&](const std::vector<infinipot::Rows<T>>& rows, std::size_t channels) {
      for (std::size_t layer = 0; layer < rows.size(); ++layer)
        for (std::size_t head = 0; head < shape.kv_heads; ++head)
          for (std::size_t i = 0; i < capacity; ++i)
            std::fill_n(copy.begin() + (rows[layer].row(head, i) - data.data()), channels, T(0.0f));
    };
    blank(layout.keys, shape.head_dim);
    blank(layout.values, shape.value_channels());
    return copy;
  }

  std::size_t non_canaries() {
    const auto left = outside();
    return static_cast<std::size_t>(
        std::ranges::count_if(left, [](T v) { return v != canary() && v != T(0.0f); }));
  }

  Shape shape;
  std::size_t capacity;
  std::vector<T> data;
  KvLayout<T> layout;
};

template <class T>
void expect_same_bits(const Pot<T>& a, const Pot<T>& b) {
  ASSERT_EQ(a.size(), b.size());
  const std::size_t d = a.shape().head_dim, v = a.shape().value_channels();
  for (std::size_t layer = 0; layer < a.shape().layers; ++layer)
    for (std::size_t head = 0; head < a.shape().kv_heads; ++head)
      for (std::size_t i = 0; i < a.size(); ++i) {
        const auto same = [&](const infinipot::Rows<T>& x, const infinipot::Rows<T>& y,
                              std::size_t channels) {
          if (channels == 0) return true;
          return std::memcmp(static_cast<const void*>(x.row(head, i)),
                             static_cast<const void*>(y.row(head, i)), channels * sizeof(T)) == 0;
        };
        ASSERT_TRUE(same(a.keys(layer), b.keys(layer), d)) << "key " << layer << ", " << head << ", " << i;
        ASSERT_TRUE(same(a.values(layer), b.values(layer), v))
            << "value " << layer << ", " << head << ", " << i;
      }
}

TYPED_TEST(Pots, OverAnEnginesMemoryAgreeBitForBitWithTheirOwn) {
  for_all_settings<TypeParam>([](const PotSettings& settings) {
    for (const std::size_t gap : {0u, 5u}) {
      auto calm = Memory<TypeParam>::calm(settings.shape, settings.capacity, gap);
      auto gemma = Memory<TypeParam>::gemma(settings.shape, settings.capacity, gap);
      const auto calm_outside = calm.outside(), gemma_outside = gemma.outside();
      Pot<TypeParam> own(settings), over_calm(settings, calm.layout), over_gemma(settings, gemma.layout);
      Engine<TypeParam> engine(settings, 5);
      for (int round = 0; round < 4; ++round) {
        engine.feed(settings.capacity - own.size(), {&own, &over_calm, &over_gemma});
        const Selection kept = engine.select(1 + engine.random().below(settings.max_keep));
        for (Pot<TypeParam>* pot : {&own, &over_calm, &over_gemma}) pot->keep(kept);
        engine.model().keep(kept);
        ASSERT_NO_FATAL_FAILURE(expect_same_bits(own, over_calm));
        ASSERT_NO_FATAL_FAILURE(expect_same_bits(own, over_gemma));
      }
      ASSERT_NO_FATAL_FAILURE(engine.expect_holds(over_gemma));
      ASSERT_EQ(calm.outside(), calm_outside);
      ASSERT_EQ(gemma.outside(), gemma_outside);
      ASSERT_EQ(calm.non_canaries() + gemma.non_canaries(), 0u);
    }
  });
}

TEST(Pot, OverAnEnginesMemoryAllocatesNoRows) {
  const PotSettings settings{.shape = {4, 4, 4, 64}, .capacity = 128, .rope = plain_rope(64)};
  auto memory = Memory<float>::calm(settings.shape, settings.capacity, 0);
  const std::size_t rows =
      2 * settings.shape.heads() * settings.capacity * settings.shape.head_dim * sizeof(float);
  const Pot<float> own(settings), view(settings, memory.layout);
  EXPECT_EQ(own.bytes() - view.bytes(), rows);
  for (std::size_t layer = 0; layer < settings.shape.layers; ++layer) {
    EXPECT_EQ(view.keys(layer).data, memory.layout.keys[layer].data);
    EXPECT_EQ(view.values(layer).data, memory.layout.values[layer].data);
  }
}

// --- Reading keys ---

/// A key as read must be the stored one, rotated in double precision for its position if that is left to the
/// reader.
template <class T>
void expect_key_read(const Pot<T>& pot, const Rope& rope, const T* stored, std::size_t position,
                     const float* key) {
  const std::size_t d = pot.shape().head_dim;
  std::vector<double> raw(d);
  for (std::size_t c = 0; c < d; ++c) raw[c] = static_cast<double>(static_cast<float>(stored[c]));
  const auto exact = pot.key_storage() == KeyStorage::rotated
                         ? raw
                         : reference::rotated(raw, rope, static_cast<double>(position));
  const auto norms = reference::pair_norms(raw, rope);
  // One rounding more than a rotation: the product with the attention factor.
  const double bound = pot.key_storage() == KeyStorage::rotated ? 0 : reference::rotation_error + 0x1.01p-24;
  for (std::size_t c = 0; c < d; ++c) ASSERT_NEAR(key[c], exact[c], bound * norms[c]) << "channel " << c;
}

template <class T>
void expect_key_rows(const Pot<T>& pot, const Rope& rope, std::size_t layer, std::size_t head,
                     std::size_t first) {
  const std::size_t d = pot.shape().head_dim, count = pot.size() - first;
  std::vector<float> tile(count * d + 1, 42.0f);
  const infinipot::FloatRows rows = pot.key_rows(layer, head, first, count, tile.data());
  const void* where = tile.data();
  if (std::same_as<T, float> && (pot.key_storage() == KeyStorage::rotated || rope.rotary_dim() == 0))
    where = pot.keys(layer).row(head, first);
  ASSERT_EQ(static_cast<const void*>(rows.data), where);
  ASSERT_EQ(tile.back(), 42.0f);
  for (std::size_t i = 0; i < count; ++i)
    ASSERT_NO_FATAL_FAILURE(expect_key_read(pot, rope, pot.keys(layer).row(head, first + i), first + i,
                                            rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride));
}

TYPED_TEST(Pots, KeyRowsAreTheKeysInFloat) {
  for_all_settings<TypeParam>([](PotSettings settings) {
    settings.rope.attention_factor = 1.25;
    auto memory = Memory<TypeParam>::gemma(settings.shape, settings.capacity, 3);
    Pot<TypeParam> own(settings), view(settings, memory.layout);
    Engine<TypeParam> engine(settings, 6);
    engine.feed(settings.capacity, {&own, &view});
    const Selection kept = engine.select((settings.capacity + 1) / 2);
    for (Pot<TypeParam>* pot : {&own, &view}) {
      pot->keep(kept);
      for (std::size_t layer = 0; layer < settings.shape.layers; ++layer)
        for (std::size_t head = 0; head < settings.shape.kv_heads; ++head)
          for (const std::size_t first : {std::size_t{0}, pot->size() / 2})
            ASSERT_NO_FATAL_FAILURE(
                expect_key_rows(*pot, reference::rope_of(settings, layer), layer, head, first));
    }
  });
}

TEST(Pot, KeyRowsReachWrittenEntriesBeforeTheyAreAppended) {
  Pot<float> pot({.shape = {1, 1, 1, 2}, .capacity = 4, .rope = plain_rope(2)});
  pot.keys(0).row(0, 2)[1] = 5;
  const auto rows = pot.key_rows(0, 0, 2, 1, nullptr);
  EXPECT_EQ(rows.data[1], 5);
}

TEST(Pot, AnglesReachTheLastPosition) {
  const Pot<float> pot({.shape = {1, 1, 1, 8}, .capacity = 100, .rope = plain_rope(8)});
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_NEAR(pot.angles()[99].sin[i], std::sin(99 * std::pow(10, -static_cast<double>(i))), 1e-7);
}

// --- Allocation ---

TYPED_TEST(Pots, AllocateNothingAfterConstruction) {
  for (const KeyStorage storage : storages)
    for (const Granularity granularity : granularities) {
      const PotSettings settings = settings_of(cases[6], storage, granularity, Pairing::half_split);
      Pot<TypeParam> pot(settings);
      Engine<TypeParam> engine(settings, 7);
      engine.feed(settings.capacity, {&pot});
      const Selection kept = engine.select(settings.max_keep);
      const std::vector<Entry> added(1);
      std::vector<float> tile(settings.capacity * settings.shape.head_dim);
      const allocation_counter::Scope use;
      pot.keep(kept);
      pot.append(added);
      pot.key_rows(1, 2, 0, pot.size(), tile.data());
      pot.truncate(3);
      Pot<TypeParam> moved(std::move(pot));
      moved.append(added);
      EXPECT_EQ(use.calls(), 0u);
    }
}

TYPED_TEST(Pots, AllocateOnceInTheConstructor) {
  for (const KeyStorage storage : storages)
    for (const bool foreign : {false, true}) {
      PotSettings settings = settings_of(cases[6], storage, Granularity::head, Pairing::half_split);
      auto memory = Memory<TypeParam>::calm(settings.shape, settings.capacity, 0);
      const allocation_counter::Scope construction;
      // Moved in, the rope's vector is not copied.
      const Pot<TypeParam> pot =
          foreign ? Pot<TypeParam>(std::move(settings), memory.layout) : Pot<TypeParam>(std::move(settings));
      const std::size_t calls = construction.calls(), bytes = construction.bytes();
      EXPECT_EQ(calls, 1u);
      EXPECT_EQ(bytes, pot.bytes());
    }
}

TYPED_TEST(Pots, CopyTheRopeOnceIfItIsNotMovedIn) {
  const PotSettings settings =
      settings_of(cases[6], KeyStorage::rotated, Granularity::head, Pairing::half_split);
  const allocation_counter::Scope construction;
  const Pot<TypeParam> pot(settings);
  const std::size_t bytes = construction.bytes();
  EXPECT_EQ(bytes, pot.bytes() + settings.rope.frequencies.size() * sizeof(double));
}

TYPED_TEST(Pots, BytesAreWhatTheArraysNeed) {
  const std::size_t L = 2, G = 3, d = 96, M = 64, C = 32;
  for (const Granularity granularity : granularities) {
    const std::size_t lanes = granularity == Granularity::head    ? L * G
                              : granularity == Granularity::layer ? L
                                                                  : 1;
    const Pot<TypeParam> pot(
        {.shape = {L, G, G, d}, .capacity = M, .granularity = granularity, .rope = plain_rope(d)});
    const std::size_t rows = L * G * (M + M + C) * d * sizeof(TypeParam);
    const std::size_t origins = lanes * (C * (4 + 4 + 1) + sizeof(std::size_t));
    const std::size_t angles = M * d * 4, records = lanes * M * (8 + 4 + 4 + 1 + 4);
    const std::size_t turned = L * sizeof(std::size_t);
    const std::size_t needed = rows + origins + angles + records + turned, arrays = 14;
    EXPECT_GE(pot.bytes(), needed);
    EXPECT_LE(pot.bytes(), needed + arrays * 63);  // aligned to cache lines
  }
}

TEST(Pot, UnrotatedKeysNeedNoOriginals) {
  // Keys as projected move unchanged: the pot holds no copies of them.
  PotSettings settings{.shape = {2, 2, 2, 64}, .capacity = 64, .rope = plain_rope(64)};
  const std::size_t rotated = Pot<float>(settings).bytes();
  settings.key_storage = KeyStorage::unrotated;
  EXPECT_LE(Pot<float>(settings).bytes() + 4 * 32 * 64 * sizeof(float), rotated);
  // Nor do keys that have no position at all.
  settings.key_storage = KeyStorage::rotated;
  settings.rope = plain_rope(0);
  EXPECT_LE(Pot<float>(settings).bytes() + 4 * 32 * 64 * sizeof(float), rotated);
}

TEST(Pot, ValuesAndOriginalsThatThereAreNotTakeNoMemory) {
  const std::size_t capacity = 64, rows = 2 * 2 * capacity * 64 * sizeof(float);
  PotSettings settings{.shape = {2, 2, 2, 64}, .capacity = capacity, .rope = plain_rope(64)};
  const std::size_t all = Pot<float>(settings).bytes();
  settings.shape.value_dim = 0;
  EXPECT_EQ(Pot<float>(settings).bytes() + rows, all);
  settings.shape.value_dim = 128;
  EXPECT_EQ(Pot<float>(settings).bytes(), all + rows);
  settings.shape.value_dim = Shape::as_key;
  settings.layers_without_rope = {0};
  EXPECT_EQ(Pot<float>(settings).bytes() + rows / 4, all);  // originals of a half of the entries of a layer
  EXPECT_FALSE(Pot<float>(settings).rotates(0));
  EXPECT_TRUE(Pot<float>(settings).rotates(1));
}

TYPED_TEST(Pots, GiveBackKeysAsProjectedAndTakeThem) {
  for_all_settings<TypeParam>([](PotSettings settings) {
    settings.rope.attention_factor = 1.25;
    const Shape shape = settings.shape;
    const std::size_t d = shape.head_dim, last = settings.capacity - 1;
    Pot<TypeParam> pot(settings);
    reference::Random random(8);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Rope rope = reference::rope_of(settings, layer);
      const std::vector<double> raw = random.uniforms(d), norms = reference::pair_norms(raw, rope);
      const std::vector<float> value(shape.value_channels(), 0.5f);
      std::vector<float> key(raw.begin(), raw.end()), read(d);
      pot.write_projected(layer, 0, last, key.data(), value.data());
      pot.read_projected(layer, 0, last, read.data());
      // Two rotations, two products with the factor and, when stored, one rounding to the element type.
      const double u = reference::roundoff<TypeParam>;
      for (std::size_t c = 0; c < d; ++c)
        ASSERT_NEAR(read[c], raw[c], 2 * (2 * reference::rotation_error + u) * (norms[c] + 1)) << c;
      for (std::size_t c = 0; c < shape.value_channels(); ++c)
        ASSERT_EQ(pot.values(layer).row(0, last)[c], TypeParam(0.5f));
    }
  });
}

// --- Errors ---

std::string error_of(const PotSettings& settings) {
  try {
    const Pot<f16> pot(settings);
  } catch (const std::invalid_argument& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("not std::invalid_argument, but ") + error.what();
  }
  return "nothing thrown";
}

void expect_error(const PotSettings& settings, const std::vector<std::string>& parts) {
  const std::string message = error_of(settings);
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
}

const PotSettings good{.shape = {2, 4, 2, 8}, .capacity = 8, .max_keep = 4, .rope = plain_rope(8)};

TEST(PotErrors, GoodSettingsPass) { EXPECT_EQ(error_of(good), "nothing thrown"); }

TEST(PotErrors, CapacityOutOfRange) {
  for (const std::size_t capacity : {std::size_t{0}, std::size_t{1}, std::size_t{1} << 32}) {
    PotSettings settings = good;
    settings.capacity = capacity;
    settings.max_keep = 0;
    expect_error(settings, {"capacity " + std::to_string(capacity), "2 .. 4294967295"});
  }
}

TEST(PotErrors, MaxKeepNotBelowCapacity) {
  for (const std::size_t max_keep : {std::size_t{8}, std::size_t{9}, ~std::size_t{0}}) {
    PotSettings settings = good;
    settings.max_keep = max_keep;
    expect_error(settings, {"max_keep " + std::to_string(max_keep), "capacity 8"});
  }
  PotSettings settings = good;
  settings.max_keep = 7;
  EXPECT_EQ(error_of(settings), "nothing thrown");
}

TEST(PotErrors, HeadCountsThatDoNotDivide) {
  PotSettings settings = good;
  settings.shape.kv_heads = 3;
  expect_error(settings, {"query_heads 4", "kv_heads 3"});
  settings.shape.kv_heads = 0;
  expect_error(settings, {"kv_heads 0"});
}

TEST(PotErrors, RopeWiderThanAHead) {
  PotSettings settings = good;
  settings.rope = plain_rope(10);
  expect_error(settings, {"turns 10 channels", "head_dim is 8"});
}

TEST(PotErrors, RopeThatBeginsTooFarBehind) {
  PotSettings settings = good;
  settings.rope = plain_rope(4);
  settings.rope.first_channel = 4;
  EXPECT_EQ(error_of(settings), "nothing thrown");
  for (const std::size_t first : {std::size_t{5}, std::size_t{9}, ~std::size_t{0}}) {
    settings.rope.first_channel = first;
    expect_error(settings, {"turns 4 channels from channel " + std::to_string(first), "head_dim is 8"});
  }
}

TEST(PotErrors, LayersWithoutRopeThatAreNone) {
  PotSettings settings = good;
  settings.layers_without_rope = {0, 2};
  expect_error(settings, {"layer 2", "out of range 0 .. 1"});
  settings.layers_without_rope = {1, 0};
  expect_error(settings, {"must ascend", "0 comes after 1"});
  settings.layers_without_rope = {1, 1};
  expect_error(settings, {"must ascend"});
}

TEST(PotErrors, RopeThatIsNotFinite) {
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    PotSettings settings = good;
    settings.rope.frequencies[2] = bad;
    expect_error(settings, {"frequency " + std::string(std::isnan(bad) ? "nan" : "inf")});
  }
  PotSettings settings = good;
  settings.rope.attention_factor = -1;
  expect_error(settings, {"attention factor -1"});
}

TEST(PotErrors, SizesThatOverflow) {
  constexpr std::size_t one = 1;
  // From the second on, products of the dimensions wrap around to small numbers.
  const std::tuple<Shape, std::size_t, std::string> too_large[] = {
      {{one << 20, 1, 1, one << 20}, one << 22, std::to_string(one << 62)},
      {{one << 20, 1, 1, one << 20}, one << 24, "too large"},
      {{one << 32, one << 32, one << 32, 2}, 4, "too large"},
      {{(one << 32) + 1, (one << 32) - 1, (one << 32) - 1, 2}, 4, "too large"}};
  for (const auto& [shape, capacity, part] : too_large) {
    PotSettings settings{.shape = shape, .capacity = capacity, .rope = {}};
    for (const Granularity granularity : granularities) {
      settings.granularity = granularity;
      expect_error(settings, {part});
    }
  }
}

/// What the constructor says of a layout.
std::string error_of(const KvLayout<float>& layout) {
  try {
    const Pot<float> pot(good, layout);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(PotErrors, LayoutsThatLackALayer) {
  auto memory = Memory<float>::calm(good.shape, good.capacity, 0);
  EXPECT_EQ(error_of(memory.layout), "nothing thrown");
  KvLayout<float> without_values = memory.layout, nowhere = memory.layout;
  without_values.values.pop_back();
  EXPECT_NE(error_of(without_values).find("values of 1 layers, but the shape has 2"), std::string::npos);
  nowhere.keys[1].data = nullptr;
  EXPECT_NE(error_of(nowhere).find("keys of layer 1 are at a null pointer"), std::string::npos);
  EXPECT_NE(error_of(KvLayout<float>{}).find("keys of 0 layers"), std::string::npos);
}

}  // namespace
