#include "sampler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace smollm2 {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<int> counts(Sampler::Settings settings, const std::vector<float>& logits, int draws) {
  Sampler sampler(settings);
  std::vector<int> found(logits.size());
  for (int i = 0; i < draws; ++i) ++found[static_cast<std::size_t>(sampler(logits))];
  return found;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Sampler, GreedyTakesTheFirstLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler(std::array{1.0F, 3.0F, 2.0F, 3.0F}), 1);
  EXPECT_EQ(sampler(std::array{nan, -4.0F, nan, -3.0F}), 3);
  EXPECT_EQ(sampler(std::array{1.0F, infinity, 2.0F, infinity}), 1);
  EXPECT_EQ(sampler(std::array{-infinity, -1e30F}), 1);
}

TEST(Sampler, DrawsFollowTheSoftmax) {
  const std::vector<float> logits{0, std::log(2.0F), nan, std::log(5.0F), -infinity};
  const std::vector<int> found = counts({1, 1, 42}, logits, 80000);
  EXPECT_NEAR(found[0], 10000, 400);
  EXPECT_NEAR(found[1], 20000, 500);
  EXPECT_NEAR(found[3], 50000, 600);
  EXPECT_EQ(found[2] + found[4], 0);
}

TEST(Sampler, TemperatureFlattensOrSharpens) {
  const std::vector<float> logits{0, std::log(3.0F)};
  EXPECT_NEAR(counts({0.5F, 1, 1}, logits, 10000)[1], 9000, 200);  // 9 : 1
  EXPECT_NEAR(counts({1e6F, 1, 1}, logits, 10000)[1], 5000, 250);
  EXPECT_EQ(counts({1e-30F, 1, 1}, logits, 1000)[1], 1000);
  EXPECT_EQ(counts({std::numeric_limits<double>::denorm_min(), 1, 1}, logits, 1000)[1], 1000);
}

TEST(Sampler, NucleusKeepsTheFewestThatReachTopP) {
  const std::vector<float> logits{std::log(0.1F), std::log(0.5F), std::log(0.1F), std::log(0.3F)};
  const std::vector<int> two = counts({1, 0.75F, 7}, logits, 8000);
  EXPECT_EQ(two[0] + two[2], 0);
  EXPECT_NEAR(two[1], 5000, 250);
  const std::vector<int> three = counts({1, 0.85F, 7}, logits, 9000);
  EXPECT_GT(three[0], 0);  // of the equal two, the lower index
  EXPECT_EQ(three[2], 0);
  EXPECT_EQ(counts({1, 1e-6, 7}, logits, 100)[1], 100);
}

TEST(Sampler, EvenTheSmallestTopPKeepsTheMostProbable) {
  for (const double top_p : {1e-30, 1e-300, std::numeric_limits<double>::denorm_min()})
    for (const double temperature : {1e-300, 1.0, 1e300}) {
      EXPECT_EQ(counts({temperature, top_p, 7}, {-1, 2, nan, 2, 1}, 50)[1], 50)
          << top_p << " " << temperature;
      EXPECT_EQ(counts({temperature, top_p, 7}, {-1, infinity, 2, infinity}, 50)[1], 50);
    }
}

TEST(Sampler, InfinitiesShareTheProbability) {
  const std::vector<int> found = counts({1, 1, 3}, {5, infinity, nan, infinity}, 1000);
  EXPECT_EQ(found[0] + found[2], 0);
  EXPECT_NEAR(found[1], 500, 80);
}

TEST(Sampler, SameSeedSameDrawsEverywhere) {
  Sampler sampler({1, 1, 12345});
  const std::vector<float> logits(100, 0.0F);
  std::vector<std::int32_t> drawn;
  for (int i = 0; i < 8; ++i) drawn.push_back(sampler(logits));
  // mt19937_64's sequence is fixed by the standard; with equal weights only it decides.
  EXPECT_EQ(drawn, (std::vector<std::int32_t>{35, 40, 68, 55, 57, 20, 2, 68}));
}

TEST(Sampler, RefusesLogitsWithoutAChoice) {
  for (const float temperature : {0.0F, 1.0F}) {
    Sampler sampler({temperature, 1, 0});
    EXPECT_EQ(error_of([&] { sampler({}); }),
              "no token can be chosen from 0 logits: none is a number above -infinity");
    EXPECT_THROW(sampler(std::array{nan, nan}), std::invalid_argument);
    EXPECT_THROW(sampler(std::array{nan, -infinity}), std::invalid_argument);
  }
}

TEST(Sampler, RefusesSettingsOutOfRange) {
  EXPECT_EQ(error_of([] {
              Sampler({-0.5F, 1, 0});
            }),
            "temperature is -0.500000, but must be finite and >= 0");
  EXPECT_EQ(error_of([] { Sampler({1, 1.5F, 0}); }), "top_p is 1.500000, but must be in (0, 1]");
  for (const double temperature : {-1.0, std::nan(""), HUGE_VAL}) {
    EXPECT_THROW(Sampler({temperature, 1, 0}), std::invalid_argument);
  }
  for (const double top_p : {0.0, -1.0, std::nan("")})
    EXPECT_THROW(Sampler({1, top_p, 0}), std::invalid_argument);
}

}  // namespace
}  // namespace smollm2
