#include "infinipot/rope/reindex.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "infinipot/pot.hpp"
#include "reference/random.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::AngleTable;
using infinipot::bf16;
using infinipot::f16;
using infinipot::Index;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Rope;

constexpr Pairing pairings[] = {Pairing::half_split, Pairing::interleaved};

struct Size {
  std::size_t head_dim, rotary_dim;
};
// Among them pair counts on both sides of the tile of 64.
constexpr Size sizes[] = {{2, 2},     {64, 64},   {64, 16},   {80, 80},   {96, 72},   {128, 126},
                          {128, 128}, {130, 130}, {256, 256}, {256, 128}, {258, 258}, {260, 254}};

template <class T>
class Keys : public testing::Test {};
using Elements = testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(Keys, Elements);

/// The keys of one head as an engine stores them, with the raw keys they came from.
template <class T>
struct Head {
  Head(const Rope& model, std::size_t d, std::size_t rows, std::size_t gap)
      : rope(model), head_dim(d), stride(d + gap), keys(rows * stride, T(42.0f)) {}

  T* row(std::size_t i) { return keys.data() + i * stride; }

  /// The engine writes a key for the next position.
  void write(reference::Random& random) {
    const auto position = static_cast<double>(raw.size());
    raw.push_back(random.uniforms(head_dim));
    std::ranges::transform(reference::rotated(raw.back(), rope, position), row(raw.size() - 1),
                           reference::stored<T>);
  }

  void gather_raw(const std::vector<Index>& kept) {
    std::vector<std::vector<double>> next;
    for (const Index i : kept) next.push_back(raw.at(i));
    raw = next;
  }

  double worst_error() {
    double worst = 0;
    for (std::size_t i = 0; i < raw.size(); ++i) {
      const auto exact = reference::rotated(raw[i], rope, static_cast<double>(i));
      worst = std::max(worst, reference::stored_error(row(i), exact, raw[i], rope));
    }
    return worst;
  }

  bool gaps_untouched() {
    for (std::size_t i = 0; i * stride < keys.size(); ++i)
      for (std::size_t c = head_dim; c < stride; ++c)
        if (keys[i * stride + c] != T(42.0f)) return false;
    return true;
  }

  Rope rope;
  std::size_t head_dim, stride;
  std::vector<T> keys;
  std::vector<std::vector<double>> raw;  // of the entries held
};

/// The originals of one head, and distillations of its keys by reindex_keys itself.
template <class T>
struct Originals {
  static constexpr std::size_t guard = 5;

  Originals(const Rope& model, std::size_t capacity, std::size_t max_keep, std::size_t d)
      : rope(model),
        head_dim(d),
        memory(AngleTable::floats(rope, capacity)),
        angles(rope, capacity, memory),
        rows(max_keep * d + guard, T(7.0f)),
        row(max_keep),
        position(max_keep),
        in_use(max_keep) {}

  void keep(std::vector<T>& keys, std::size_t stride, const std::vector<Index>& kept) {
    const infinipot::KeyOrigins origins{row, position, in_use, survivors};
    const auto before =
        static_cast<std::size_t>(std::ranges::count_if(kept, [&](Index i) { return i < origins.survivors; }));
    ASSERT_EQ(infinipot::assign_rows(origins, kept), before);
    infinipot::reindex_keys<T>(keys.data(), static_cast<std::ptrdiff_t>(stride), head_dim, kept, origins,
                               before, rows.data(), angles, rope.pairing);
    survivors = kept.size();
    for (std::size_t i = row.size() * head_dim; i < rows.size(); ++i) ASSERT_EQ(rows[i], T(7.0f));
  }

  Rope rope;
  std::size_t head_dim;
  std::vector<float> memory;
  AngleTable angles;
  std::vector<T> rows;
  std::vector<Index> row, position;
  std::vector<std::uint8_t> in_use;
  std::size_t survivors = 0;
};

/// Several distillations of one head.
template <class T>
void expect_exact_keys(const Rope& rope, std::size_t d, std::size_t capacity, std::size_t gap,
                       std::uint64_t seed) {
  reference::Random random(seed);
  Head<T> head(rope, d, capacity, gap);
  const std::size_t max_keep = capacity - 1;
  Originals<T> originals(rope, capacity, max_keep, d);
  for (int round = 0; round < 5; ++round) {
    while (head.raw.size() < capacity) head.write(random);
    const auto kept = random.subset<Index>(1 + random.below(max_keep), capacity);
    ASSERT_NO_FATAL_FAILURE(originals.keep(head.keys, head.stride, kept));
    head.gather_raw(kept);
    ASSERT_LE(head.worst_error(), 1) << "d " << d << " r " << rope.rotary_dim() << " round " << round;
    ASSERT_TRUE(head.gaps_untouched());
  }
}

TYPED_TEST(Keys, EqualTheRawKeyRotatedForItsNewPosition) {
  std::uint64_t seed = 100;
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings)
      for (const std::size_t capacity : {2u, 3u, 13u, 65u})
        for (const std::size_t gap : {0u, 3u})
          expect_exact_keys<TypeParam>(plain_rope(rotary_dim, 10000, pairing), head_dim, capacity, gap,
                                       seed++);
}

TYPED_TEST(Keys, AttentionFactorAndAnyFrequenciesComeThrough) {
  for (const Pairing pairing : pairings) {
    Rope rope = plain_rope(32, 10000, pairing);
    rope.attention_factor = 1.3;
    rope.frequencies[3] = -0.7;
    rope.frequencies[4] = 0;
    expect_exact_keys<TypeParam>(rope, 40, 31, 1, 200);
  }
}

TYPED_TEST(Keys, ThatDoNotMoveKeepTheirBits) {
  reference::Random random(300);
  for (const Pairing pairing : pairings) {
    Head<TypeParam> head(plain_rope(64, 10000, pairing), 64, 16, 2);
    for (int i = 0; i < 16; ++i) head.write(random);
    const auto before = head.keys;
    Originals<TypeParam> originals(head.rope, 16, 15, 64);
    const auto kept = random.subset<Index>(12, 12);
    for (int round = 0; round < 2; ++round) {
      ASSERT_NO_FATAL_FAILURE(originals.keep(head.keys, 66, kept));
      EXPECT_EQ(head.keys, before);
    }
  }
}

TYPED_TEST(Keys, OriginalsAreTheBitsFirstWritten) {
  reference::Random random(400);
  Head<TypeParam> head(plain_rope(32), 48, 20, 0);
  for (int i = 0; i < 20; ++i) head.write(random);
  auto first = head.keys;
  Originals<TypeParam> originals(head.rope, 20, 19, 48);
  std::vector<Index> held = random.subset<Index>(20, 20);
  for (const std::size_t keep : {15u, 11u, 6u, 1u}) {
    const auto kept = random.subset<Index>(keep, held.size());
    ASSERT_NO_FATAL_FAILURE(originals.keep(head.keys, 48, kept));
    std::vector<Index> next;
    for (const Index i : kept) next.push_back(held[i]);
    held = next;
    for (std::size_t j = 0; j < keep; ++j) {
      const Index row = originals.row[j];
      ASSERT_EQ(originals.position[row], held[j]);
      for (std::size_t c = 0; c < 48; ++c) ASSERT_EQ(originals.rows[row * 48 + c], first[held[j] * 48 + c]);
    }
  }
}

TYPED_TEST(Keys, RotateRowInPlaceEqualsOutOfPlace) {
  reference::Random random(500);
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings) {
      const Rope rope = plain_rope(rotary_dim, 10000, pairing);
      std::vector<float> memory(AngleTable::floats(rope, 8));
      const AngleTable angles(rope, 8, memory);
      Head<TypeParam> head(rope, head_dim, 1, 0);
      head.write(random);
      std::vector<TypeParam> out(head_dim + 2, TypeParam(42.0f)), in_place = head.keys;
      infinipot::detail::rotate_row(head.keys.data(), angles[5], pairing, head_dim, out.data());
      infinipot::detail::rotate_row(in_place.data(), angles[5], pairing, head_dim, in_place.data());
      const auto exact = reference::rotated(head.raw[0], rope, -5);
      EXPECT_LE(reference::stored_error(out.data(), exact, head.raw[0], rope), 1);
      EXPECT_LE(reference::stored_error(in_place.data(), exact, head.raw[0], rope), 1);
      EXPECT_EQ(out[head_dim], TypeParam(42.0f));
      EXPECT_EQ(out[head_dim + 1], TypeParam(42.0f));
    }
}

TEST(AssignRows, EachKeptEntryHasOneOfItsOwn) {
  reference::Random random(600);
  for (int round = 0; round < 200; ++round) {
    const std::size_t size = 1 + random.below(64), max_keep = 1 + random.below(size);
    const std::size_t survivors = random.below(max_keep + 1);
    std::vector<Index> row = random.subset<Index>(survivors, max_keep), position(max_keep, 999);
    std::reverse(row.begin(), row.end());
    for (std::size_t i = 0; i < survivors; ++i) position[row[i]] = static_cast<Index>(1000 + i);
    row.resize(max_keep);
    std::vector<std::uint8_t> in_use(max_keep, 1);
    const auto before = row;
    const auto kept = random.subset<Index>(random.below(max_keep + 1), size);
    const std::size_t moved = infinipot::assign_rows({row, position, in_use, survivors}, kept);
    std::set<Index> taken;
    for (std::size_t j = 0; j < kept.size(); ++j) {
      ASSERT_LT(row[j], max_keep);
      ASSERT_TRUE(taken.insert(row[j]).second);
      ASSERT_EQ(j < moved, kept[j] < survivors);
      if (j < moved) {
        ASSERT_EQ(row[j], before[kept[j]]);
      }
      ASSERT_EQ(position[row[j]], j < moved ? 1000 + kept[j] : kept[j]);
    }
  }
}

// --- No drift ---

/// An entry of the drift test.
struct Traveller {
  std::vector<double> raw;
  int survived = 0;
  bool forced = false;  // never dropped
};

/// A pot that crumbles: each round writes a few new keys at the end and drops as many entries at random, so
/// survivors move by about one position, hundreds of times. Beside it, the same keys the naive way: turned in
/// place by each round's shift, rounded, and turned again. (Survivors that jump to the front at once, as when
/// half the pot is dropped, would not move again and show nothing.)
template <class T>
class Crumbling {
 public:
  static constexpr std::size_t capacity = 700, full = 690, head_dim = 14;

  explicit Crumbling(const Rope& rope)
      : rope_(rope),
        pot_({.shape = {1, 1, 1, head_dim}, .capacity = capacity, .max_keep = full, .rope = rope}),
        naive_(capacity * head_dim) {
    write(full);
    // The longest journeys start at the end.
    for (std::size_t i = full - 64; i < full; i += 8) entries_[i].forced = true;
  }

  void round() {
    write(1 + random_.below(2));
    std::set<Index> dropped;
    while (dropped.size() < entries_.size() - full) {
      const std::size_t i = random_.below(entries_.size());
      if (!entries_[i].forced) dropped.insert(static_cast<Index>(i));
    }
    infinipot::Selection kept(1, full);
    std::size_t j = 0;
    for (Index i = 0; i < entries_.size(); ++i)
      if (!dropped.contains(i)) kept.lane(0)[j++] = i;
    keep(kept);
    for (std::size_t i = full - 2; i < full; ++i)
      if (entries_[i].survived == 1) once_ = std::max(once_, error_of(i));
  }

  struct Errors {
    double once = 0, hundreds = 0, all = 0, naive = 0;
    int survivors_of_hundreds = 0, survivors_of_all = 0;
  };

  /// Worst errors as shares of the bound, by how many of `rounds` distillations an entry survived.
  Errors errors(int rounds) const {
    Errors worst{.once = once_};
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const Traveller& entry = entries_[i];
      const double error = error_of(i);
      if (entry.survived >= 200) worst.hundreds = std::max(worst.hundreds, error);
      worst.survivors_of_hundreds += entry.survived >= 200;
      if (!entry.forced || entry.survived < rounds) continue;
      ++worst.survivors_of_all;
      worst.all = std::max(worst.all, error);
      worst.naive = std::max(worst.naive, error_of(naive_.data() + i * head_dim, i));
    }
    return worst;
  }

 private:
  void write(std::size_t count) {
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t i = entries_.size();
      entries_.push_back({random_.uniforms(head_dim)});
      T* const row = pot_.keys(0).row(0, i);
      std::ranges::transform(reference::rotated(entries_[i].raw, rope_, static_cast<double>(i)), row,
                             reference::stored<T>);
      std::copy_n(row, head_dim, naive_.data() + i * head_dim);
    }
    pot_.append(std::vector<infinipot::Entry>(count));
  }

  double error_of(std::size_t i) const { return error_of(pot_.keys(0).row(0, i), i); }

  double error_of(const T* key, std::size_t i) const {
    const auto exact = reference::rotated(entries_[i].raw, rope_, static_cast<double>(i));
    return reference::stored_error(key, exact, entries_[i].raw, rope_);
  }

  void keep(const infinipot::Selection& kept) {
    std::vector<Traveller> next;
    for (std::size_t j = 0; j < full; ++j) {
      const Index i = kept.lane(0)[j];
      next.push_back(std::move(entries_[i]));
      ++next.back().survived;
      infinipot::detail::rotate_row(naive_.data() + i * head_dim, pot_.angles()[i - j], rope_.pairing,
                                    head_dim, naive_.data() + j * head_dim);
    }
    entries_ = std::move(next);
    pot_.keep(kept);
  }

  Rope rope_;
  infinipot::Pot<T> pot_;
  std::vector<T> naive_;
  std::vector<Traveller> entries_;
  double once_ = 0;  // worst error so far of an entry that has just survived its first distillation
  reference::Random random_{700};
};

TYPED_TEST(Keys, DoNotDriftInAThousandDistillations) {
  constexpr int rounds = 1000;
  for (const Pairing pairing : pairings)
    for (const std::size_t rotary_dim : {14u, 8u}) {
      Crumbling<TypeParam> pot(plain_rope(rotary_dim, 10000, pairing));
      for (int round = 1; round <= rounds; ++round) {
        pot.round();
        if (round % 100 != 0) continue;
        // One bound for all, for one distillation or a thousand.
        const auto worst = pot.errors(round);
        ASSERT_LE(worst.once, 1) << "round " << round;
        ASSERT_LE(worst.hundreds, 1) << "round " << round;
        ASSERT_LE(worst.all, 1) << "round " << round;
        ASSERT_EQ(worst.survivors_of_all, 8);
      }
      const auto worst = pot.errors(rounds);
      EXPECT_GT(worst.survivors_of_hundreds, 100);
      // The bound is not so wide that anything passes ...
      EXPECT_GT(worst.once, 0.25);
      EXPECT_GT(worst.hundreds, 0.25);
      // ... and the naive way does not.
      EXPECT_GT(worst.naive, 10);
    }
}

/// The other extreme: half of a small pot is dropped each time, so most entries survive only a few times.
TYPED_TEST(Keys, DoNotDriftWhenHalfIsDropped) {
  for (const Pairing pairing : pairings) {
    reference::Random random(800);
    Head<TypeParam> head(plain_rope(16, 10000, pairing), 16, 64, 0);
    Originals<TypeParam> originals(head.rope, 64, 32, 16);
    for (int round = 0; round < 1000; ++round) {
      while (head.raw.size() < 64) head.write(random);
      const auto kept = random.subset<Index>(32, 64);
      ASSERT_NO_FATAL_FAILURE(originals.keep(head.keys, 16, kept));
      head.gather_raw(kept);
      ASSERT_LE(head.worst_error(), 1) << "round " << round;
    }
  }
}

}  // namespace
