#include "infinipot/pyramid.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using infinipot::pyramid_budgets;
using infinipot::PyramidSettings;
using Budgets = std::vector<std::size_t>;

std::size_t sum_of(const Budgets& budgets) {
  return std::accumulate(budgets.begin(), budgets.end(), std::size_t{0});
}

/// What kvpress 0.5.5 (PyramidKVPress.get_layer_budget) says of `length` tokens, of which it keeps `keep` on
/// average; its window of 64 limits the first layer to length - 64.
struct Kvpress {
  std::size_t length, keep;
  double beta;
  Budgets budgets;
};

const Kvpress kvpress[] = {
    {8192, 2048, 20, {3994, 3868, 3743, 3617, 3492, 3366, 3240, 3115, 2989, 2864, 2738,
                      2613, 2487, 2362, 2236, 2111, 1985, 1860, 1734, 1609, 1483, 1358,
                      1232, 1107, 981,  856,  730,  604,  479,  353,  228,  102}},
    {2048, 1024, 20, {1984, 1918, 1852, 1785, 1719, 1653, 1587, 1521, 1454, 1388,
                      1322, 1256, 1190, 1123, 1057, 991,  925,  858,  792,  726,
                      660,  594,  527,  461,  395,  329,  263,  196,  130,  64}},
    {4000, 1600, 20, {3120, 2686, 2251, 1817, 1383, 949, 514, 80}},
    {1024, 768, 20, {960, 925, 890, 855, 820, 785, 751, 716, 681, 646, 611, 576}},
    {4096, 2048, 4, {3584, 3305, 3025, 2746, 2467, 2188, 1908, 1629, 1350, 1071, 791, 512}},
};

TEST(Pyramid, IsThatOfKvpressButForRounding) {
  for (const Kvpress& other : kvpress) {
    SCOPED_TRACE(other.length);
    const Budgets mine = pyramid_budgets(other.budgets.size(), other.keep,
                                         {.beta = other.beta, .always = 0, .most = other.length - 64});
    ASSERT_EQ(mine.size(), other.budgets.size());
    EXPECT_EQ(sum_of(mine), other.budgets.size() * other.keep);
    for (std::size_t layer = 0; layer < mine.size(); ++layer)
      EXPECT_LE(std::max(mine[layer], other.budgets[layer]) - std::min(mine[layer], other.budgets[layer]), 1U)
          << "layer " << layer;
  }
}

/// For all settings: the sum is exact, budgets never rise, none is off the straight line by 1 or more.
TEST(Pyramid, FallsAlongALineAndSumsUpExactly) {
  for (const std::size_t layers : {1U, 2U, 3U, 7U, 30U, 32U, 80U})
    for (const std::size_t keep : {40U, 41U, 99U, 1024U, 4097U})
      for (const double beta : {1.0, 1.5, 2.0, 7.3, 20.0})
        for (const std::size_t always : {0U, 5U, 39U})
          for (const double most : {1.0, 1.1, 1.6, 3.0}) {
            const auto limit = static_cast<std::size_t>(most * static_cast<double>(keep));
            const Budgets budgets =
                pyramid_budgets(layers, keep, {.beta = beta, .always = always, .most = limit});
            ASSERT_EQ(budgets.size(), layers);
            ASSERT_EQ(sum_of(budgets), layers * keep);
            ASSERT_TRUE(std::ranges::is_sorted(budgets, std::greater<>()));
            ASSERT_LE(budgets.front(), limit);
            ASSERT_GE(budgets.back(), always);
            const double mean = static_cast<double>(keep);
            const double first = std::min(mean + (mean - static_cast<double>(always)) * (1 - 1 / beta),
                                          static_cast<double>(limit));
            for (std::size_t layer = 0; layer < layers && layers > 1; ++layer) {
              const double share = static_cast<double>(2 * layer) / static_cast<double>(layers - 1);
              ASSERT_LT(std::abs(static_cast<double>(budgets[layer]) - (first - share * (first - mean))),
                        1 + 1e-6);
            }
          }
}

TEST(Pyramid, OfBetaOneIsFlat) {
  EXPECT_EQ(pyramid_budgets(5, 17, {.beta = 1}), Budgets(5, 17));
  EXPECT_EQ(pyramid_budgets(1, 17), Budgets(1, 17));
}

TEST(Pyramid, KeepsWhatEveryLayerAlwaysKeeps) {
  // PyramidKV's own sum: a window of 10 in all layers, and 90 on average to share.
  EXPECT_EQ(pyramid_budgets(3, 100, {.beta = 9, .always = 10}), (Budgets{180, 100, 20}));
}

TEST(Pyramid, CapacityIsThatOfAPotWithAsManyRows) {
  const Budgets budgets = pyramid_budgets(30, 100, {.beta = 20});
  const std::size_t capacity = infinipot::capacity_with(budgets, 250);
  std::size_t rows = 0;
  for (const std::size_t budget : budgets) rows += capacity - budgets.front() + budget;
  EXPECT_EQ(rows, 30U * 250);
  EXPECT_THROW(infinipot::capacity_with({}, 250), std::invalid_argument);
}

std::string error_of(std::size_t layers, std::size_t keep, const PyramidSettings& settings) {
  try {
    pyramid_budgets(layers, keep, settings);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(Pyramid, RefusesWhatCannotBe) {
  EXPECT_EQ(error_of(0, 10, {}), "infinipot: a pyramid of 0 layers must have at least 1");
  EXPECT_EQ(error_of(4, 10, {.beta = 0.5}),
            "infinipot: pyramid beta 0.5 is out of range; it must be at least 1");
  EXPECT_NE(error_of(4, 10, {.beta = std::numeric_limits<double>::quiet_NaN()}).find("out of range"),
            std::string::npos);
  EXPECT_NE(error_of(4, 10, {.beta = std::numeric_limits<double>::infinity()}).find("out of range"),
            std::string::npos);
  EXPECT_EQ(error_of(4, 10, {.always = 11}),
            "infinipot: each layer always keeps 11 entries, more than the 10 of an average one");
  EXPECT_EQ(error_of(4, 10, {.most = 9}),
            "infinipot: the most that a layer may keep, 9, is below the average of 10");
  EXPECT_EQ(error_of(4, 10, {.beta = 20}),
            "infinipot: the last of 4 layers would keep nothing with beta 20; keep more than 10 or choose a "
            "smaller beta");
}

}  // namespace
