#include "infinipot/cap.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/element.hpp"
#include "reference/random.hpp"
#include "reference/reference_scores.hpp"

namespace {

using infinipot::Alibi;
using infinipot::AttentionForm;
using infinipot::CapScorer;
using infinipot::FloatRows;
using infinipot::Queries;
using infinipot::Reduce;
using infinipot::Shape;
using infinipot::SlidingWindow;
using infinipot::detail::is_nan;
using reference::CapCase;

const float inf = -infinipot::detail::minus_infinity();
const float nan = infinipot::detail::quiet_nan<float>();

std::vector<float> random_floats(std::size_t n, std::uint64_t seed, float spread) {
  reference::Random random(seed);
  std::vector<float> values(n);
  for (float& x : values) x = spread * static_cast<float>(random.uniform());
  return values;
}

/// `first` entries before `count` queries. `spread` of queries and keys sets the size of the logits.
CapCase random_case(const Shape& shape, std::size_t first, std::size_t count, std::uint64_t seed,
                    float spread = 1.5F) {
  CapCase c{.shape = shape, .first = first, .count = count, .queries = {}, .keys = {}, .bias = {}};
  c.kv_head = seed % shape.kv_heads;
  c.queries = random_floats(count * shape.query_heads * shape.head_dim, seed, spread);
  c.keys = random_floats((first + count) * shape.head_dim, seed + 1000, spread);
  return c;
}

Queries queries_of(const CapCase& c) {
  const auto d = static_cast<std::ptrdiff_t>(c.shape.head_dim);
  return {c.queries.data(), c.count, static_cast<std::ptrdiff_t>(c.shape.query_heads) * d, d};
}

auto keys_of(const CapCase& c) {
  return [&c](std::size_t from, std::size_t, float*) {
    return FloatRows{c.keys.data() + from * c.shape.head_dim, static_cast<std::ptrdiff_t>(c.shape.head_dim)};
  };
}

std::vector<float> scores_of(const CapCase& c, const AttentionForm& form, Reduce reduce,
                             std::vector<float> scores = {}) {
  scores.resize(c.entries(), 0);
  CapScorer(c.shape, c.entries())
      .accumulate(queries_of(c), c.kv_head, c.first, keys_of(c), form, reduce, scores);
  return scores;
}

void expect_near(const std::vector<float>& actual, const reference::Scored& expected) {
  ASSERT_EQ(actual.size(), expected.value.size());
  for (std::size_t t = 0; t < actual.size(); ++t) {
    if (is_nan(expected.value[t]))
      ASSERT_TRUE(is_nan(actual[t])) << "entry " << t << " is " << actual[t];
    else
      ASSERT_NEAR(actual[t], expected.value[t], expected.tolerance[t]) << "entry " << t;
  }
}

void expect_reference(const CapCase& c, const AttentionForm& form = {}) {
  for (const Reduce reduce : {Reduce::sum, Reduce::max}) {
    SCOPED_TRACE(testing::Message() << "first " << c.first << " queries " << c.count << " head_dim "
                                    << c.shape.head_dim << " heads " << c.shape.query_heads << "/"
                                    << c.shape.kv_heads << (reduce == Reduce::sum ? " sum" : " max"));
    ASSERT_NO_FATAL_FAILURE(expect_near(scores_of(c, form, reduce),
                                        reference::cap(c, reduce, std::vector<float>(c.entries(), 0))));
  }
}

/// The same bits; with -ffast-math, which may add up in another order wherever it inlines, as near as it
/// gets.
void expect_same(const std::vector<float>& actual, const std::vector<float>& expected, const CapCase& c) {
  if constexpr (infinipot::detail::finite_math_only)
    expect_near(actual, reference::cap(c, Reduce::sum, std::vector<float>(c.entries(), 0)));
  else
    ASSERT_EQ(actual, expected);
}

/// Every (layers, query_heads, kv_heads, head_dim) with one layer.
Shape heads(std::size_t query_heads, std::size_t kv_heads, std::size_t head_dim) {
  return {1, query_heads, kv_heads, head_dim};
}

TEST(Cap, MatchesTheReferenceForEveryNumberOfQueriesAndEntries) {
  std::uint64_t seed = 1;
  for (const std::size_t count : {1U, 2U, 3U, 7U, 8U, 15U, 16U, 17U, 31U, 32U, 33U, 63U, 64U, 65U})
    for (const std::size_t first : {0U, 1U, 2U, 7U, 13U, 63U, 64U, 65U, 127U, 128U, 129U, 131U})
      ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(2, 1, 12), first, count, seed++)));
}

std::function<double(std::size_t, std::size_t, std::size_t)> window_bias(std::size_t window) {
  return [window](std::size_t, std::size_t query, std::size_t t) {
    return query - t < window ? 0 : -reference::infinity;
  };
}

/// Blocks of every width; only narrow ones with such a head_dim are multiplied along it.
TEST(Cap, MatchesTheReferenceForEveryNumberOfRows) {
  constexpr std::size_t widest = 2 * infinipot::detail::packet_size;
  for (const std::size_t d : {1U, 5U, 16U, 20U, 48U})
    for (std::size_t rows = 1; rows <= 2 * widest + 1; ++rows)
      for (const std::size_t first : {0U, 3U, 61U, 130U}) {
        ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(1, 1, d), first, rows, rows)));
        ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(rows, 1, d), first, 1, rows)));
      }
}

TEST(Cap, NarrowBlocksWithSoftCapBiasAndNaN) {
  const SlidingWindow window(40);
  for (std::size_t rows = 1; rows <= 2 * infinipot::detail::packet_size + 1; ++rows)
    for (const std::size_t d : {7U, 16U}) {
      auto c = random_case(heads(rows, 1, d), 90, 2, rows);
      c.soft_cap = 2;
      c.bias = window_bias(40);
      ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.soft_cap = 2, .bias = &window}));
      c.keys[70 * d] = nan;
      ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.soft_cap = 2, .bias = &window}));
      c.queries[d * rows - 1] = nan;
      ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.soft_cap = 2, .bias = &window}));
    }
}

TEST(Cap, MatchesTheReferenceForHundredsOfQueries) {
  for (const std::size_t count : {200U, 511U, 512U})
    ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(2, 1, 16), 33, count, count)));
}

TEST(Cap, MatchesTheReferenceForLongTexts) {
  ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(3, 1, 64), 1000, 32, 1)));
  ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(1, 1, 8), 8191, 2, 2)));
}

TEST(Cap, MatchesTheReferenceForEveryHeadDim) {
  for (const std::size_t d : {1U, 2U, 3U, 5U, 15U, 17U, 31U, 64U, 80U, 96U, 128U, 256U})
    ASSERT_NO_FATAL_FAILURE(expect_reference(random_case(heads(2, 1, d), 70, 5, d)));
}

TEST(Cap, MatchesTheReferenceForEveryGrouping) {
  for (const auto& [query_heads, kv_heads] :
       {std::pair{1U, 1U}, {4U, 4U}, {4U, 2U}, {9U, 3U}, {8U, 1U}, {71U, 1U}})
    for (std::uint64_t seed = 0; seed < kv_heads; ++seed)  // every kv head
      for (const std::size_t count : {1U, 5U, 33U})
        ASSERT_NO_FATAL_FAILURE(
            expect_reference(random_case(heads(query_heads, kv_heads, 16), 40, count, seed)));
}

TEST(Cap, ScaleSoftCapAndTheirCombination) {
  for (const double scale : {0.0, 0.03, 1.0, -0.5})
    for (const double cap : {0.0, 0.5, 5.0, 50.0}) {
      auto c = random_case(heads(4, 2, 32), 100, 37, 3);
      c.scale = scale;
      c.soft_cap = cap;
      c.scale = static_cast<double>(static_cast<float>(scale));  // as given to the library
      const AttentionForm form{.scale = static_cast<float>(scale), .soft_cap = static_cast<float>(cap)};
      SCOPED_TRACE(testing::Message() << "scale " << scale << " cap " << cap);
      ASSERT_NO_FATAL_FAILURE(expect_reference(c, form));
    }
}

TEST(Cap, SoftCapHoldsForLogitsFarBeyondIt) {
  auto c = random_case(heads(2, 1, 16), 50, 16, 4, 100);
  c.soft_cap = 2;
  ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.soft_cap = 2}));
}

TEST(Cap, AlibiIsPerQueryHead) {
  const std::vector<float> slopes{0.5F, 0.25F, 0.125F, 0.0625F, 1, 0.03125F};
  const Alibi alibi(slopes);
  for (const std::uint64_t seed : {0U, 1U})  // both kv heads
    for (const std::size_t count : {1U, 11U, 40U}) {
      auto c = random_case(heads(6, 2, 16), 60, count, seed);
      c.bias = [&](std::size_t head, std::size_t query, std::size_t t) {
        return -static_cast<double>(slopes[head]) * static_cast<double>(query - t);
      };
      ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.bias = &alibi}));
    }
}

TEST(Cap, TheBiasComesAfterTheSoftCap) {
  const std::vector<float> slopes{0.5F, 2};
  const Alibi alibi(slopes);
  auto c = random_case(heads(2, 1, 16), 60, 20, 3);
  c.soft_cap = 1;
  c.bias = [&](std::size_t head, std::size_t query, std::size_t t) {
    return -static_cast<double>(slopes[head]) * static_cast<double>(query - t);
  };
  ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.soft_cap = 1, .bias = &alibi}));
}

TEST(Cap, SlidingWindowHidesWhatIsOlder) {
  for (const std::size_t window : {1U, 2U, 10U, 64U, 1000U}) {
    const SlidingWindow bias(window);
    auto c = random_case(heads(2, 1, 16), 100, 35, window);
    c.bias = window_bias(window);
    ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.bias = &bias}));
    const auto scores = scores_of(c, {.bias = &bias}, Reduce::sum);
    for (std::size_t t = 0; t + window <= c.first; ++t) ASSERT_EQ(scores[t], 0.0F) << t;
  }
}

/// Hides everything from the queries of one head.
class Blindfold final : public infinipot::AttentionBias {
 public:
  explicit Blindfold(std::size_t head) : head_(head) {}
  void add(std::size_t head, std::size_t, std::span<float> logits) const noexcept override {
    if (head == head_) std::fill(logits.begin(), logits.end(), -inf);
  }

 private:
  std::size_t head_;
};

TEST(Cap, AQueryThatSeesNothingPaysNothing) {
  const Blindfold alone(0);
  const auto lone = random_case(heads(1, 1, 8), 20, 4, 1);
  for (const Reduce reduce : {Reduce::sum, Reduce::max})
    EXPECT_EQ(scores_of(lone, {.bias = &alone}, reduce), std::vector<float>(24, 0));

  const Blindfold second(1);
  auto c = random_case(heads(3, 1, 8), 20, 4, 1);
  c.bias = [](std::size_t head, std::size_t, std::size_t) { return head == 1 ? -reference::infinity : 0; };
  ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.bias = &second}));
}

TEST(Cap, LargeLogitsDoNotOverflow) {
  for (const std::size_t count : {1U, 20U}) {
    const auto c = random_case(heads(2, 1, 64), 300, count, count, 100);  // logits around 1e4
    ASSERT_NO_FATAL_FAILURE(expect_reference(c));
  }
  // One entry far above the others, at each place: it gets everything, and no 0 * overflow appears.
  for (std::size_t top = 0; top <= 70; ++top) {
    CapCase c = random_case(heads(1, 1, 2), 70, 1, 1);
    std::fill(c.queries.begin(), c.queries.end(), 100.0F);
    std::fill(c.keys.begin(), c.keys.end(), -100.0F);
    c.keys[2 * top] = c.keys[2 * top + 1] = 100;
    std::vector<float> expected(71, 0);
    expected[top] = 1;
    ASSERT_EQ(scores_of(c, {}, Reduce::sum), expected);
    ASSERT_EQ(scores_of(c, {}, Reduce::max), expected);
  }
}

TEST(Cap, AHiddenEntryMayHaveTheLargestLogit) {
  // The catalyst's own last key attracts every query, but only the last may see it.
  auto c = random_case(heads(2, 1, 4), 30, 5, 9, 0.1F);
  std::fill(c.queries.begin(), c.queries.end(), 30.0F);
  std::fill(c.keys.end() - 4, c.keys.end(), 30.0F);
  ASSERT_NO_FATAL_FAILURE(expect_reference(c));
}

TEST(Cap, ScoresAddUpToTheNumberOfRows) {
  for (const std::size_t count : {1U, 9U, 32U, 50U}) {
    const auto c = random_case(heads(6, 2, 24), 333, count, count);
    double total = 0;
    for (const float score : scores_of(c, {}, Reduce::sum)) total += static_cast<double>(score);
    const auto rows = static_cast<double>(3 * count);
    // Each row sums to 1 within the roundings of its sum, each score within those of its additions.
    EXPECT_NEAR(total, rows, rows * reference::unit * 200);
  }
}

TEST(Cap, ScoresAccumulateOnTopOfWhatIsThere) {
  const auto c = random_case(heads(2, 1, 16), 90, 37, 5);
  const auto before = random_floats(c.entries(), 77, 0.5F);
  for (const Reduce reduce : {Reduce::sum, Reduce::max})
    ASSERT_NO_FATAL_FAILURE(expect_near(scores_of(c, {}, reduce, before), reference::cap(c, reduce, before)));
}

TEST(Cap, NaNThatIsThereAlreadyStays) {
  const auto c = random_case(heads(2, 1, 16), 9, 3, 5);
  for (const Reduce reduce : {Reduce::sum, Reduce::max}) {
    std::vector<float> before(c.entries(), 0);
    before[4] = nan;
    ASSERT_NO_FATAL_FAILURE(expect_near(scores_of(c, {}, reduce, before), reference::cap(c, reduce, before)));
  }
}

TEST(Cap, ScoresBeyondTheLastQueryAreLeftAlone) {
  const auto c = random_case(heads(2, 1, 16), 40, 3, 5);
  std::vector<float> scores(100, -9);
  CapScorer(c.shape, 200).accumulate(queries_of(c), 0, c.first, keys_of(c), {}, Reduce::sum, scores);
  for (std::size_t t = c.entries(); t < scores.size(); ++t) EXPECT_EQ(scores[t], -9.0F) << t;
}

TEST(Cap, NoQueriesChangeNothing) {
  auto c = random_case(heads(2, 1, 16), 40, 0, 5);
  EXPECT_EQ(scores_of(c, {}, Reduce::sum), std::vector<float>(40, 0));
}

TEST(Cap, ReadsStridedKeysAndQueries) {
  const auto c = random_case(heads(4, 2, 10), 75, 20, 6);
  const auto plain = scores_of(c, {}, Reduce::sum);

  // (head, token) order, rows 13 apart; keys 17 apart. Everything between is NaN.
  std::vector<float> queries(4 * 20 * 13, nan), keys(95 * 17, nan);
  for (std::size_t i = 0; i < 20; ++i)
    for (std::size_t h = 0; h < 4; ++h)
      std::copy_n(c.queries.data() + (i * 4 + h) * 10, 10, queries.data() + (h * 20 + i) * 13);
  for (std::size_t t = 0; t < 95; ++t) std::copy_n(c.keys.data() + t * 10, 10, keys.data() + t * 17);
  const auto rows = [&](std::size_t from, std::size_t, float*) {
    return FloatRows{keys.data() + from * 17, 17};
  };
  std::vector<float> scores(95, 0);
  CapScorer(c.shape, 95)
      .accumulate({queries.data(), 20, 13, 20 * 13}, c.kv_head, 75, rows, {}, Reduce::sum, scores);
  EXPECT_EQ(scores, plain);
}

template <class T>
class CapOf : public testing::Test {};
using Elements = testing::Types<infinipot::f32, infinipot::f16, infinipot::bf16>;
TYPED_TEST_SUITE(CapOf, Elements);

TYPED_TEST(CapOf, KeysThatAreConvertedTileByTile) {
  for (const std::size_t first : {3U, 64U, 150U}) {
    auto c = random_case(heads(3, 1, 20), first, 9, first);
    std::vector<TypeParam> stored(c.keys.size());
    infinipot::detail::from_float(c.keys.data(), c.keys.size(), stored.data());
    infinipot::detail::to_float(stored.data(), stored.size(), c.keys.data());  // what the reference sees
    std::size_t most = 0;
    const auto rows = [&](std::size_t from, std::size_t count, float* tile) {
      EXPECT_LE(from + count, c.entries());
      most = std::max(most, count);
      infinipot::detail::to_float(stored.data() + from * 20, count * 20, tile);
      return FloatRows{tile, 20};
    };
    const std::vector<float> none, some{0.5F, -1, 2};
    for (const auto& sinks : {none, some}) {
      c.sinks = sinks;
      std::vector<float> scores(c.entries(), 0);
      CapScorer(c.shape, c.entries())
          .accumulate(queries_of(c), 0, c.first, rows, {.sinks = sinks}, Reduce::sum, scores);
      ASSERT_NO_FATAL_FAILURE(
          expect_near(scores, reference::cap(c, Reduce::sum, std::vector<float>(scores.size(), 0))));
      ASSERT_NO_FATAL_FAILURE(expect_same(scores, scores_of(c, {.sinks = sinks}, Reduce::sum), c))
          << "wherever a key lies";
    }
    EXPECT_LE(most, 64U);
  }
}

/// Keys partly in place and partly to be converted, with few calls by the scorer.
TEST(Cap, KeysAreConvertedOnceForAllQueries) {
  for (const std::size_t first : {100U, 8150U, 8256U, 8400U}) {
    const auto c = random_case(heads(3, 1, 4), first, 30, first);  // 90 rows
    for (const std::size_t in_place : {0U, 1U, 2U, 3U}) {          // of four tiles
      std::vector<std::size_t> conversions((c.entries() + 63) / 64, 0);
      const auto rows = [&](std::size_t from, std::size_t count, float* tile) {
        if (from / 64 % 4 < in_place) return FloatRows{c.keys.data() + from * 4, 4};
        ++conversions[from / 64];
        std::copy_n(c.keys.data() + from * 4, count * 4, tile);
        return FloatRows{tile, 4};
      };
      std::vector<float> scores(c.entries(), 0);
      CapScorer(c.shape, c.entries()).accumulate(queries_of(c), 0, first, rows, {}, Reduce::sum, scores);
      ASSERT_NO_FATAL_FAILURE(expect_same(scores, scores_of(c, {}, Reduce::sum), c))
          << first << " " << in_place;
      for (std::size_t tile = 0; in_place == 0 && tile < std::min<std::size_t>(first / 64, 128); ++tile)
        ASSERT_EQ(conversions[tile], 1U) << tile;
    }
  }
}

// --- Learned sinks
// ------------------------------------------------------------------------------------------

/// Logits of sinks among those of entries, one per query head.
std::vector<float> random_sinks(const Shape& shape, std::uint64_t seed) {
  return random_floats(shape.query_heads, seed + 2000, 3);
}

void expect_reference_with_sinks(CapCase c, AttentionForm form = {}) {
  if (c.sinks.empty()) c.sinks = random_sinks(c.shape, c.first + c.count);
  form.sinks = c.sinks;
  expect_reference(c, form);
}

TEST(Cap, SinksForEveryNumberOfRows) {
  constexpr std::size_t widest = 2 * infinipot::detail::packet_size;
  for (const std::size_t d : {5U, 16U, 48U})
    for (std::size_t rows = 1; rows <= 2 * widest + 1; ++rows)
      for (const std::size_t first : {0U, 3U, 61U, 130U}) {
        ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(random_case(heads(1, 1, d), first, rows, rows)));
        ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(random_case(heads(rows, 1, d), first, 1, rows)));
      }
}

TEST(Cap, SinksArePerQueryHead) {
  for (const auto& [query_heads, kv_heads] : {std::pair{1U, 1U}, {4U, 4U}, {4U, 2U}, {9U, 3U}, {71U, 1U}})
    for (std::uint64_t seed = 0; seed < kv_heads; ++seed)  // every kv head
      for (const std::size_t count : {1U, 5U, 33U})
        ASSERT_NO_FATAL_FAILURE(
            expect_reference_with_sinks(random_case(heads(query_heads, kv_heads, 16), 40, count, seed)));
}

TEST(Cap, SinksWithSoftCapAndBias) {
  const SlidingWindow window(40);
  const std::vector<float> slopes{0.5F, 0.25F, 0.125F, 0.0625F};
  const Alibi alibi(slopes);
  for (const std::size_t count : {1U, 2U, 3U, 9U, 20U})
    for (const float cap : {0.0F, 0.5F, 5.0F}) {
      auto c = random_case(heads(4, 2, 16), 90, count, count);
      c.soft_cap = static_cast<double>(cap);
      ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c, {.soft_cap = cap}));
      c.bias = window_bias(40);
      ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c, {.soft_cap = cap, .bias = &window}));
      c.bias = [&](std::size_t head, std::size_t query, std::size_t t) {
        return -static_cast<double>(slopes[head]) * static_cast<double>(query - t);
      };
      ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c, {.soft_cap = cap, .bias = &alibi}));
    }
}

TEST(Cap, TheSinkIsNeitherScaledNorCapped) {
  // One entry with a logit of 0: it gets 1 / (1 + exp(sink)).
  CapCase c = random_case(heads(1, 1, 4), 0, 1, 1);
  std::fill(c.keys.begin(), c.keys.end(), 0.0F);
  const std::vector<float> sinks{3};
  const auto scores = scores_of(c, {.scale = 0.1F, .soft_cap = 0.5F, .sinks = sinks}, Reduce::sum);
  EXPECT_NEAR(static_cast<double>(scores[0]), 1 / (1 + std::exp(3.0)), 1e-8);
}

TEST(Cap, SinksFarAboveOrBelowEverything) {
  for (const std::size_t count : {1U, 4U, 20U}) {
    auto c = random_case(heads(2, 1, 16), 70, count, count);
    const std::vector<float> none(70 + count, 0);
    for (const float most : {200.0F, 1e30F, std::numeric_limits<float>::max()}) {
      c.sinks = {most, most};
      EXPECT_EQ(scores_of(c, {.sinks = c.sinks}, Reduce::sum), none) << "the sinks take everything";
      EXPECT_EQ(scores_of(c, {.sinks = c.sinks}, Reduce::max), none);
      c.sinks = {-most, most};
      ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c));
    }
    // With logits around 1e4, some far above the sinks and some far below.
    auto large = random_case(heads(2, 1, 64), 70, count, count, 100);
    large.sinks = {0, 5000};
    ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(large));
  }
}

TEST(Cap, SinksOfMinusInfinityAreNone) {
  for (const std::size_t count : {1U, 4U, 20U}) {
    auto c = random_case(heads(3, 1, 16), 70, count, count);
    c.sinks.assign(3, -inf);
    for (const Reduce reduce : {Reduce::sum, Reduce::max})
      EXPECT_EQ(scores_of(c, {.sinks = c.sinks}, reduce), scores_of(c, {}, reduce));
    c.sinks[1] = 0.5F;  // of one head only
    ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c));
  }
}

TEST(Cap, ASinkOfNaNOrInfinitySpoilsItsOwnQueries) {
  const SlidingWindow window(10);
  for (const float bad : {nan, inf})
    for (const std::size_t count : {1U, 4U, 20U}) {
      auto c = random_case(heads(2, 2, 16), 70, count, 0);  // kv head 0, query head 0
      c.bias = window_bias(10);
      c.sinks = {bad, 1};
      ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c, {.bias = &window}));
      const auto scores = scores_of(c, {.bias = &window, .sinks = c.sinks}, Reduce::max);
      EXPECT_FALSE(is_nan(scores[60])) << "hidden from all";
      EXPECT_TRUE(is_nan(scores[61]));
      c.kv_head = 1;
      ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c, {.bias = &window}));
      EXPECT_FALSE(is_nan(scores_of(c, {.bias = &window, .sinks = c.sinks}, Reduce::sum)[61]))
          << "the other head's sink is sound";
    }
}

TEST(Cap, NaNIsSeenBesideSinks) {
  const SlidingWindow window(4);
  for (const std::size_t bad : {0U, 27U, 29U, 31U, 34U}) {
    auto c = random_case(heads(2, 1, 8), 30, 5, 2);
    c.bias = window_bias(4);
    c.keys[bad * 8 + 2] = nan;
    SCOPED_TRACE(testing::Message() << "entry " << bad);
    ASSERT_NO_FATAL_FAILURE(expect_reference_with_sinks(c, {.bias = &window}));
  }
}

TEST(Cap, AQueryThatSeesNothingPaysNothingBesideASink) {
  const Blindfold alone(0);
  for (const float sink : {-1e30F, -3.0F, 0.0F, 100.0F, -inf, nan})
    for (const std::size_t count : {1U, 4U, 20U}) {
      const auto c = random_case(heads(1, 1, 8), 20, count, 1);
      const std::vector<float> sinks{sink};
      for (const Reduce reduce : {Reduce::sum, Reduce::max})
        EXPECT_EQ(scores_of(c, {.bias = &alone, .sinks = sinks}, reduce), std::vector<float>(20 + count, 0))
            << sink;
    }
}

TEST(Cap, WhatSinksTakeIsMissing) {
  for (const std::size_t count : {1U, 9U, 50U}) {
    const auto c = random_case(heads(3, 1, 24), 333, count, count);
    const auto rows = static_cast<double>(3 * count);
    const std::vector<float> sinks(3, 4);
    double total = 0;
    for (const float score : scores_of(c, {.sinks = sinks}, Reduce::sum)) total += static_cast<double>(score);
    EXPECT_LT(total, 0.99 * rows);
    EXPECT_GT(total, 0.5 * rows);
  }
}

// --- NaN ---------------------------------------------------------------------------------------------------

TEST(Cap, NaNInOneQuerySpoilsOnlyWhatThatQuerySees) {
  for (const std::size_t bad : {0U, 1U, 4U})
    for (const float value : {nan, inf}) {
      auto c = random_case(heads(2, 1, 8), 30, 5, 2);
      c.queries[bad * 16 + 3] = value;  // inf * q of both signs: -inf or NaN or inf in the row
      c.queries[bad * 16 + 4] = -value;
      for (const Reduce reduce : {Reduce::sum, Reduce::max}) {
        const auto scores = scores_of(c, {}, reduce);
        for (std::size_t t = 30 + bad + 1; t < 35; ++t) ASSERT_FALSE(is_nan(scores[t])) << bad << " " << t;
      }
      if (is_nan(value)) {
        ASSERT_NO_FATAL_FAILURE(expect_reference(c));
      }
    }
}

TEST(Cap, NaNInOneKeySpoilsOnlyTheQueriesThatSeeIt) {
  // The last of five queries sees the NaN key of entry 34, and with it everything; the others do not.
  auto last = random_case(heads(1, 1, 8), 30, 5, 2);
  last.keys[34 * 8] = nan;
  ASSERT_NO_FATAL_FAILURE(expect_reference(last));

  const SlidingWindow window(4);
  for (const std::size_t bad : {0U, 10U, 27U, 29U, 31U, 34U}) {
    auto c = random_case(heads(2, 1, 8), 30, 5, 2);
    c.bias = window_bias(4);
    c.keys[bad * 8 + 2] = nan;
    SCOPED_TRACE(testing::Message() << "entry " << bad);
    ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.bias = &window}));
  }
}

TEST(Cap, AnInfiniteLogitSpoilsWhatItsQueryPays) {
  for (const std::size_t count : {1U, 3U, 20U}) {
    auto c = random_case(heads(1, 1, 8), 30, count, 2);
    std::fill(c.queries.begin(), c.queries.end(), 1.0F);
    c.keys[10 * 8] = inf;
    for (const Reduce reduce : {Reduce::sum, Reduce::max})
      for (const float score : scores_of(c, {}, reduce)) ASSERT_TRUE(is_nan(score));
  }
}

TEST(Cap, AQueryOfNothingButLogitsOfMinusInfinityPaysNothing) {
  auto c = random_case(heads(1, 1, 8), 30, 2, 2);
  std::fill(c.queries.begin(), c.queries.end(), 1.0F);
  for (std::size_t t = 0; t < c.entries(); ++t) c.keys[t * 8] = -inf;
  for (const Reduce reduce : {Reduce::sum, Reduce::max})
    EXPECT_EQ(scores_of(c, {}, reduce), std::vector<float>(32, 0));
}

TEST(Cap, NaNPassesTheSoftCap) {
  auto c = random_case(heads(2, 1, 8), 30, 5, 2);
  c.queries[2 * 16] = nan;
  c.soft_cap = 5;
  ASSERT_NO_FATAL_FAILURE(expect_reference(c, {.soft_cap = 5}));
}

TEST(Cap, AKeyThatNobodySeesMayBeAnything) {
  const SlidingWindow window(4);
  for (const float value : {nan, inf, -inf}) {
    const auto sound = random_case(heads(2, 1, 8), 80, 5, 2);
    auto c = sound;
    std::fill(c.keys.begin(), c.keys.begin() + 70 * 8, value);
    for (const Reduce reduce : {Reduce::sum, Reduce::max})
      EXPECT_EQ(scores_of(c, {.bias = &window}, reduce), scores_of(sound, {.bias = &window}, reduce))
          << value;
  }
}

TEST(Cap, AKeyOfMinusInfinityIsNotPaid) {
  // 5 rows do not fill a block: its padding must not turn 0 * inf into NaN.
  auto c = random_case(heads(1, 1, 4), 20, 5, 2);
  std::fill(c.queries.begin(), c.queries.end(), 1.0F);
  c.keys[4 * 7] = -inf;
  for (const Reduce reduce : {Reduce::sum, Reduce::max}) {
    const auto scores = scores_of(c, {}, reduce);
    for (std::size_t t = 0; t < scores.size(); ++t) EXPECT_FALSE(is_nan(scores[t])) << t;
    EXPECT_EQ(scores[7], 0.0F);
  }
}

TEST(Cap, NaNDoesNotOutliveTheCall) {
  auto c = random_case(heads(2, 1, 8), 80, 40, 2);
  const auto expected = scores_of(c, {}, Reduce::sum);
  CapScorer scorer(c.shape, c.entries());
  auto bad = c;
  std::fill(bad.keys.begin(), bad.keys.end(), nan);
  std::vector<float> spoilt(c.entries(), 0), scores(c.entries(), 0);
  scorer.accumulate(queries_of(bad), c.kv_head, c.first, keys_of(bad), {}, Reduce::sum, spoilt);
  scorer.accumulate(queries_of(c), c.kv_head, c.first, keys_of(c), {}, Reduce::sum, scores);
  EXPECT_TRUE(is_nan(spoilt[0]));
  EXPECT_EQ(scores, expected);
}

// --- The object --------------------------------------------------------------------------------------------

TEST(Cap, AScorerWithMoreRoomGivesTheSameBits) {
  const auto c = random_case(heads(4, 2, 16), 70, 21, 3);
  std::vector<float> scores(c.entries(), 0);
  CapScorer(c.shape, 5000).accumulate(queries_of(c), c.kv_head, c.first, keys_of(c), {}, Reduce::sum, scores);
  EXPECT_EQ(scores, scores_of(c, {}, Reduce::sum));
}

TEST(Cap, AllocatesNothingAfterConstruction) {
  const auto c = random_case(heads(4, 2, 16), 70, 21, 3);
  const SlidingWindow window(9);
  const std::vector<float> sinks(4, 1);
  std::vector<float> scores(c.entries(), 0);
  CapScorer scorer(c.shape, c.entries());
  const allocation_counter::Scope use;
  for (const Reduce reduce : {Reduce::sum, Reduce::max})
    scorer.accumulate(queries_of(c), 1, c.first, keys_of(c), {.soft_cap = 5, .bias = &window, .sinks = sinks},
                      reduce, scores);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
}

TEST(Cap, RejectsABadShape) {
  EXPECT_THROW(CapScorer(heads(3, 2, 8), 10), std::invalid_argument);
  EXPECT_THROW(CapScorer(heads(2, 2, 0), 10), std::invalid_argument);
}

}  // namespace
