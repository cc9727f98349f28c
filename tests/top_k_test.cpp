#include "infinipot/top_k.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "allocation_counter.hpp"
#include "reference/random.hpp"
#include "reference/reference_scores.hpp"

namespace {

using infinipot::Index;
using infinipot::TopK;

const float nan = infinipot::detail::quiet_nan<float>();
const float inf = -infinipot::detail::minus_infinity();

/// The protected, then the best of the rest; ascending.
std::vector<Index> expected(const std::vector<float>& scores, std::size_t k,
                            const std::vector<std::uint8_t>& protect) {
  std::vector<Index> kept;
  for (std::size_t i = 0; i < protect.size(); ++i)
    if (protect[i] != 0) kept.push_back(static_cast<Index>(i));
  for (const std::size_t i : reference::ranking(scores))
    if (kept.size() < k && (protect.empty() || protect[i] == 0)) kept.push_back(static_cast<Index>(i));
  std::sort(kept.begin(), kept.end());
  return kept;
}

enum class Values { distinct, few, special };

std::vector<float> random_scores(reference::Random& random, std::size_t n, Values values) {
  const float specials[] = {nan, -nan, 0.0F, -0.0F, inf, -inf, 1, -1, 1e-45F, -1e-45F, 3e38F, -3e38F};
  std::vector<float> scores(n);
  for (float& x : scores) {
    if (values == Values::distinct) x = static_cast<float>(random.uniform());
    if (values == Values::few) x = static_cast<float>(random.below(3)) - 1;
    if (values == Values::special) x = specials[random.below(std::size(specials))];
  }
  return scores;
}

TEST(TopK, MatchesAStableSortForEverySizeAndK) {
  reference::Random random(1);
  for (const Values values : {Values::distinct, Values::few, Values::special})
    for (std::size_t n = 0; n <= 70; ++n) {
      const auto scores = random_scores(random, n, values);
      std::vector<std::uint8_t> protect(n);
      for (auto& flag : protect)
        flag = random.below(4) == 0 ? static_cast<std::uint8_t>(1 + random.below(255)) : 0;
      for (std::size_t k = 0; k <= n + 1; ++k) {
        ASSERT_EQ(infinipot::top_k(scores, k), expected(scores, k, {})) << n << " " << k;
        ASSERT_EQ(infinipot::top_k(scores, k, protect), expected(scores, k, protect)) << n << " " << k;
      }
    }
}

TEST(TopK, MatchesAStableSortForLargeInputs) {
  reference::Random random(2);
  for (const Values values : {Values::distinct, Values::few, Values::special})
    for (const std::size_t n : {1000U, 4096U, 20011U}) {
      const auto scores = random_scores(random, n, values);
      for (const std::size_t k : {std::size_t{1}, n / 3, n - 1})
        ASSERT_EQ(infinipot::top_k(scores, k), expected(scores, k, {})) << n << " " << k;
    }
}

TEST(TopK, OrdersSortedAndReversedInputs) {
  std::vector<float> rising(500);
  for (std::size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<float>(i) - 250;
  const std::vector<float> falling(rising.rbegin(), rising.rend());
  for (const std::size_t k : {1U, 250U, 499U}) {
    EXPECT_EQ(infinipot::top_k(rising, k), expected(rising, k, {}));
    EXPECT_EQ(infinipot::top_k(falling, k), expected(falling, k, {}));
  }
}

/// Scores among which bisection finds the border last or not at all.
TEST(TopK, MatchesAStableSortWhateverTheBitsOfTheBorder) {
  constexpr float tiny = std::numeric_limits<float>::denorm_min();
  constexpr float most = std::numeric_limits<float>::max();
  const auto next = [](float x, std::uint32_t by) {
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) + by);
  };
  const std::vector<std::vector<float>> inputs{
      {1, next(1, 1), next(1, 2), next(1, 3), next(1, 2), 1, next(1, 1)},  // differ in the lowest bits
      {-1, next(-1, 1), next(-1, 2), next(-1, 1), -1},
      {-tiny, 0, tiny, -0.0F, 2 * tiny, -2 * tiny, tiny, -tiny, 0},  // around zero
      {next(most, -1U), most, inf, most, inf, -most, -inf, -most},   // the ends
      {-inf, nan, -inf, -most, nan, -nan, -inf},
      {inf, -inf},
      {nan, inf},
      {inf, nan, nan, nan},
      {inf, 0, 0, 0, 0, 0, 0, 0, -inf},  // one value beside the ends
      {5, 5, 5, 5, 5, 5, 5, 5, 4},
      {4, 5, 5, 5, 5, 5, 5, 5, 5},
  };
  for (const auto& few : inputs)
    for (const std::size_t repeated : {1U, 7U}) {
      std::vector<float> scores;
      for (std::size_t i = 0; i < repeated; ++i) scores.insert(scores.end(), few.begin(), few.end());
      for (std::size_t k = 0; k <= scores.size(); ++k)
        ASSERT_EQ(infinipot::top_k(scores, k), expected(scores, k, {}))
            << "input " << &few - inputs.data() << " k " << k;
    }
}

TEST(TopK, AnyBitsAtAll) {
  reference::Random random(5);
  for (const std::size_t n : {2U, 100U, 3000U}) {
    std::vector<float> scores(n);
    for (float& x : scores) x = std::bit_cast<float>(static_cast<std::uint32_t>(random.below(1ULL << 32U)));
    for (const std::size_t k : {std::size_t{1}, n / 2, n - 1})
      ASSERT_EQ(infinipot::top_k(scores, k), expected(scores, k, {})) << n << " " << k;
  }
}

TEST(TopK, OfEqualScoresTheLowerIndexWins) {
  EXPECT_EQ(infinipot::top_k(std::vector<float>(9, 2), 3), (std::vector<Index>{0, 1, 2}));
  EXPECT_EQ(infinipot::top_k(std::vector<float>{-0.0F, 0.0F, -0.0F}, 2), (std::vector<Index>{0, 1}));
  EXPECT_EQ(infinipot::top_k(std::vector<float>{0.0F, -0.0F, 0.0F}, 2), (std::vector<Index>{0, 1}));
  EXPECT_EQ(infinipot::top_k(std::vector<float>{1, 5, 3, 5, 3, 5}, 4), (std::vector<Index>{1, 2, 3, 5}));
}

TEST(TopK, NaNIsBelowEverything) {
  EXPECT_EQ(infinipot::top_k(std::vector<float>{nan, -inf, -nan, -3e38F}, 2), (std::vector<Index>{1, 3}));
  EXPECT_EQ(infinipot::top_k(std::vector<float>{nan, -nan, nan}, 2), (std::vector<Index>{0, 1}));
  EXPECT_EQ(infinipot::top_k(std::vector<float>{inf, nan, 1}, 2), (std::vector<Index>{0, 2}));
}

TEST(TopK, SeesEveryKindOfNaN) {
  for (const std::uint32_t bits :
       {0x7FC00000U, 0xFFC00000U, 0x7F800001U, 0xFF800001U, 0x7FFFFFFFU, 0xFFFFFFFFU})
    EXPECT_TRUE(infinipot::detail::is_nan(std::bit_cast<float>(bits))) << std::hex << bits;
  for (const float x : {0.0F, -0.0F, 1.0F, -1e-45F, 3e38F, inf, -inf})
    EXPECT_FALSE(infinipot::detail::is_nan(x)) << x;
}

TEST(TopK, ProtectedEntriesComeFirstWhateverTheirScore) {
  const std::vector<float> scores{nan, 9, 8, -inf, 7};
  EXPECT_EQ(infinipot::top_k(scores, 3, std::vector<std::uint8_t>{1, 0, 0, 1, 0}),
            (std::vector<Index>{0, 1, 3}));
  // More protected than wanted: all of them stay.
  EXPECT_EQ(infinipot::top_k(scores, 1, std::vector<std::uint8_t>{1, 0, 0, 1, 0}),
            (std::vector<Index>{0, 3}));
}

TEST(TopK, RejectsFlagsThatDoNotFit) {
  EXPECT_THROW(infinipot::top_k(std::vector<float>(3, 0), 1, std::vector<std::uint8_t>(2, 0)),
               std::invalid_argument);
}

TEST(TopK, MarkLeavesWhatIsMarkedAndReportsWhatItAdded) {
  TopK top_k(8);
  const std::vector<float> scores{5, 4, 3, 2, 1};
  std::vector<std::uint8_t> marks{1, 0, 0, 7, 0};
  EXPECT_EQ(top_k.mark(scores, 2, marks), 2U);
  EXPECT_EQ(marks, (std::vector<std::uint8_t>{1, 1, 1, 7, 0}));
  EXPECT_EQ(top_k.mark(scores, 5, marks), 1U) << "only one was left";
  EXPECT_EQ(marks, (std::vector<std::uint8_t>{1, 1, 1, 7, 1}));
  EXPECT_EQ(top_k.mark(scores, 5, marks), 0U) << "all are marked";
  EXPECT_EQ(marks, (std::vector<std::uint8_t>{1, 1, 1, 7, 1}));
  EXPECT_EQ(top_k.mark({}, 5, {}), 0U);
}

TEST(TopK, ScoresOfMarkedEntriesDoNotMatter) {
  for (const float marked : {inf, -inf, nan, 3.0F}) {
    const std::vector<float> scores{marked, 3, marked, nan, 3, 2, marked, 3, -inf};
    std::vector<std::uint8_t> marks{2, 0, 2, 0, 0, 0, 2, 0, 0};
    EXPECT_EQ(TopK(9).mark(scores, 2, marks), 2U);
    EXPECT_EQ(marks, (std::vector<std::uint8_t>{2, 1, 2, 0, 1, 0, 2, 0, 0}));
    EXPECT_EQ(TopK(9).mark(scores, 3, marks), 3U);
    EXPECT_EQ(marks, (std::vector<std::uint8_t>{2, 1, 2, 0, 1, 1, 2, 1, 1}));
    EXPECT_EQ(TopK(9).mark(scores, 3, marks), 1U);
    EXPECT_EQ(marks, (std::vector<std::uint8_t>{2, 1, 2, 1, 1, 1, 2, 1, 1}));
  }
}

TEST(TopK, MarkedIndicesAscend) {
  std::vector<Index> out(5, 99);
  EXPECT_EQ(infinipot::marked_indices(std::vector<std::uint8_t>{0, 3, 0, 1, 1}, out), 3U);
  EXPECT_EQ(std::vector<Index>(out.begin(), out.begin() + 3), (std::vector<Index>{1, 3, 4}));
  // Room for no more than are marked, though unmarked ones follow.
  std::vector<Index> exact(2, 99);
  EXPECT_EQ(infinipot::marked_indices(std::vector<std::uint8_t>{1, 0, 1, 0, 0}, exact), 2U);
  EXPECT_EQ(exact, (std::vector<Index>{0, 2}));
  EXPECT_EQ(infinipot::marked_indices(std::vector<std::uint8_t>(3, 0), {}), 0U);
}

TEST(TopK, ASelectorThatWasUsedBeforeGivesTheSame) {
  reference::Random random(3);
  TopK used(300);
  for (int round = 0; round < 20; ++round) {
    const auto scores = random_scores(random, 1 + random.below(300), Values::special);
    const std::size_t k = random.below(scores.size() + 1);
    std::vector<std::uint8_t> again(scores.size(), 0), fresh(scores.size(), 0);
    used.mark(scores, k, again);
    TopK(scores.size()).mark(scores, k, fresh);
    ASSERT_EQ(again, fresh);
  }
}

TEST(TopK, MarkAllocatesNothing) {
  const std::vector<float> scores(1000, 1);
  std::vector<std::uint8_t> marks(1000, 0);
  std::vector<Index> out(1000);
  TopK top_k(1000);
  const allocation_counter::Scope use;
  top_k.mark(scores, 500, marks);
  infinipot::marked_indices(marks, out);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
}

}  // namespace
