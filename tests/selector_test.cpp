#include "infinipot/policy/selector.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/policy/score_view.hpp"
#include "reference/random.hpp"
#include "reference/reference_scores.hpp"

namespace {

using infinipot::Entry;
using infinipot::EntryTable;
using infinipot::Granularity;
using infinipot::Index;
using infinipot::Pooling;
using infinipot::Protection;
using infinipot::ReduceHeads;
using infinipot::Rule;
using infinipot::ScoreView;
using infinipot::Selector;
using infinipot::Shape;
using infinipot::Token;
using infinipot::detail::is_nan;

const float nan = infinipot::detail::quiet_nan<float>();
constexpr Shape shape{.layers = 2, .query_heads = 6, .kv_heads = 3, .head_dim = 4};
constexpr Granularity granularities[] = {Granularity::head, Granularity::layer, Granularity::shared};

enum class By : std::uint8_t { nuc, attention };

/// Rules that score by NuC or by attention.
struct TestPolicy {
  std::vector<Rule> all;
  std::vector<By> by;
  ReduceHeads over_heads = ReduceHeads::sum;

  std::string_view name() const { return "test"; }
  std::span<const Rule> rules() const { return all; }
  void score(std::size_t rule, const ScoreView& view, std::span<float> scores) const noexcept {
    if (by[rule] == By::nuc)
      for (std::size_t t = 0; t < view.size(); ++t) scores[t] = view.nuc(t);
    else
      view.reduce_heads(over_heads, scores);
  }
};

/// A store's records and attention without the store.
struct Held {
  Granularity granularity;
  EntryTable table;
  std::size_t keep = 0;
  std::vector<float> attention;  // (heads, capacity)
  Protection protection = {};

  Held(Granularity granularity_, std::size_t capacity)
      : granularity(granularity_),
        table(shape.lanes(granularity_), capacity),
        attention(shape.heads() * capacity, 0) {}

  void append(std::size_t count, reference::Random& random, std::size_t pins = 0) {
    std::vector<Entry> entries(count);
    for (Entry& entry : entries) {
      entry = {next_position, static_cast<Token>(next_position), static_cast<float>(random.below(16)) / 4,
               false};
      entry.pinned = pins != 0 && random.below(pins) == 0;
      ++next_position;
    }
    table.append(entries);
  }

  /// Lanes keep different entries, as after a distillation: sinks and pinned ones, else any.
  void diverge(std::size_t count, std::size_t sinks, reference::Random& random) {
    infinipot::Selection selection(table.lanes(), count);
    for (std::size_t lane = 0; lane < table.lanes(); ++lane) {
      std::vector<std::uint8_t> stays(table.size());
      std::size_t chosen = 0;
      for (std::size_t t = 0; t < table.size(); ++t) {
        stays[t] = t < sinks || table.pinned(lane)[t] != 0 ? 1 : 0;
        chosen += stays[t];
      }
      while (chosen < count) {
        auto& flag = stays[random.below(stays.size())];
        chosen += flag == 0 ? 1 : 0;
        flag = 1;
      }
      infinipot::marked_indices(stays, selection.lane(lane));
    }
    table.keep(selection);
  }

  /// Multiples of 1/16 below 2, so that sums are exact in float; with `nans`, one in that many is NaN.
  void attend(reference::Random& random, std::size_t nans = 0) {
    for (float& x : attention) {
      x = static_cast<float>(random.below(32)) / 16;
      if (nans != 0 && random.below(nans) == 0) x = nan;
    }
  }

  std::size_t capacity() const { return table.capacity(); }
  std::uint64_t next_position = 0;
};

std::size_t index_of(const EntryTable& table, std::size_t lane, std::uint64_t position) {
  const auto positions = table.positions(lane);
  return static_cast<std::size_t>(std::find(positions.begin(), positions.end(), position) -
                                  positions.begin());
}

/// Attention scores of a scope, head by head.
std::vector<float> attention_scores(const Held& held, const reference::Scope& scope, ReduceHeads over_heads) {
  const std::size_t heads = shape.heads() / held.table.lanes();  // per lane
  std::vector<float> scores(scope.positions.size(), 0);
  for (const std::size_t lane : scope.lanes)
    for (std::size_t head = lane * heads; head < (lane + 1) * heads; ++head) {
      std::vector<float> paid;
      float total = 0;
      for (std::size_t i = 0; i < scores.size(); ++i) {
        paid.push_back(
            held.attention[head * held.capacity() + index_of(held.table, lane, scope.positions[i])]);
        if (scope.protected_any[i] == 0 && !is_nan(paid[i])) total += paid[i];
      }
      for (std::size_t i = 0; i < scores.size(); ++i) {
        if (over_heads == ReduceHeads::sum) {
          scores[i] += paid[i];
        } else if (over_heads == ReduceHeads::max) {
          if (is_nan(paid[i]) || (!is_nan(scores[i]) && paid[i] > scores[i])) scores[i] = paid[i];
        } else if (is_nan(scores[i]) || is_nan(paid[i])) {
          scores[i] = nan;
        } else if (total != 0) {
          scores[i] = std::max(scores[i], paid[i] / total);
        }
      }
    }
  return scores;
}

reference::Selected expected(const Held& held, const TestPolicy& policy) {
  reference::Selection selection(shape, held.granularity, held.table, held.keep, held.protection);
  return selection.run(policy.all, [&](std::size_t rule, const reference::Scope& scope) {
    if (policy.by[rule] == By::attention) return attention_scores(held, scope, policy.over_heads);
    std::vector<float> scores;
    for (const std::uint64_t position : scope.positions)
      scores.push_back(held.table.nuc(scope.lanes[0])[index_of(held.table, scope.lanes[0], position)]);
    return scores;
  });
}

std::vector<std::vector<Index>> lanes_of(const infinipot::Selection& selection) {
  std::vector<std::vector<Index>> lanes;
  for (std::size_t lane = 0; lane < selection.lanes(); ++lane)
    lanes.emplace_back(selection.lane(lane).begin(), selection.lane(lane).end());
  return lanes;
}

struct Outcome {
  std::vector<std::vector<Index>> lanes;
  std::size_t nans = 0;
};

Outcome select(const Held& held, const TestPolicy& policy) {
  Selector selector(shape, held.granularity, held.capacity(), held.keep, policy.all);
  const std::size_t nans = selector.select(policy, held.table, held.attention, held.protection);
  return {lanes_of(selector.kept()), nans};
}

void expect_valid(const Held& held, const Outcome& outcome) {
  ASSERT_EQ(outcome.lanes.size(), held.table.lanes());
  for (std::size_t lane = 0; lane < outcome.lanes.size(); ++lane) {
    const auto& kept = outcome.lanes[lane];
    ASSERT_EQ(kept.size(), held.keep);
    ASSERT_TRUE(std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()) == kept.end());
    ASSERT_LT(kept.back(), held.table.size());
    for (std::size_t t = 0; t < held.table.size(); ++t)
      if (t < held.protection.sinks || t + held.protection.recent >= held.table.size() ||
          held.table.pinned(lane)[t] != 0) {
        ASSERT_TRUE(std::binary_search(kept.begin(), kept.end(), t))
            << "lane " << lane << " lost entry " << t;
      }
  }
}

void expect_reference(const Held& held, const TestPolicy& policy) {
  const Outcome outcome = select(held, policy);
  ASSERT_NO_FATAL_FAILURE(expect_valid(held, outcome));
  const auto truth = expected(held, policy);
  ASSERT_EQ(outcome.lanes, truth.lanes);
  ASSERT_EQ(outcome.nans, truth.nans);
}

/// The paper's two rules.
TestPolicy by_alpha(double alpha, std::size_t kernel = 1, Granularity scope = Granularity::head) {
  return {{{.share = alpha, .scope = scope, .smoothing = {Pooling::max, kernel}},
           {.scope = scope, .smoothing = {Pooling::max, kernel}}},
          {By::nuc, By::attention},
          ReduceHeads::sum};
}

// --- One lane by one ---------------------------------------------------------------------------------------

TEST(Selector, MatchesTheReferenceAtEveryGranularityAndAlpha) {
  reference::Random random(1);
  for (const Granularity granularity : granularities)
    for (const double alpha : {0.0, 0.25, 0.5, 1.0})
      for (const ReduceHeads over_heads : {ReduceHeads::sum, ReduceHeads::max, ReduceHeads::max_share})
        for (int round = 0; round < 25; ++round) {
          SCOPED_TRACE(testing::Message() << "lanes " << shape.lanes(granularity) << " alpha " << alpha);
          Held held(granularity, 40);
          held.append(20 + random.below(21), random, random.below(2) * 10);
          held.protection = {random.below(5), random.below(5)};
          held.keep = 16 + random.below(5);
          held.attend(random);
          auto policy = by_alpha(alpha, 1 + 2 * random.below(3));
          policy.over_heads = over_heads;
          ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy));
        }
}

TEST(Selector, TheShareOfNucIsRoundedDown) {
  reference::Random random(1);
  Held held(Granularity::shared, 12);
  held.append(12, random);
  std::vector<Entry> entries;
  held.table.truncate(0);
  for (int i = 0; i < 12; ++i)
    entries.push_back({static_cast<std::uint64_t>(i), i, i < 6 ? 1.0F : 0.0F, false});
  held.table.append(entries);
  for (std::size_t head = 0; head < shape.heads(); ++head)
    for (std::size_t t = 6; t < 12; ++t) held.attention[head * 12 + t] = 1;
  held.keep = 5;
  const auto lane = [&](double alpha) { return select(held, by_alpha(alpha)).lanes[0]; };
  EXPECT_EQ(lane(0), (std::vector<Index>{6, 7, 8, 9, 10}));
  EXPECT_EQ(lane(0.19), (std::vector<Index>{6, 7, 8, 9, 10}));
  EXPECT_EQ(lane(0.2), (std::vector<Index>{0, 6, 7, 8, 9}));
  EXPECT_EQ(lane(0.5), (std::vector<Index>{0, 1, 6, 7, 8}));
  EXPECT_EQ(lane(1), (std::vector<Index>{0, 1, 2, 3, 4}));
  held.protection = {1, 1};  // 3 are free: floor(0.5 * 3) = 1 by NuC
  EXPECT_EQ(lane(0.5), (std::vector<Index>{0, 1, 6, 7, 11}));
}

TEST(Selector, ProtectedEntriesStayAndOverlapCountsOnce) {
  reference::Random random(2);
  Held held(Granularity::head, 20);
  std::vector<Entry> entries(20);
  for (std::size_t t = 0; t < 20; ++t)
    entries[t] = {t, static_cast<Token>(t), 0, t == 1 || t == 10 || t == 18};  // 1 is a sink, 18 recent too
  held.table.append(entries);
  held.protection = {3, 4};
  held.attend(random);
  held.keep = 8;  // 0 1 2, 10, 16 17 18 19: no room is left
  for (const auto& lane : select(held, by_alpha(0.5)).lanes)
    EXPECT_EQ(lane, (std::vector<Index>{0, 1, 2, 10, 16, 17, 18, 19}));
  held.keep = 9;  // one is free
  ASSERT_NO_FATAL_FAILURE(expect_reference(held, by_alpha(0.5)));
}

TEST(Selector, ProtectionMayCoverEverything) {
  reference::Random random(3);
  Held held(Granularity::layer, 10);
  held.append(6, random);
  held.keep = 6;
  held.protection = {100, 100};
  for (const auto& lane : select(held, by_alpha(0.5)).lanes)
    EXPECT_EQ(lane, (std::vector<Index>{0, 1, 2, 3, 4, 5}));
}

TEST(Selector, EqualScoresGoToTheEarliest) {
  reference::Random random(4);
  Held held(Granularity::head, 10);
  held.table.append(std::vector<Entry>(10));
  held.keep = 4;
  held.protection = {1, 1};
  for (const auto& lane : select(held, by_alpha(0.5)).lanes)
    EXPECT_EQ(lane, (std::vector<Index>{0, 1, 2, 9}));
}

TEST(Selector, NaNIsLowestAndCounted) {
  reference::Random random(5);
  for (const Granularity granularity : granularities)
    for (const double alpha : {0.0, 0.5, 1.0})
      for (int round = 0; round < 20; ++round) {
        Held held(granularity, 30);
        held.append(30, random, 10);
        held.keep = 15;
        held.protection = {2, 3};
        held.attend(random, 9);
        ASSERT_NO_FATAL_FAILURE(expect_reference(held, by_alpha(alpha, 1 + 2 * random.below(2))));
      }
}

TEST(Selector, NaNOfProtectedEntriesAndOfRulesWithoutABudgetIsNotCounted) {
  Held held(Granularity::shared, 6);
  std::vector<Entry> entries(6);
  for (Entry& entry : entries) entry = {held.next_position++, 0, nan, false};
  held.table.append(entries);
  held.keep = 3;
  held.protection = {1, 1};
  EXPECT_EQ(select(held, by_alpha(0)).nans, 0U) << "nothing is chosen by NuC";
  const auto outcome = select(held, by_alpha(1));
  EXPECT_EQ(outcome.nans, 4U);
  EXPECT_EQ(outcome.lanes[0], (std::vector<Index>{0, 1, 5}));
}

TEST(Selector, NaNInOneHeadIsReportedWhicheverHeadItIs) {
  for (const ReduceHeads over_heads : {ReduceHeads::sum, ReduceHeads::max, ReduceHeads::max_share})
    for (std::size_t head = 0; head < shape.heads(); ++head) {
      Held held(Granularity::shared, 8);
      reference::Random random(6);
      held.append(8, random);
      held.keep = 4;
      std::fill(held.attention.begin(), held.attention.end(), 1.0F);
      held.attention[head * 8 + 5] = nan;
      auto policy = by_alpha(0);
      policy.over_heads = over_heads;
      EXPECT_GE(select(held, policy).nans, 1U) << "head " << head;
    }
}

TEST(Selector, SmoothingLiftsNeighboursButNotThoseOfProtectedEntries) {
  Held held(Granularity::shared, 9);
  held.table.append(std::vector<Entry>(9));
  for (std::size_t head = 0; head < shape.heads(); ++head) {
    held.attention[head * 9 + 0] = 100;  // a sink
    held.attention[head * 9 + 5] = 10;
    held.attention[head * 9 + 2] = 1;
  }
  held.keep = 4;
  held.protection = {1, 0};
  EXPECT_EQ(select(held, by_alpha(0, 3)).lanes[0], (std::vector<Index>{0, 4, 5, 6}));
  EXPECT_EQ(select(held, by_alpha(0, 1)).lanes[0], (std::vector<Index>{0, 1, 2, 5}));
}

TEST(Selector, MeanPoolingIsAppliedToo) {
  reference::Random random(7);
  for (int round = 0; round < 20; ++round) {
    Held held(Granularity::layer, 30);
    held.append(30, random);
    held.keep = 12;
    held.protection = {2, 2};
    held.attend(random);
    const TestPolicy policy{{{.smoothing = {Pooling::mean, 5}}}, {By::attention}, ReduceHeads::sum};
    ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy));
  }
}

TEST(Selector, ASecondSmoothingIsOfTheFirst) {
  Held held(Granularity::shared, 9);
  held.table.append(std::vector<Entry>(9));
  for (std::size_t head = 0; head < shape.heads(); ++head) {
    held.attention[head * 9 + 2] = 3;  // one peak, and two neighbours that are more together
    held.attention[head * 9 + 6] = held.attention[head * 9 + 7] = 2;
  }
  held.keep = 4;
  const auto kept = [&](infinipot::Smoothing first, infinipot::Smoothing then) {
    return select(held, TestPolicy{{{.smoothing = first, .then = then}}, {By::attention}, ReduceHeads::sum})
        .lanes[0];
  };
  EXPECT_EQ(kept({Pooling::max, 3}, {}), (std::vector<Index>{1, 2, 3, 5}));
  EXPECT_EQ(kept({Pooling::mean, 3}, {}), (std::vector<Index>{1, 2, 6, 7}));
  EXPECT_EQ(kept({Pooling::mean, 3}, {Pooling::max, 3}), (std::vector<Index>{5, 6, 7, 8}));
}

TEST(Selector, AFinerRuleThanTheStoreHasNoEffect) {
  reference::Random random(8);
  Held held(Granularity::shared, 20);
  held.append(20, random);
  held.keep = 9;
  held.attend(random);
  const auto as_head = select(held, by_alpha(0.5, 1, Granularity::head)).lanes;
  EXPECT_EQ(as_head, select(held, by_alpha(0.5, 1, Granularity::shared)).lanes);
}

// --- A part for all lanes ----------------------------------------------------------------------------------

TEST(Selector, ACoarseRuleGivesAllLanesOfAScopeTheSame) {
  reference::Random random(9);
  Held held(Granularity::head, 20);
  held.append(20, random);
  held.keep = 9;
  held.attend(random);
  const auto shared = select(held, by_alpha(0.5, 1, Granularity::shared)).lanes;
  for (const auto& lane : shared) EXPECT_EQ(lane, shared[0]);
  const auto layered = select(held, by_alpha(0.5, 1, Granularity::layer)).lanes;
  for (std::size_t lane = 0; lane < 6; ++lane) EXPECT_EQ(layered[lane], layered[lane / 3 * 3]);
  EXPECT_NE(layered[0], layered[3]) << "layers choose alone";
}

/// A table whose lanes went through their own distillations, and read on.
Held diverged(Granularity granularity, reference::Random& random, std::size_t nans) {
  Held held(granularity, 48);
  const std::size_t sinks = random.below(4);
  held.append(30 + random.below(19), random, random.below(2) * 20);
  for (std::size_t times = random.below(3); times > 0; --times) {
    const std::size_t fewest = 18;
    held.diverge(fewest + random.below(8), sinks, random);
    held.append(48 - held.table.size() - random.below(5), random, 0);
  }
  held.protection = {sinks, random.below(5)};
  held.keep = 17 + random.below(8);
  held.attend(random, nans);
  return held;
}

TEST(Selector, MatchesTheReferenceWhereLanesHoldDifferentTokens) {
  reference::Random random(10);
  for (const Granularity granularity : {Granularity::head, Granularity::layer})
    for (const Granularity scope : granularities)
      for (const ReduceHeads over_heads : {ReduceHeads::sum, ReduceHeads::max, ReduceHeads::max_share})
        for (int round = 0; round < 60; ++round) {
          const Held held = diverged(granularity, random, round % 3 == 0 ? 200 : 0);
          auto policy = by_alpha(0.25 * static_cast<double>(random.below(5)), 1 + 2 * random.below(3), scope);
          policy.over_heads = over_heads;
          ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy))
              << "lanes " << held.table.lanes() << " scope " << static_cast<int>(scope) << " round " << round;
        }
}

TEST(Selector, BudgetsMayBePartShared) {
  // A third for all, a part per layer, the rest per head; by NuC and attention in turn.
  reference::Random random(11);
  for (int round = 0; round < 100; ++round) {
    const Held held = diverged(Granularity::head, random, 0);
    TestPolicy policy{{{.share = 0.33, .scope = Granularity::shared, .smoothing = {Pooling::max, 3}},
                       {.share = 0.2, .scope = Granularity::shared},
                       {.share = 0.2, .scope = Granularity::layer, .smoothing = {Pooling::max, 5}},
                       {.share = 0.1, .scope = Granularity::head},
                       {.scope = Granularity::head}},
                      {By::attention, By::nuc, By::attention, By::nuc, By::attention},
                      round % 2 == 0 ? ReduceHeads::sum : ReduceHeads::max_share};
    ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy)) << round;
  }
}

TEST(Selector, SharesThatExceedTheBudgetEndWithIt) {
  reference::Random random(12);
  for (int round = 0; round < 30; ++round) {
    const Held held = diverged(Granularity::head, random, 0);
    const TestPolicy policy{{{.share = 0.7, .scope = Granularity::shared},
                             {.share = 0.7, .scope = Granularity::head},
                             {.share = 0.7, .scope = Granularity::head}},
                            {By::attention, By::nuc, By::attention},
                            ReduceHeads::sum};
    ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy)) << round;
  }
}

TEST(Selector, LanesThatAgreeOnTooLittleAreFilledWithTheNewest) {
  Held held(Granularity::head, 12);
  std::vector<Entry> entries(12);
  for (std::size_t t = 0; t < 12; ++t) entries[t] = {t, static_cast<Token>(t), 1, false};
  held.table.append(entries);
  infinipot::Selection selection(6, 6);
  for (std::size_t lane = 0; lane < 6; ++lane)  // even lanes hold 0 .. 5, odd ones 5 .. 10: 5 is common
    for (Index i = 0; i < 6; ++i) selection.lane(lane)[i] = lane % 2 == 0 ? i : i + 5;
  held.table.keep(selection);
  held.keep = 3;
  const auto lanes = select(held, by_alpha(0, 1, Granularity::shared)).lanes;
  for (std::size_t lane = 0; lane < 6; ++lane)
    EXPECT_EQ(lanes[lane], lane % 2 == 0 ? (std::vector<Index>{3, 4, 5}) : (std::vector<Index>{0, 4, 5}))
        << lane;
}

TEST(Selector, ACoarseRuleHasTheBudgetOfTheLaneWithTheLeast) {
  // Even lanes hold 0 .. 8, odd ones 3 .. 11; 8 is pinned and the last entry protected, which are the same in
  // even lanes. Of 5 places, 4 are free in even lanes, 3 in odd ones.
  Held held(Granularity::head, 12);
  std::vector<Entry> entries(12);
  for (std::size_t t = 0; t < 12; ++t)
    entries[t] = {t, static_cast<Token>(t), 12 - static_cast<float>(t), t == 8};
  held.table.append(entries);
  infinipot::Selection selection(6, 9);
  for (std::size_t lane = 0; lane < 6; ++lane)
    for (Index i = 0; i < 9; ++i) selection.lane(lane)[i] = lane % 2 == 0 ? i : i + 3;
  held.table.keep(selection);
  for (std::size_t lane = 0; lane < 6; ++lane)  // the attention grows with the position
    for (std::size_t i = 0; i < 9; ++i)
      held.attention[lane * 12 + i] = static_cast<float>(lane % 2 == 0 ? i : i + 3);
  held.protection = {0, 1};
  held.keep = 5;
  const auto policy = by_alpha(0.5, 1, Granularity::shared);
  const auto lanes = select(held, policy).lanes;
  // floor(0.5 * 3) = 1 by NuC: token 3. The other two by attention: 7, 6. Even lanes fill up with 5.
  for (std::size_t lane = 0; lane < 6; ++lane)
    EXPECT_EQ(lanes[lane],
              lane % 2 == 0 ? (std::vector<Index>{3, 5, 6, 7, 8}) : (std::vector<Index>{0, 3, 4, 5, 8}))
        << lane;
  ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy));
}

TEST(Selector, ACoarseRuleAfterAFineOneTakesTheBestForAll) {
  // Each head first takes one entry of its own by attention; then all take two by NuC. What one head took for
  // itself must not use up the others' budget.
  Held held(Granularity::head, 12);
  std::vector<Entry> entries(12);
  for (std::size_t t = 0; t < 12; ++t) entries[t] = {t, static_cast<Token>(t), t >= 10 ? 5.0F : 0.0F, false};
  held.table.append(entries);
  for (std::size_t head = 0; head < 6; ++head) held.attention[head * 12 + head] = 1;
  held.keep = 3;
  const TestPolicy policy{{{.share = 0.34, .scope = Granularity::head}, {.scope = Granularity::shared}},
                          {By::attention, By::nuc},
                          ReduceHeads::sum};
  const auto lanes = select(held, policy).lanes;
  for (Index head = 0; head < 6; ++head) EXPECT_EQ(lanes[head], (std::vector<Index>{head, 10, 11})) << head;
}

TEST(Selector, RulesMayComeInAnyOrder) {
  reference::Random random(13);
  for (int round = 0; round < 60; ++round) {
    const Held held = diverged(Granularity::head, random, 0);
    TestPolicy policy;
    for (std::size_t rule = 0; rule < 4; ++rule) {
      policy.all.push_back({.share = 0.25 * static_cast<double>(random.below(3)),
                            .scope = granularities[random.below(3)],
                            .smoothing = {Pooling::max, 1 + 2 * random.below(2)}});
      policy.by.push_back(random.below(2) == 0 ? By::nuc : By::attention);
    }
    ASSERT_NO_FATAL_FAILURE(expect_reference(held, policy)) << round;
  }
}

// --- The view ----------------------------------------------------------------------------------------------

/// Checks what it is shown and keeps the first entries.
struct Inspector {
  const Held& held;
  Rule rule = {};

  std::string_view name() const { return "inspector"; }
  std::span<const Rule> rules() const { return {&rule, 1}; }

  void score(std::size_t, const ScoreView& view, std::span<float> scores) const noexcept {
    ASSERT_EQ(scores.size(), view.size());
    const auto& table = held.table;
    const std::size_t per_lane = shape.heads() / table.lanes();
    for (std::size_t t = 0; t < view.size(); ++t) {
      scores[t] = 0;
      bool is_protected = false;
      for (std::size_t head = 0; head < view.heads(); ++head) {
        const std::size_t pair = view.first_head() + head, lane = pair / per_lane, i = view.index(head, t);
        ASSERT_LT(i, table.size());
        EXPECT_EQ(table.positions(lane)[i], view.position(t));
        EXPECT_EQ(table.tokens(lane)[i], view.token(t));
        EXPECT_EQ(table.nuc(lane)[i], view.nuc(t));
        EXPECT_EQ(held.attention[pair * table.capacity() + i], view.attention(head, t));
        if (head == 0) {
          EXPECT_EQ(table.survived(lane)[i], view.survived(t));
        }
        is_protected = is_protected || i < held.protection.sinks ||
                       i + held.protection.recent >= table.size() || table.pinned(lane)[i] != 0;
      }
      EXPECT_EQ(view.is_protected(t), is_protected);
      if (t > 0) {
        EXPECT_LT(view.position(t - 1), view.position(t));
      }
    }
    ++calls;
    heads += view.heads();
  }

  mutable std::size_t calls = 0;
  mutable std::size_t heads = 0;
};

TEST(ScoreView, ShowsEveryHeadsEntriesOfTheSameToken) {
  reference::Random random(14);
  for (const Granularity granularity : granularities)
    for (const Granularity scope : granularities)
      for (int round = 0; round < 10; ++round) {
        const Held held = diverged(granularity, random, 0);
        const Inspector inspector{held, {.scope = scope}};
        Selector selector(shape, granularity, held.capacity(), held.keep, inspector.rules());
        selector.select(inspector, held.table, held.attention, held.protection);
        EXPECT_EQ(inspector.calls, shape.lanes(std::max(granularity, scope)));
        EXPECT_EQ(inspector.heads, shape.heads()) << "every head once";
      }
}

/// Exposes the view's reduction over all heads.
struct Reducer {
  ReduceHeads over_heads;
  std::vector<float>& out;
  Rule rule = {};
  std::string_view name() const { return "reducer"; }
  std::span<const Rule> rules() const { return {&rule, 1}; }
  void score(std::size_t, const ScoreView& view, std::span<float> scores) const noexcept {
    view.reduce_heads(over_heads, scores);
    out.assign(scores.begin(), scores.end());
  }
};

std::vector<float> reduced(const Held& held, ReduceHeads over_heads) {
  std::vector<float> out;
  const Reducer reducer{over_heads, out};
  Selector selector(shape, held.granularity, held.capacity(), held.keep, reducer.rules());
  selector.select(reducer, held.table, held.attention, held.protection);
  return out;
}

TEST(ScoreView, ReducesHeadsToSumsLargestScoresAndLargestShares) {
  Held held(Granularity::shared, 4);
  held.table.append(std::vector<Entry>(4));
  held.keep = 2;
  held.protection = {1, 0};
  std::copy_n(std::vector<float>{100, 1, 2, 1}.begin(), 4, held.attention.begin());
  std::copy_n(std::vector<float>{8, 8, 16, 40}.begin(), 4, held.attention.begin() + 4 * 5);
  EXPECT_EQ(reduced(held, ReduceHeads::sum), (std::vector<float>{108, 9, 18, 41}));
  EXPECT_EQ(reduced(held, ReduceHeads::max), (std::vector<float>{100, 8, 16, 40}));
  // Shares of the unprotected sum: 4 in the first head, 64 in the last; heads without attention have none.
  EXPECT_EQ(reduced(held, ReduceHeads::max_share), (std::vector<float>{25, 0.25F, 0.5F, 0.625F}));
}

TEST(ScoreView, NaNSpoilsTheShareOfItsOwnEntryOnly) {
  Held held(Granularity::shared, 4);
  held.table.append(std::vector<Entry>(4));
  held.keep = 2;
  held.protection = {0, 0};
  std::copy_n(std::vector<float>{nan, 1, 2, 1}.begin(), 4, held.attention.begin());
  const auto scores = reduced(held, ReduceHeads::max_share);
  EXPECT_TRUE(is_nan(scores[0]));
  EXPECT_EQ((std::vector<float>{scores.begin() + 1, scores.end()}), (std::vector<float>{0.25F, 0.5F, 0.25F}));
}

// --- The object --------------------------------------------------------------------------------------------

TEST(Selector, CanBeUsedAgain) {
  reference::Random random(15);
  const auto policy = by_alpha(0.5, 3, Granularity::shared);
  Selector selector(shape, Granularity::head, 48, 20, policy.all);
  for (int round = 0; round < 30; ++round) {
    Held held = diverged(Granularity::head, random, 0);
    held.keep = 20;
    selector.select(policy, held.table, held.attention, held.protection);
    ASSERT_EQ(lanes_of(selector.kept()), expected(held, policy).lanes);
  }
}

TEST(Selector, SelectAllocatesNothing) {
  reference::Random random(16);
  const auto policy = by_alpha(0.5, 3, Granularity::shared);
  const Held held = diverged(Granularity::head, random, 0);
  Selector selector(shape, Granularity::head, 48, held.keep, policy.all);
  const allocation_counter::Scope use;
  selector.select(policy, held.table, held.attention, held.protection);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
}

TEST(Selector, RejectsRulesOutOfRange) {
  const auto make = [](std::vector<Rule> rules) { Selector(shape, Granularity::head, 10, 5, rules); };
  EXPECT_NO_THROW(make({{.share = 0}, {.share = 1}}));
  EXPECT_THROW(make({}), std::invalid_argument);
  for (const double share : {-0.01, 1.01, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(make({{.share = share}}), std::invalid_argument) << share;
    EXPECT_THROW(make({{.share = 0.5}, {.share = share}}), std::invalid_argument) << share;
  }
  EXPECT_THROW(make({{.smoothing = {Pooling::max, 2}}}), std::invalid_argument);
  EXPECT_THROW(make({{.smoothing = {Pooling::mean, 0}}}), std::invalid_argument);
  EXPECT_THROW(make({{.then = {Pooling::max, 4}}}), std::invalid_argument);
  try {
    make({{.share = 1.5}});
    ADD_FAILURE();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("1.5"), std::string::npos) << error.what();
  }
}

}  // namespace
