#include "infinipot/nuc.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "nuc_tolerance.hpp"
#include "reference/random.hpp"
#include "reference/reference_scores.hpp"

namespace {

using infinipot::NucTracker;
using infinipot::Token;
using infinipot::detail::is_nan;
using reference::sum_tolerance;

const float inf = -infinipot::detail::minus_infinity();
const float nan = infinipot::detail::quiet_nan<float>();

// Around the packet, the four packets of a step, the block of 2048; a vocabulary; primes.
constexpr std::size_t sizes[] = {1,    2,    3,    7,    15,   16,   17,   31,   63,   64,   65,    127,
                                 1023, 1024, 1025, 1031, 2047, 2048, 2049, 4095, 4096, 4097, 10007, 49152};

std::vector<float> random_logits(std::size_t n, std::uint64_t seed, float spread, float offset = 0) {
  reference::Random random(seed);
  std::vector<float> logits(n);
  for (float& x : logits) x = spread * static_cast<float>(random.uniform()) + offset;
  return logits;
}

void expect_scores(const std::vector<float>& logits) {
  const auto last = static_cast<Token>(logits.size() - 1);
  EXPECT_NEAR(infinipot::log_sum_exp(logits), reference::log_sum_exp(logits), sum_tolerance(logits));
  for (const Token token : {Token{0}, last / 2, last}) {
    const double truth = std::max(0.0, reference::nuc(logits, token));
    EXPECT_NEAR(infinipot::nuc(logits, token), truth, reference::nuc_tolerance(logits, token))
        << "token " << token;
    EXPECT_GE(infinipot::nuc(logits, token), 0.0F);
  }
}

TEST(Nuc, MatchesTheReferenceAtEverySizeSpreadAndOffset) {
  for (const std::size_t n : sizes)
    for (const float spread : {0.0F, 1e-20F, 1.0F, 10.0F, 200.0F, 1e5F})
      for (const float offset : {0.0F, 1e4F, -1e4F, 1e30F, -1e30F}) {
        SCOPED_TRACE(testing::Message() << "n " << n << " spread " << spread << " offset " << offset);
        expect_scores(random_logits(n, n, spread, offset));
      }
}

TEST(Nuc, OfEqualLogitsIsTheLogarithmOfTheirNumber) {
  EXPECT_FLOAT_EQ(infinipot::nuc(std::vector<float>(1, 5), 0), 0);
  EXPECT_FLOAT_EQ(infinipot::nuc(std::vector<float>(49152, -3), 49151), std::log(49152.0F));
}

TEST(Nuc, FindsTheLargestLogitWhereverItStands) {
  for (const std::size_t n : {1U, 5U, 16U, 17U, 64U, 67U, 1025U, 2050U}) {
    auto logits = random_logits(n, 7, 1, -1000);
    for (std::size_t i = 0; i<n; i += n> 100 ? 61 : 1) {
      const float before = logits[i];
      logits[i] = 50;  // exp() would overflow if anything but this were subtracted
      EXPECT_NEAR(infinipot::log_sum_exp(logits), 50, 1e-6) << n << " " << i;
      EXPECT_EQ(infinipot::nuc(logits, static_cast<Token>(i)), 0.0F);
      logits[i] = before;
    }
  }
}

TEST(Nuc, EveryLogitCounts) {
  for (const std::size_t n : {1U, 3U, 16U, 19U, 64U, 71U, 1024U, 1027U, 3000U})
    for (std::size_t i = 0; i<n; i += n> 100 ? 37 : 1) {
      std::vector<float> logits(n, -30);
      logits[i] = -20;  // exp(10) times one of the others, so n 3000 still sees it
      expect_scores(logits);
      std::vector<float> hidden(n, -inf);
      hidden[i] = -7;
      EXPECT_DOUBLE_EQ(infinipot::log_sum_exp(hidden), -7) << n << " " << i;
    }
}

// A block is summed relative to its first logits, and again if one is more than 16 above those.
TEST(Nuc, LogitsMayRiseAboveTheFirstOnes) {
  for (const std::size_t n : {65U, 128U, 200U, 2048U, 4100U})
    for (const float rise : {0.5F, 15.9F, 16.0F, 16.1F, 87.0F, 88.0F, 89.0F, 200.0F, 1e10F, 3e38F})
      for (const float offset : {0.0F, -40.0F, 1e4F})
        for (std::size_t i = 0; i<n; i += n> 200 ? 97 : 9) {
          SCOPED_TRACE(testing::Message() << n << " logits, " << rise << " above " << offset << " at " << i);
          auto logits = random_logits(n, n, 1, offset);
          logits[i] += rise;
          ASSERT_NEAR(infinipot::log_sum_exp(logits), reference::log_sum_exp(logits), sum_tolerance(logits));
          ASSERT_GE(infinipot::nuc(logits, static_cast<Token>(i)), 0.0F);
        }
}

TEST(Nuc, OfTheLargestLogitIsNeverNegative) {
  reference::Random random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    auto logits = random_logits(200, random.bits(), 0.1F);
    for (float& x : logits) x -= 40;
    logits[150] =
        -40 + 16 * static_cast<float>(random.uniform());  // nearly certain, and not in the first step
    ASSERT_GE(infinipot::nuc(logits, 150), 0.0F);
  }
}

TEST(LogSumExp, OfPartsIsTheSameBitsAsOfTheWhole) {
  using infinipot::LogSumExp;
  for (const std::size_t n : {1U, 2047U, 2048U, 2049U, 49152U, 128256U}) {
    auto logits = random_logits(n, n, 30);
    LogSumExp joined, streamed;
    for (std::size_t i = 0; i < n; i += LogSumExp::block) {
      const auto part = std::span(logits).subspan(i, std::min(LogSumExp::block, n - i));
      LogSumExp alone;
      alone.add(part);
      joined.add(alone);
      streamed.add(part);
    }
    EXPECT_EQ(joined.value(), infinipot::log_sum_exp(logits)) << n;
    EXPECT_EQ(streamed.value(), infinipot::log_sum_exp(logits)) << n;
  }
}

TEST(LogSumExp, OfPartsOfAnyLengthIsRight) {
  const auto logits = random_logits(5000, 4, 10);
  for (const std::size_t length : {1U, 3U, 64U, 100U, 2048U, 3000U}) {
    infinipot::LogSumExp sum;
    for (std::size_t i = 0; i < logits.size(); i += length)
      sum.add(std::span(logits).subspan(i, std::min(length, logits.size() - i)));
    EXPECT_NEAR(sum.value(), reference::log_sum_exp(logits), sum_tolerance(logits)) << length;
  }
  EXPECT_TRUE(is_nan(infinipot::LogSumExp().value()));
}

TEST(Nuc, IsTheSameWhereverTheRowLies) {
  for (const std::size_t n : {5U, 100U, 1500U}) {
    const auto logits = random_logits(n, 3, 10);
    for (std::size_t shift = 0; shift < 16; ++shift) {
      std::vector<float> room(n + 16, nan);
      std::copy(logits.begin(), logits.end(), room.begin() + static_cast<std::ptrdiff_t>(shift));
      EXPECT_EQ(infinipot::nuc(std::span(room).subspan(shift, n), 2), infinipot::nuc(logits, 2));
    }
  }
}

TEST(Nuc, MaskedTokensDoNotCount) {
  for (const std::size_t n : {2U, 17U, 65U, 1025U, 4097U}) {
    auto logits = random_logits(n, n, 10);
    for (std::size_t i = 1; i < n; i += 2) logits[i] = -inf;
    expect_scores({logits.begin(), logits.begin() + 1});
    EXPECT_NEAR(infinipot::log_sum_exp(logits), reference::log_sum_exp(logits), sum_tolerance(logits));
    EXPECT_EQ(infinipot::nuc(logits, 1), inf) << "a token that cannot come";
  }
}

TEST(Nuc, WholeBlocksMayBeMasked) {
  for (const std::size_t masked : {0U, 1U, 2U, 3U}) {
    auto logits = random_logits(4 * 4096 - 5, 11, 10, masked % 2 == 0 ? -5000.0F : 5000.0F);
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(masked * 4096);
    std::fill(begin, masked == 3 ? logits.end() : begin + 4096, -inf);
    EXPECT_NEAR(infinipot::log_sum_exp(logits), reference::log_sum_exp(logits), sum_tolerance(logits));
  }
}

TEST(Nuc, TheLowestFloatIsAMaskToo) {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  for (const std::size_t n : {2U, 65U, 9000U}) {
    std::vector<float> logits(n, lowest);
    logits[n / 2] = -3;
    EXPECT_DOUBLE_EQ(infinipot::log_sum_exp(logits), -3);
    EXPECT_EQ(infinipot::nuc(logits, 0), -lowest);
  }
  const float equal = infinipot::nuc(std::vector<float>{lowest, lowest, -inf}, 0);
  // With -ffast-math, which adds up in another order, it is log 2.
  EXPECT_LT(equal, infinipot::detail::finite_math_only ? 0.7F : 1e-30F) << "log 2 is lost beside 3e38";
}

TEST(Nuc, OfNothingButMaskedTokensIsNaN) {
  for (const std::size_t n : sizes) {
    const std::vector<float> logits(n, -inf);
    EXPECT_TRUE(is_nan(infinipot::log_sum_exp(logits))) << n;
    EXPECT_TRUE(is_nan(infinipot::nuc(logits, 0))) << n;
  }
  EXPECT_TRUE(is_nan(infinipot::log_sum_exp({})));
}

TEST(Nuc, OneBadLogitAnywhereGivesNaN) {
  for (const float bad : {nan, -nan, inf})
    for (const float others : {0.0F, -1e30F, -inf})
      for (const std::size_t n : {1U, 2U, 15U, 16U, 17U, 64U, 79U, 80U, 1024U, 4101U, 4112U, 8192U})
        for (std::size_t i = 0; i<n; i += n> 100 && i + 20 < n && i > 20 ? 23 : 1) {
          std::vector<float> logits(n, others);
          logits[i] = bad;
          ASSERT_TRUE(is_nan(infinipot::log_sum_exp(logits)))
              << bad << " at " << i << " of " << n << " " << others;
          ASSERT_TRUE(is_nan(infinipot::nuc(logits, 0)));
        }
}

TEST(Nuc, TwoBadLogitsDoNotCancel) {
  std::vector<float> logits(9000, 1);
  logits[3] = inf;
  logits[8500] = -inf;
  EXPECT_TRUE(is_nan(infinipot::nuc(logits, 0)));
  logits[8500] = inf;
  EXPECT_TRUE(is_nan(infinipot::nuc(logits, 8500)));
}

TEST(Nuc, FarBelowTheLargestStillIsExact) {
  const std::vector<float> logits{0, -80, -100, -1000};
  EXPECT_FLOAT_EQ(infinipot::nuc(logits, 1), 80);
  EXPECT_FLOAT_EQ(infinipot::nuc(logits, 2), 100);
  EXPECT_FLOAT_EQ(infinipot::nuc(logits, 3), 1000);
}

// --- The exponential ---------------------------------------------------------------------------------------

std::vector<float> exponentials(const std::vector<float>& x) {
  using namespace infinipot::detail;
  std::vector<float> padded(x.size() + packet_size, 0), result(padded.size());
  std::ranges::copy(x, padded.begin());
  for (std::size_t i = 0; i < x.size(); i += packet_size)
    store(result.data() + i, exp_to_88(load(padded.data() + i)));
  result.resize(x.size());
  return result;
}

TEST(Exponential, IsAsExactAsItPromises) {
  std::vector<float> x;
  for (float step = 0; step < 87; step += 1.0F / 1024) x.insert(x.end(), {-step, step});
  for (float step = 1e-30F; step < 1; step *= 1.7F) x.insert(x.end(), {-step, step});
  x.insert(x.end(), {-87, -87.3F, 87.5F, 88});
  const auto result = exponentials(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double truth = std::exp(static_cast<double>(x[i]));
    const double units = 3 + 1.5 * std::abs(static_cast<double>(x[i]));
    ASSERT_NEAR(result[i], truth, units * reference::unit * truth) << x[i];
  }
}

TEST(Exponential, HasExactEnds) {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  EXPECT_EQ(exponentials({0.0F, -0.0F, -88, -126, -1000, -1e10F, lowest, -inf}),
            (std::vector<float>{1, 1, 0, 0, 0, 0, 0, 0}));
  if constexpr (!infinipot::detail::finite_math_only) {
    for (const float bad : exponentials({nan, -nan})) EXPECT_TRUE(is_nan(bad));
  }
  for (const float tiny : exponentials({-87.4F, -87.6F, -87.7F, -87.9F})) {
    EXPECT_GE(tiny, 0.0F);
    EXPECT_LT(tiny, 1.2e-38F);
  }
}

// --- NucTracker --------------------------------------------------------------------------------------------

/// Scores of a stream whose logits row t follows token t, read in chunks that end at `cuts`.
std::vector<float> stream_scores(const std::vector<Token>& tokens,
                                 const std::vector<std::vector<float>>& rows,
                                 const std::vector<std::size_t>& cuts) {
  NucTracker tracker(rows[0].size());
  std::vector<float> scores;
  std::size_t begin = 0;
  for (const std::size_t end : cuts) {
    scores.push_back(tracker.score(tokens[begin]));
    for (std::size_t t = begin + 1; t < end; ++t) scores.push_back(infinipot::nuc(rows[t - 1], tokens[t]));
    tracker.stage(rows[end - 1]);
    tracker.commit();
    begin = end;
  }
  return scores;
}

TEST(NucTracker, ScoresAreTheSameHoweverTheStreamIsCut) {
  constexpr std::size_t length = 9, vocab = 37;
  reference::Random random(5);
  std::vector<Token> tokens;
  std::vector<std::vector<float>> rows;
  for (std::size_t t = 0; t < length; ++t) {
    tokens.push_back(static_cast<Token>(random.below(vocab)));
    rows.push_back(random_logits(vocab, random.bits(), 5));
  }
  std::vector<float> truth{0};
  for (std::size_t t = 1; t < length; ++t) truth.push_back(infinipot::nuc(rows[t - 1], tokens[t]));
  for (std::size_t mask = 0; mask < std::size_t{1} << (length - 1); ++mask) {  // every way to cut it
    std::vector<std::size_t> cuts;
    for (std::size_t t = 1; t < length; ++t)
      if ((mask >> (t - 1) & 1U) != 0) cuts.push_back(t);
    cuts.push_back(length);
    ASSERT_EQ(stream_scores(tokens, rows, cuts), truth) << "cuts " << mask;
  }
}

TEST(NucTracker, TheFirstTokenOfAStreamScoresZero) {
  NucTracker tracker(4);
  EXPECT_EQ(tracker.vocab_size(), 4U);
  EXPECT_FALSE(tracker.has_logits());
  EXPECT_EQ(tracker.score(3), 0.0F);
}

TEST(NucTracker, AStagedChunkThatFailsLeavesNoTrace) {
  NucTracker tracker(2);
  tracker.stage(std::vector<float>{9, -9});
  EXPECT_FALSE(tracker.has_logits());
  EXPECT_EQ(tracker.score(1), 0.0F);

  const std::vector<float> kept{0, 1}, lost{50, -50};
  tracker.stage(kept);
  tracker.commit();
  const float score = tracker.score(0);
  tracker.stage(lost);  // the forward pass throws after this
  EXPECT_TRUE(std::ranges::equal(tracker.logits(), kept));
  EXPECT_EQ(tracker.score(0), score);

  const std::vector<float> next{2, 2};
  tracker.stage(next);
  tracker.commit();
  EXPECT_TRUE(std::ranges::equal(tracker.logits(), next));
  EXPECT_FLOAT_EQ(tracker.score(1), std::log(2.0F));
}

TEST(NucTracker, RejectsAnEmptyVocabulary) { EXPECT_THROW(NucTracker(0), std::invalid_argument); }

TEST(NucTracker, AllocatesNothingAfterConstruction) {
  const auto logits = random_logits(5000, 1, 10);
  NucTracker tracker(logits.size());
  const allocation_counter::Scope use;
  tracker.stage(logits);
  tracker.commit();
  const float score = tracker.score(17) + infinipot::nuc(logits, 3);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
  EXPECT_GT(score, 0.0F);
}

}  // namespace
