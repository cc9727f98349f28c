#include "infinipot/policy/smooth.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "reference/random.hpp"
#include "reference/reference_scores.hpp"

namespace {

using infinipot::Pooling;
using infinipot::Smoothing;
using infinipot::detail::is_nan;

const float nan = infinipot::detail::quiet_nan<float>();
const float inf = -infinipot::detail::minus_infinity();

std::vector<float> smoothed(const std::vector<float>& scores, const std::vector<std::uint8_t>& marks,
                            const Smoothing& smoothing) {
  std::vector<float> out(scores.size(), -12345);
  infinipot::smooth(scores, marks, smoothing, out);
  return out;
}

std::vector<float> smoothed(const std::vector<float>& scores, const Smoothing& smoothing) {
  return smoothed(scores, std::vector<std::uint8_t>(scores.size(), 0), smoothing);
}

void expect_equal(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t t = 0; t < actual.size(); ++t) {
    if (is_nan(expected[t]))
      EXPECT_TRUE(is_nan(actual[t])) << t;
    else
      EXPECT_FLOAT_EQ(actual[t], expected[t]) << t;  // -ffast-math multiplies by 1 / kernel
  }
}

/// Multiples of 1/8, so that sums are exact; some NaN and infinities if wanted.
std::vector<float> random_scores(reference::Random& random, std::size_t n, bool specials) {
  std::vector<float> scores(n);
  for (float& x : scores) {
    x = static_cast<float>(random.below(64)) / 8 - 4;
    if (!specials) continue;
    if (const std::size_t what = random.below(12); what == 0)
      x = nan;
    else if (what == 1)
      x = -inf;
  }
  return scores;
}

TEST(Smooth, MatchesBruteForce) {
  reference::Random random(1);
  for (const Pooling pooling : {Pooling::max, Pooling::mean})
    for (const bool specials : {false, true})
      for (const auto& [kernel, lag] : {std::pair(1U, 0U),
                                        {3U, 0U},
                                        {3U, 1U},
                                        {5U, 2U},
                                        {9U, 0U},
                                        {9U, 1U},
                                        {15U, 0U},
                                        {101U, 50U},
                                        {101U, 0U}})
        for (std::size_t n = 0; n < 40; ++n) {
          SCOPED_TRACE(testing::Message()
                       << "n " << n << " kernel " << kernel << " lag " << lag << " specials " << specials);
          const auto scores = random_scores(random, n, specials);
          std::vector<std::uint8_t> marks(n);
          for (auto& mark : marks) mark = random.below(5) == 0 ? 1 : 0;
          const Smoothing smoothing{pooling, kernel, lag};
          ASSERT_NO_FATAL_FAILURE(
              expect_equal(smoothed(scores, marks, smoothing), reference::smooth(scores, marks, smoothing)));
        }
}

TEST(Smooth, LiftsTheNeighboursOfAPeak) {
  expect_equal(smoothed({0, 0, 0, 7, 0, 0, 0}, {Pooling::max, 3, 1}), {0, 0, 0, 7, 7, 7, 0});
  expect_equal(smoothed({0, 0, 0, 7, 0, 0, 0}, {Pooling::max, 5, 1}), {0, 0, 7, 7, 7, 7, 7});
  expect_equal(smoothed({0, 0, 0, 7, 0, 0, 0}, {Pooling::max, 3}), {0, 0, 7, 7, 7, 0, 0});
  expect_equal(smoothed({0, 0, 0, 6, 0, 0, 0}, {Pooling::mean, 3}), {0, 0, 2, 2, 2, 0, 0});
  expect_equal(smoothed({7, 0, 0, 0, 1}, {Pooling::max, 5}), {7, 7, 7, 1, 1});
  expect_equal(smoothed({5, 0, 0, 0, 10}, {Pooling::mean, 5}), {1, 1, 3, 2, 2});  // cut off, still / kernel
}

TEST(Smooth, AKernelBeyondTheRowSeesAllOfIt) {
  constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();
  expect_equal(smoothed({1, 3, 2}, {Pooling::max, huge}), {3, 3, 3});
  expect_equal(smoothed({-1, -3, -2}, {Pooling::max, 7}), {-1, -1, -1});
  expect_equal(smoothed({1, 2, 4}, {Pooling::mean, 7}), {1, 1, 1});
}

TEST(Smooth, AMarkedEntryKeepsItsScoreAndLiftsNobody) {
  expect_equal(smoothed({100, 1, 2, 100, 3}, {1, 0, 0, 1, 0}, {Pooling::max, 3}), {100, 2, 2, 100, 3});
  expect_equal(smoothed({100, 1, 2, 100, 3}, {1, 0, 0, 1, 0}, {Pooling::mean, 3}), {100, 1, 1, 100, 1});
  expect_equal(smoothed({nan, 1, 2}, {1, 0, 0}, {Pooling::mean, 3}), {nan, 1, 1});
}

TEST(Smooth, MaxPassesOverNaNUnlessThereIsNothingElse) {
  expect_equal(smoothed({nan, nan, nan, -5}, {Pooling::max, 3}), {nan, nan, -5, -5});
  expect_equal(smoothed({nan, 1, nan}, {Pooling::max, 1}), {nan, 1, nan});
  expect_equal(smoothed({1, nan, 2, 3, 4}, {Pooling::mean, 3}), {nan, nan, nan, 3, 7.0F / 3});
}

TEST(Smooth, RejectsEvenKernels) {
  for (const std::size_t kernel : {0U, 2U, 4U, 100U}) {
    try {
      Smoothing{Pooling::max, kernel}.validate();
      ADD_FAILURE() << kernel << " was accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("kernel " + std::to_string(kernel)), std::string::npos);
    }
  }
  for (const std::size_t kernel : {1U, 3U, 99U})
    EXPECT_NO_THROW((Smoothing{Pooling::mean, kernel, kernel / 2}.validate()));
  EXPECT_THROW((Smoothing{Pooling::max, 5, 3}.validate()), std::invalid_argument);
  for (const std::size_t kernel : {1U, 3U, 99U})
    EXPECT_NO_THROW((Smoothing{Pooling::mean, kernel}.validate()));
}

TEST(Smooth, AllocatesNothing) {
  const std::vector<float> scores(50, 1);
  const std::vector<std::uint8_t> marks(50, 0);
  std::vector<float> out(50);
  const allocation_counter::Scope use;
  infinipot::smooth(scores, marks, {Pooling::max, 5}, out);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
}

}  // namespace
