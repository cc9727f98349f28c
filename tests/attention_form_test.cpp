#include "infinipot/cap/attention_form.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <vector>

namespace {

using infinipot::Alibi;
using infinipot::AttentionForm;
using infinipot::SlidingWindow;

constexpr float inf = std::numeric_limits<float>::infinity();

TEST(AttentionForm, ScalesByTheRootOfHeadDimUnlessTold) {
  EXPECT_FLOAT_EQ(AttentionForm{}.scale_for(64), 0.125F);
  EXPECT_FLOAT_EQ(AttentionForm{}.scale_for(80), 1 / std::sqrt(80.0F));
  EXPECT_EQ(AttentionForm{.scale = 0.25F}.scale_for(64), 0.25F);
  EXPECT_EQ(AttentionForm{.scale = -1}.scale_for(64), -1.0F);
}

TEST(AttentionForm, DefaultsToPlainAttention) {
  EXPECT_EQ(AttentionForm{}.soft_cap, 0.0F);
  EXPECT_EQ(AttentionForm{}.bias, nullptr);
  EXPECT_TRUE(AttentionForm{}.sinks.empty());
}

TEST(SlidingWindow, ShowsAQueryItselfAndTheEntriesJustBefore) {
  for (std::size_t window = 1; window <= 9; ++window)
    for (std::size_t query = 0; query < 9; ++query) {
      std::vector<float> logits(query + 1, 7);
      SlidingWindow(window).add(0, query, logits);
      for (std::size_t t = 0; t <= query; ++t)
        EXPECT_EQ(logits[t], query - t < window ? 7 : -inf)
            << "window " << window << " query " << query << " t " << t;
    }
}

TEST(SlidingWindow, IsTheSameForEveryHead) {
  std::vector<float> first(6, 1), last(6, 1);
  SlidingWindow(2).add(0, 5, first);
  SlidingWindow(2).add(31, 5, last);
  EXPECT_EQ(first, last);
}

TEST(SlidingWindow, StaysWithinAShorterRow) {
  std::vector<float> logits(3, 1);
  SlidingWindow(2).add(0, 100, logits);
  EXPECT_EQ(logits, std::vector<float>(3, -inf));
}

TEST(SlidingWindow, RejectsNone) { EXPECT_THROW(SlidingWindow(0), std::invalid_argument); }

TEST(Alibi, FallsWithDistanceBySlopeOfTheHead) {
  const std::vector<float> slopes{0.5F, 0.0625F};
  const Alibi alibi(slopes);
  std::vector<float> logits{10, 10, 10, 10};
  alibi.add(0, 3, logits);
  EXPECT_EQ(logits, (std::vector<float>{8.5F, 9, 9.5F, 10}));
  alibi.add(1, 3, logits);
  EXPECT_EQ(logits, (std::vector<float>{8.5F - 0.1875F, 9 - 0.125F, 9.5F - 0.0625F, 10}));
}

}  // namespace
