#include "infinipot/rope/rope_scaling.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/golden.hpp"

namespace {

using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Rope;

/// The rope that a line of the golden file asks for.
Rope rope_of(const std::string& kind, std::size_t rotary_dim, double theta, const nlohmann::json& p) {
  const double factor = p.at("factor");
  if (kind == "linear") return infinipot::linear_rope(rotary_dim, theta, {factor});
  if (kind == "dynamic") return infinipot::ntk_rope(rotary_dim, theta, {factor});
  const std::size_t context = p.at("original_context");
  if (kind == "yarn")
    return infinipot::yarn_rope(rotary_dim, theta,
                                {.factor = factor,
                                 .original_context = context,
                                 .beta_fast = p.value("beta_fast", 32.0),
                                 .beta_slow = p.value("beta_slow", 1.0),
                                 .mscale = p.value("mscale", 0.0),
                                 .mscale_all_dim = p.value("mscale_all_dim", 0.0),
                                 .attention_factor = p.value("attention_factor", 0.0),
                                 .truncate = p.value("truncate", true)});
  if (kind == "llama3")
    return infinipot::llama3_rope(rotary_dim, theta,
                                  {.factor = factor,
                                   .low_freq_factor = p.at("low_freq_factor"),
                                   .high_freq_factor = p.at("high_freq_factor"),
                                   .original_context = context});
  if (kind == "longrope")
    return infinipot::long_rope(rotary_dim, theta,
                                {.factors = p.at("factors"),
                                 .factor = factor,
                                 .original_context = context,
                                 .attention_factor = p.value("attention_factor", 0.0)});
  throw std::runtime_error("unknown kind " + kind);
}

TEST(RopeScaling, EqualsHuggingFace) {
  const nlohmann::json golden = reference::golden("rope.json");
  ASSERT_GE(golden.at("tables").size(), 20u);
  for (const nlohmann::json& line : golden.at("tables")) {
    const std::string kind = line.at("kind");
    const Rope rope = rope_of(kind, line.at("rotary_dim"), line.at("theta"), line.at("parameters"));
    const std::vector<double> expected = line.at("frequencies");
    ASSERT_EQ(rope.frequencies.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(rope.frequencies[i] / expected[i], 1, 1e-6)  // computed in float there
          << kind << " pair " << i << " of " << expected.size();
    EXPECT_NEAR(rope.attention_factor, line.at("attention_factor").get<double>(), 1e-12) << kind;
    EXPECT_NO_THROW(rope.validate(2 * expected.size()));
  }
}

const std::vector<std::function<Rope(std::size_t, Pairing)>> unscaled{
    [](std::size_t r, Pairing pairing) { return infinipot::linear_rope(r, 10000, {}, pairing); },
    [](std::size_t r, Pairing pairing) { return infinipot::ntk_rope(r, 10000, {}, pairing); },
    [](std::size_t r, Pairing pairing) { return infinipot::yarn_rope(r, 10000, {}, pairing); },
    [](std::size_t r, Pairing pairing) { return infinipot::llama3_rope(r, 10000, {.factor = 1}, pairing); },
    [](std::size_t r, Pairing pairing) {
      return infinipot::long_rope(r, 10000, {.factors = std::vector<double>(r / 2, 1.0)}, pairing);
    }};

TEST(RopeScaling, AFactorOfOneIsThePlainRope) {
  for (const auto& make : unscaled)
    for (const std::size_t rotary_dim : {0u, 2u, 4u, 64u, 80u, 96u, 128u, 256u})
      for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
        const Rope rope = make(rotary_dim, pairing), plain = plain_rope(rotary_dim, 10000, pairing);
        EXPECT_EQ(rope.pairing, pairing);
        EXPECT_EQ(rope.attention_factor, 1.0);
        ASSERT_EQ(rope.frequencies.size(), plain.frequencies.size());
        for (std::size_t i = 0; i < plain.frequencies.size(); ++i)
          EXPECT_NEAR(rope.frequencies[i] / plain.frequencies[i], 1, 1e-14);
      }
}

TEST(RopeScaling, NtkSlowsTheSlowestPairByTheFactorAndTheFastestNotAtAll) {
  for (const std::size_t rotary_dim : {4u, 64u, 80u, 128u}) {
    const Rope rope = infinipot::ntk_rope(rotary_dim, 10000, {8}), plain = plain_rope(rotary_dim);
    EXPECT_EQ(rope.frequencies.front(), 1.0);
    EXPECT_NEAR(plain.frequencies.back() / rope.frequencies.back(), 8, 1e-12);
  }
  EXPECT_EQ(infinipot::ntk_rope(2, 10000, {8}).frequencies, std::vector<double>{1.0});
}

/// Turns of a pair within a context.
double turns(double frequency, double context) { return frequency * context / (2 * std::numbers::pi); }

TEST(RopeScaling, YarnAndLlama3LeaveFastPairsAndDivideSlowOnes) {
  const Rope plain = plain_rope(128, 500000);
  const Rope yarn =
      infinipot::yarn_rope(128, 500000, {.factor = 8, .original_context = 8192, .truncate = false});
  const Rope llama = infinipot::llama3_rope(128, 500000, {});
  for (const auto& [rope, slow, fast] : {std::tuple{yarn, 1.0, 32.0}, {llama, 1.0, 4.0}}) {
    int between = 0;
    for (std::size_t i = 0; i < 64; ++i) {
      const double division = plain.frequencies[i] / rope.frequencies[i];
      if (turns(plain.frequencies[i], 8192) >= fast) {
        EXPECT_NEAR(division, 1, 1e-12);
      } else if (turns(plain.frequencies[i], 8192) <= slow) {
        EXPECT_NEAR(division, 8, 1e-12);
      } else {
        EXPECT_GT(division, 1);
        EXPECT_LT(division, 8);
        ++between;
      }
    }
    EXPECT_GT(between, 2);
  }
}

TEST(RopeScaling, YarnTruncationWidensTheRamp) {
  const infinipot::YarnScaling exact{.factor = 4, .original_context = 4096, .truncate = false};
  infinipot::YarnScaling rounded = exact;
  rounded.truncate = true;
  const Rope a = infinipot::yarn_rope(64, 10000, exact), b = infinipot::yarn_rope(64, 10000, rounded);
  EXPECT_NE(a.frequencies, b.frequencies);
}

TEST(RopeScaling, AttentionFactorsAsPublished) {
  EXPECT_NEAR(infinipot::yarn_rope(64, 10000, {.factor = 16}).attention_factor, 0.1 * std::log(16.0) + 1,
              1e-15);
  EXPECT_NEAR(
      infinipot::yarn_rope(64, 10000, {.factor = 16, .mscale = 1, .mscale_all_dim = 1}).attention_factor, 1,
      1e-15);
  EXPECT_EQ(infinipot::yarn_rope(64, 10000, {.factor = 16, .attention_factor = 0.5}).attention_factor, 0.5);
  const std::vector<double> ones(32, 1.0);
  const auto factor = [&](infinipot::LongRopeScaling scaling) {
    return infinipot::long_rope(64, 10000, scaling).attention_factor;
  };
  EXPECT_NEAR(factor({ones, 32, 4096, 0}), std::sqrt(1 + 5.0 / 12.0), 1e-15);
  EXPECT_EQ(factor({ones, 0.5, 4096, 0}), 1.0);
  EXPECT_EQ(factor({ones, 32, 4096, 1.5}), 1.5);
}

struct Refused {
  std::function<Rope()> make;
  std::vector<std::string> parts;  // of the message: the bad value, and its range
};

TEST(RopeScaling, ErrorsNameTheValueAndItsRange) {
  using namespace infinipot;
  const std::vector<double> ones(32, 1.0);
  std::vector<double> zero = ones, nan = ones;
  zero[3] = 0;
  nan[3] = std::nan("");
  const std::vector<Refused> refused{
      {[] { return linear_rope(64, 10000, {0.5}); }, {"factor 0.5", "at least 1"}},
      {[] { return linear_rope(64, 10000, {std::nan("")}); }, {"factor nan", "finite"}},
      {[] { return linear_rope(64, 10000, {HUGE_VAL}); }, {"factor inf", "finite"}},
      {[] { return linear_rope(63, 10000, {2}); }, {"63", "odd"}},
      {[] { return linear_rope(64, -1, {2}); }, {"theta -1", "positive"}},
      {[] { return ntk_rope(64, 10000, {0}); }, {"factor 0", "at least 1"}},
      {[] { return ntk_rope(7, 10000, {2}); }, {"7", "odd"}},
      {[] { return yarn_rope(64, 10000, {.factor = -4}); }, {"factor -4", "at least 1"}},
      {[] { return yarn_rope(64, 10000, {.original_context = 0}); }, {"original_context 0", "at least 1"}},
      {[] { return yarn_rope(64, 10000, {.beta_slow = 0}); }, {"beta_slow 0", "above 0"}},
      {[] { return yarn_rope(64, 10000, {.beta_fast = 2, .beta_slow = 3}); },
       {"beta_fast 2", "above beta_slow"}},
      {[] { return yarn_rope(64, 10000, {.mscale = -1}); }, {"mscale -1", "at least 0"}},
      {[] { return yarn_rope(64, 10000, {.mscale_all_dim = -2}); }, {"mscale_all_dim -2", "at least 0"}},
      {[] { return yarn_rope(64, 10000, {.attention_factor = -3}); }, {"attention_factor -3", "above 0"}},
      {[] { return yarn_rope(64, 1, {}); }, {"theta 1", "above 1"}},
      {[] { return llama3_rope(64, 10000, {.factor = 0}); }, {"factor 0", "at least 1"}},
      {[] { return llama3_rope(64, 10000, {.low_freq_factor = 0}); }, {"low_freq_factor 0", "above 0"}},
      {[] { return llama3_rope(64, 10000, {.high_freq_factor = 1}); },
       {"high_freq_factor 1", "above low_freq"}},
      {[] { return llama3_rope(64, 10000, {.original_context = 0}); }, {"original_context 0", "at least 1"}},
      {[] { return long_rope(64, 10000, {}); }, {"has 0 factors", "needs 32"}},
      {[&] { return long_rope(62, 10000, {.factors = ones}); }, {"has 32 factors", "needs 31"}},
      {[&] { return long_rope(64, 10000, {.factors = zero}); }, {"factor of a pair 0", "above 0"}},
      {[&] { return long_rope(64, 10000, {.factors = nan}); }, {"factor of a pair nan", "finite"}},
      {[&] { return long_rope(64, 10000, {.factors = ones, .factor = 0}); }, {"factor 0", "above 0"}},
      {[&] { return long_rope(64, 10000, {.factors = ones, .original_context = 1}); },
       {"original_context 1", "at least 2"}},
      {[&] { return long_rope(64, 10000, {.factors = ones, .attention_factor = -1}); },
       {"attention_factor -1", "above 0"}}};
  for (std::size_t i = 0; i < refused.size(); ++i) {
    try {
      refused[i].make();
      ADD_FAILURE() << "case " << i << " was accepted";
    } catch (const std::invalid_argument& error) {
      for (const std::string& part : refused[i].parts)
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
            << part << " is not in: " << error.what();
    }
  }
}

}  // namespace
