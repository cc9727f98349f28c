// Every policy against its formula, with scripted attention and predictions, and what each policy asks of an
// engine.
//
// Token i of a text is the number i, so tokens name their positions; catalysts consist of 60 .. 63.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <functional>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "expect_invalid.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/infinipot.hpp"

namespace {

using infinipot::Granularity;
using infinipot::Retention;
using infinipot::Shape;
using infinipot::Token;
using infinipot::detail::is_nan;
using Pot = infinipot::Pot<float>;
using Tokens = std::vector<Token>;

/// What a query head of the token `query` pays to the token `entry`.
struct Attention {
  std::size_t layer, head;
  Token query, entry;
};

struct Script {
  std::function<float(const Attention&)> pays = [](const Attention&) { return 0.0F; };
  std::function<float(Token)> novelty = [](Token) { return 6.0F; };  // -log p, at least 5
};

/// One call of forward().
struct Call {
  Tokens tokens;
  std::size_t first_row = 0;  // of the logits wanted
  bool watched = false;
};

constexpr std::size_t vocabulary = 65;  // the last one makes the probabilities sum to 1

/// An engine without a way to show attention.
class PlainEngine {
 public:
  PlainEngine(Script script, Pot& pot) : script_(std::move(script)), pot_(pot), logits_(vocabulary) {
    double rest = 1;
    for (std::size_t i = 0; i + 1 < vocabulary; ++i) {
      logits_[i] = -script_.novelty(static_cast<Token>(i));
      rest -= std::exp(static_cast<double>(logits_[i]));
    }
    logits_.back() = static_cast<float>(std::log(rest));
  }

  Shape shape() const { return pot_.shape(); }
  std::size_t vocab_size() const { return vocabulary; }

  void forward(std::span<const Token> tokens, std::size_t /*first*/, infinipot::LogitsSink& logits) {
    calls.push_back({{tokens.begin(), tokens.end()}, logits.first_row(), false});
    for (std::size_t i = logits.first_row(); i < tokens.size(); ++i) logits.row(i, logits_);
  }

  std::vector<Call> calls;

 protected:
  Script script_;
  Pot& pot_;
  std::vector<float> logits_;
};

/// One that shows attention as the script says.
class ScriptedEngine : public PlainEngine {
 public:
  using PlainEngine::forward;
  using PlainEngine::PlainEngine;

  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::AttentionSink& sink) {
    forward(tokens, first, logits);
    calls.back().watched = true;
    const Shape shape = pot_.shape();
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.query_heads; ++head) {
        const auto held =
            pot_.entries().tokens(shape.lane_of(layer, head / shape.group(), pot_.granularity()));
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          std::vector<float> row;
          for (const Token entry : held) row.push_back(script_.pays({layer, head, tokens[i], entry}));
          for (std::size_t j = 0; j <= i; ++j)
            row.push_back(script_.pays({layer, head, tokens[i], tokens[j]}));
          sink.row(layer, head, i, row);
        }
      }
  }
};

/// One that shows queries, all alike.
class QueryingEngine : public PlainEngine {
 public:
  using PlainEngine::forward;
  using PlainEngine::PlainEngine;

  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& sink) {
    forward(tokens, first, logits);
    const Shape shape = pot_.shape();
    const std::vector<float> queries(tokens.size() * shape.query_heads * shape.head_dim, 1.0F);
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      sink.layer(layer, infinipot::contiguous_queries(queries.data(), tokens.size(), shape));
  }
};

constexpr Shape one_head{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2};

Pot make_pot(std::size_t capacity, const Shape& shape = one_head,
             Granularity granularity = Granularity::head) {
  return Pot({.shape = shape,
              .capacity = capacity,
              .max_keep = capacity - 1,
              .granularity = granularity,
              .rope = {}});
}

/// The tokens from .. to - 1.
Tokens numbers(Token from, Token to) {
  Tokens tokens(static_cast<std::size_t>(to - from));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

Tokens kept(const Pot& pot, std::size_t lane = 0) {
  const auto tokens = pot.entries().tokens(lane);
  return {tokens.begin(), tokens.end()};
}

/// The tokens that a policy keeps of 0 .. limit - 1, in every lane, without the token that caused the
/// distillation.
template <class P>
std::vector<Tokens> survivors(const Script& script, Pot pot, const P& policy,
                              infinipot::CcdSettings settings) {
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, policy, settings);
  reader.feed(numbers(0, static_cast<Token>(reader.limit() + 1)));
  EXPECT_EQ(reader.stats().distillations, 1U);
  std::vector<Tokens> lanes;
  for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane) {
    lanes.push_back(kept(pot, lane));
    EXPECT_EQ(lanes.back().back(), static_cast<Token>(reader.limit()));
    lanes.back().pop_back();
    EXPECT_EQ(lanes.back().size(), settings.keep);
  }
  return lanes;
}

using Lanes = std::vector<Tokens>;

/// True for the tokens of a catalyst.
bool asks(Token token) { return token >= 60; }

// ---------------------------------------------------------------- infinipot

TEST(InfinipotPolicy, CapSumsOverQueriesAndTheHeadsOfTheGroup) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.entry == 2) return asks(a.query) ? 0.2F : 0.0F;                 // a little from everyone
    if (a.entry == 5) return a.query == 61 && a.head == 1 ? 0.5F : 0.0F;  // much from one
    if (a.entry == 6) return asks(a.query) && a.head == 0 ? 0.3F : 0.0F;  // 0.6 from one head
    return asks(a.query) ? 0.0F : 0.9F;                                   // the text's own do not count
  };
  const Shape group{.layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 2};
  const auto keep = [&](infinipot::Reduce reduce, std::size_t count) {
    const infinipot::Infinipot policy({.catalysts = {{60, 61}}, .alpha = 0, .over_queries = reduce});
    return survivors(script, make_pot(10, group), policy, {.keep = count, .sinks = 0})[0];
  };
  using infinipot::Reduce;
  EXPECT_EQ(keep(Reduce::sum, 1), (Tokens{2}));     // .8
  EXPECT_EQ(keep(Reduce::sum, 2), (Tokens{2, 6}));  // .6
  EXPECT_EQ(keep(Reduce::sum, 3), (Tokens{2, 5, 6}));
  EXPECT_EQ(keep(Reduce::max, 1), (Tokens{5}));     // .5
  EXPECT_EQ(keep(Reduce::max, 2), (Tokens{5, 6}));  // .3
  EXPECT_EQ(keep(Reduce::max, 4), (Tokens{0, 2, 5, 6})) << "the lower index of equal scores";
}

TEST(InfinipotPolicy, ShareOfTheBudgetThatGoesToNuc) {
  Script script;
  script.novelty = [](Token token) {
    return token >= 4 && token < 10 ? 20.0F - static_cast<float>(token) : 6.0F;
  };
  script.pays = [](const Attention& a) {
    if (a.entry == 4) return 0.5F;  // the newest as well: it is taken once
    return a.entry >= 10 && a.entry < 18 ? 0.01F * static_cast<float>(a.entry) : 0.0F;
  };
  const auto keep = [&](double alpha) {
    const infinipot::Infinipot policy({.catalysts = {{60, 61}}, .alpha = alpha});
    return survivors(script, make_pot(22), policy, {.keep = 8, .sinks = 2, .recent = 1})[0];
  };
  // 20 entries; 0, 1 and 19 are protected, 5 are free.
  EXPECT_EQ(keep(0), (Tokens{0, 1, 4, 14, 15, 16, 17, 19}));
  EXPECT_EQ(keep(0.19), (Tokens{0, 1, 4, 14, 15, 16, 17, 19}));
  EXPECT_EQ(keep(0.25), (Tokens{0, 1, 4, 14, 15, 16, 17, 19})) << "floor(1.25) = 1 by NuC, which is 4";
  EXPECT_EQ(keep(0.5), (Tokens{0, 1, 4, 5, 15, 16, 17, 19})) << "floor(2.5) = 2 by NuC";
  EXPECT_EQ(keep(0.8), (Tokens{0, 1, 4, 5, 6, 7, 17, 19}));
  // Without a catalyst the pot is full at 22; 0, 1 and 21 are protected.
  EXPECT_EQ(keep(1), (Tokens{0, 1, 4, 5, 6, 7, 8, 21}));
}

TEST(InfinipotPolicy, LargestShareRaisesAQuietHead) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.entry == 0) return a.head == 1 ? 0.9F : 0.0F;  // a sink: does not count in the total
    if (a.head == 0) return a.entry == 3 || a.entry == 4 || a.entry == 5 ? 0.3F : 0.0F;
    return a.entry == 7 ? 0.08F : a.entry == 3 ? 0.02F : 0.0F;
  };
  const Shape heads{.layers = 1, .query_heads = 2, .kv_heads = 2, .head_dim = 2};
  const auto keep = [&](infinipot::ReduceHeads over_heads, std::size_t count, Granularity granularity) {
    const infinipot::Infinipot policy({.catalysts = {{60}}, .alpha = 0, .over_heads = over_heads});
    return survivors(script, make_pot(10, heads, granularity), policy, {.keep = count, .sinks = 1})[0];
  };
  using infinipot::ReduceHeads;
  EXPECT_EQ(keep(ReduceHeads::sum, 2, Granularity::layer), (Tokens{0, 3}));        // .32
  EXPECT_EQ(keep(ReduceHeads::max_share, 2, Granularity::layer), (Tokens{0, 7}));  // .08 / .1 > .3 / .9
  EXPECT_EQ(keep(ReduceHeads::max_share, 4, Granularity::shared), (Tokens{0, 3, 4, 7}));
  EXPECT_EQ(keep(ReduceHeads::max_share, 2, Granularity::head), (Tokens{0, 3}));
}

TEST(InfinipotPolicy, KernelLiftsNeighboursButNotThoseOfASink) {
  Script script;
  script.pays = [](const Attention& a) { return a.entry == 0 ? 0.9F : a.entry == 6 ? 0.5F : 0.01F; };
  script.novelty = [](Token token) { return token == 12 ? 9.0F : 6.0F; };
  const auto keep = [&](double alpha, std::size_t kernel) {
    const infinipot::Infinipot policy({.catalysts = {{60}}, .alpha = alpha, .kernel = kernel});
    return survivors(script, make_pot(16), policy, {.keep = 4, .sinks = 1})[0];
  };
  EXPECT_EQ(keep(0, 1), (Tokens{0, 1, 2, 6}));
  EXPECT_EQ(keep(0, 3), (Tokens{0, 5, 6, 7}));
  EXPECT_EQ(keep(1, 3), (Tokens{0, 11, 12, 13}));
  EXPECT_EQ(keep(0.67, 3), (Tokens{0, 5, 11, 12}));
}

TEST(InfinipotPolicy, SeveralCatalystsAreCombined) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.entry == 2) return a.query == 60 ? 0.5F : 0.0F;
    if (a.entry == 3) return asks(a.query) ? 0.3F : 0.0F;
    return a.entry == 4 && a.query == 62 ? 0.4F : 0.0F;
  };
  const auto keep = [&](infinipot::Reduce reduce) {
    const infinipot::Infinipot policy({.catalysts = {{60}, {61, 62}}, .alpha = 0, .over_queries = reduce});
    return survivors(script, make_pot(10), policy, {.keep = 2, .sinks = 0})[0];
  };
  EXPECT_EQ(keep(infinipot::Reduce::sum), (Tokens{2, 3}));  // .9 and .5
  EXPECT_EQ(keep(infinipot::Reduce::max), (Tokens{2, 4}));  // .5 and .4
}

TEST(InfinipotPolicy, AttentionOfAnEarlierDistillationIsForgotten) {
  Script script;
  int catalyst_runs = 0;
  script.pays = [&](const Attention& a) { return a.entry == (catalyst_runs == 1 ? 2 : 7) ? 0.5F : 0.1F; };
  auto pot = make_pot(8);
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, infinipot::Infinipot({.catalysts = {{60}}, .alpha = 0}),
                        {.keep = 1, .sinks = 0});
  catalyst_runs = 1;
  reader.feed(numbers(0, 8));  // 7 fit
  EXPECT_EQ(kept(pot), (Tokens{2, 7}));
  catalyst_runs = 2;
  reader.feed(numbers(8, 14));
  EXPECT_EQ(kept(pot), (Tokens{7, 13}));
}

TEST(InfinipotPolicy, SettingsMayChangeBetweenDistillations) {
  const std::map<Token, float> novel{{3, 9.0F},  {4, 8.0F},  {13, 10.0F}, {20, 11.0F},
                                     {23, 7.0F}, {26, 9.0F}, {28, 8.5F},  {30, 8.0F}};
  using Pair = std::pair<Token, Token>;  // query, entry
  const std::map<Pair, float> paid{{{60, 6}, 0.5F},  {{60, 7}, 0.4F},  {{61, 15}, 0.5F}, {{61, 16}, 0.4F},
                                   {{61, 12}, 0.3F}, {{61, 23}, 0.6F}, {{61, 33}, 0.3F}, {{62, 33}, 0.3F},
                                   {{61, 35}, 0.5F}, {{62, 36}, 0.4F}, {{61, 37}, 0.35F}};
  Script script;
  script.novelty = [&](Token token) { return novel.contains(token) ? novel.at(token) : 6.0F; };
  script.pays = [&](const Attention& a) {
    const auto found = paid.find({a.query, a.entry});
    return found == paid.end() ? 0.0F : found->second;
  };
  auto pot = make_pot(13);
  ScriptedEngine engine(script, pot);
  using infinipot::Infinipot;
  infinipot::Ccd reader(engine, pot, Infinipot({.catalysts = {{60}}, .longest_catalyst = 2}),
                        {.keep = 4, .sinks = 0});
  Token next = 0;
  const auto distil = [&] {
    const auto more = static_cast<Token>(reader.limit() - pot.size());
    reader.feed(numbers(next, next + more + 1));
    next += more + 1;
    auto left = kept(pot);
    left.pop_back();  // the token that caused it
    return left;
  };

  EXPECT_EQ(distil(), (Tokens{3, 4, 6, 7})) << "two by NuC, two by CaP";
  EXPECT_EQ(next, 12);
  reader.set_policy(Infinipot({.catalysts = {{61}}, .alpha = 0.25}));
  EXPECT_EQ(distil(), (Tokens{12, 13, 15, 16})) << "of 3 4 6 7, 11 .. 17: 13 by NuC";
  reader.set_policy(Infinipot({.catalysts = {{61}}, .alpha = 0.25, .kernel = 3}));
  EXPECT_EQ(distil(), (Tokens{19, 22, 23, 24})) << "the neighbours of 20 and 23";
  reader.set_policy(Infinipot({.catalysts = {}, .alpha = 1}));
  EXPECT_EQ(distil(), (Tokens{23, 26, 28, 30})) << "by NuC alone, without neighbours";
  reader.set_policy(Infinipot({.catalysts = {{61, 62}}, .alpha = 0, .over_queries = infinipot::Reduce::max}));
  EXPECT_EQ(distil(), (Tokens{23, 35, 36, 37})) << "both queries pay to 33, but little each";
}

TEST(InfinipotPolicy, PaperSettingsAreThePapers) {
  const auto settings = infinipot::paper_settings({60, 61});
  EXPECT_EQ(settings.catalysts, (std::vector<Tokens>{{60, 61}}));
  EXPECT_EQ(settings.alpha, 0.5);
  EXPECT_EQ(settings.over_queries, infinipot::Reduce::sum);
  EXPECT_EQ(settings.over_heads, infinipot::ReduceHeads::sum);
  EXPECT_EQ(settings.kernel, 1U);
}

TEST(InfinipotPolicy, RecommendedSettingsKeepWhateverAnyTokenOfTheCatalystNeeds) {
  const auto settings = infinipot::recommended_settings({60, 61});
  EXPECT_EQ(settings.catalysts, (std::vector<Tokens>{{60, 61}}));
  EXPECT_EQ(settings.alpha, 0);
  EXPECT_EQ(settings.over_queries, infinipot::Reduce::max);
  EXPECT_EQ(settings.over_heads, infinipot::ReduceHeads::max);
  EXPECT_EQ(settings.kernel, 49U);
  EXPECT_EQ(settings.lag, 16U);
}

TEST(InfinipotPolicy, RecommendedStretchesAreShortWhereFewWouldFit) {
  for (const std::size_t keep : {1U, 256U, 489U}) {
    EXPECT_EQ(infinipot::recommended_settings({60}, keep).kernel, 17U) << keep;
    EXPECT_EQ(infinipot::recommended_settings({60}, keep).lag, 0U) << keep;
  }
  EXPECT_EQ(infinipot::recommended_settings({60}, 490).kernel, 49U);
  EXPECT_EQ(infinipot::recommended_settings({60}, 490).lag, 16U);
}

// ---------------------------------------------------------------- the others

TEST(InfinipotPolicy, CatalystsStopEarlyOnlyWhereAllChooseTogether) {
  using infinipot::Granularity;
  const auto layers = [](std::size_t wanted, Granularity scope, Granularity store) {
    return infinipot::probed_layers(
        infinipot::Infinipot({.catalysts = {{60}}, .scope = scope, .layers = wanted}), store);
  };
  EXPECT_EQ(layers(3, Granularity::head, Granularity::shared), 3U);
  EXPECT_EQ(layers(3, Granularity::shared, Granularity::head), 3U);
  EXPECT_EQ(layers(3, Granularity::head, Granularity::layer), infinipot::all_layers);
  EXPECT_EQ(layers(3, Granularity::layer, Granularity::head), infinipot::all_layers);
  EXPECT_EQ(layers(0, Granularity::head, Granularity::shared), infinipot::all_layers);
}

TEST(InfinipotPolicy, RefusesTermsThatDoNotFit) {
  using infinipot::Infinipot;
  const auto make = [](double alpha, Tokens terms, double share) {
    return [=] { Infinipot({.catalysts = {{60}}, .alpha = alpha, .terms = terms, .term_share = share}); };
  };
  for (const double share : {-0.1, 1.1, 0.6, infinipot::detail::quiet_nan<double>()})
    trial::expect_invalid(make(0.5, {1}, share), {"term_share", "out of range 0 .. 1 - alpha, which is 0.5"});
  trial::expect_invalid(make(0.5, {}, 0.5), {"no terms: term_share 0.5", "the question's tokens"});
  trial::expect_invalid(make(1, {1}, 0.1), {"which is 0"});
  for (int tenths = 0; tenths <= 10; ++tenths)
    EXPECT_NO_THROW(make(tenths / 10.0, {1}, (10 - tenths) / 10.0)());
  EXPECT_NO_THROW(make(0.5, {}, 0)());
}

TEST(StreamingLlmPolicy, KeepsSinksAndTheLast) {
  auto pot = make_pot(10);
  PlainEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 5, .sinks = 2});
  reader.feed(numbers(0, 11));
  EXPECT_EQ(kept(pot), (Tokens{0, 1, 7, 8, 9, 10}));
  reader.feed(numbers(11, 16));
  EXPECT_EQ(kept(pot), (Tokens{0, 1, 12, 13, 14, 15}));
}

TEST(TruncationPolicy, KeepsTheFirstHalfAndTheLast) {
  auto pot = make_pot(10);
  PlainEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::Truncation(), {.keep = 6, .sinks = 1});
  reader.feed(numbers(0, 30));
  // The last distillation was at 26 tokens.
  EXPECT_EQ(kept(pot), (Tokens{0, 1, 2, 23, 24, 25, 26, 27, 28, 29}));
}

TEST(H2oPolicy, AttentionOfEveryQueryCountsForEver) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.entry == 3) return a.query < 9 ? 0.5F : 0.0F;                     // important at first only
    if (a.entry == 12) return a.query >= 12 && a.query < 15 ? 0.9F : 0.0F;  // important later
    return a.entry == 5 && a.query == 9 ? 0.6F : 0.0F;                      // .6 once: less than .5 six times
  };
  auto pot = make_pot(10);
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, infinipot::H2o(), {.keep = 6, .sinks = 1, .chunk = 4});
  EXPECT_EQ(reader.settings().recent, 3U) << "half of what stays";
  reader.feed(numbers(0, 11));
  EXPECT_EQ(kept(pot), (Tokens{0, 3, 5, 7, 8, 9, 10}));
  reader.feed(numbers(11, 15));  // 12 is recent
  EXPECT_EQ(kept(pot), (Tokens{0, 3, 5, 11, 12, 13, 14}));
  reader.feed(numbers(15, 19));  // 3 received 3, 12 received 2.7, 5 received .6
  EXPECT_EQ(kept(pot), (Tokens{0, 3, 12, 15, 16, 17, 18}));
}

TEST(H2oPolicy, HalfIsRoundedDown) {
  EXPECT_EQ(infinipot::H2o().recent(6), 3U);
  EXPECT_EQ(infinipot::H2o().recent(7), 3U);
}

TEST(H2oPolicy, EveryTokenIsWatched) {
  auto pot = make_pot(10);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::H2o(), {.keep = 6, .sinks = 1, .chunk = 4});
  reader.feed(numbers(0, 20));
  for (const Call& call : engine.calls) EXPECT_TRUE(call.watched);
}

TEST(TovaPolicy, LastTokenDecidesForAllHeadsOfALayer) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.query != 9) return a.entry == 7 ? 0.9F : 0.0F;  // only the last of 0 .. 9 counts
    if (a.layer == 1) return a.entry == 6 ? 0.1F : 0.0F;
    // Layer 0: 2 has the largest sum over the four query heads, 3 the largest single value.
    if (a.entry == 2) return 0.2F;
    if (a.entry == 3) return a.head == 3 ? 0.7F : 0.0F;
    return a.entry == 4 && a.head < 2 ? 0.3F : 0.0F;
  };
  const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 2};
  const infinipot::CcdSettings settings{.keep = 4, .sinks = 0};
  const infinipot::Tova tova;
  EXPECT_EQ(survivors(script, make_pot(10, shape), tova, settings),
            (Lanes{{2, 3, 4, 9}, {2, 3, 4, 9}, {0, 1, 6, 9}, {0, 1, 6, 9}}));
  EXPECT_EQ(survivors(script, make_pot(10, shape), tova, {.keep = 2, .sinks = 0}),
            (Lanes{{2, 9}, {2, 9}, {6, 9}, {6, 9}}));
  EXPECT_EQ(survivors(script, make_pot(10, shape), tova, {.keep = 3, .sinks = 0}),
            (Lanes{{2, 3, 9}, {2, 3, 9}, {0, 6, 9}, {0, 6, 9}}));
  EXPECT_EQ(survivors(script, make_pot(10, shape, Granularity::layer), tova, settings),
            (Lanes{{2, 3, 4, 9}, {0, 1, 6, 9}}));
  EXPECT_EQ(survivors(script, make_pot(10, shape, Granularity::shared), tova, settings),
            (Lanes{{2, 3, 4, 9}}));
}

TEST(TovaPolicy, OnlyTheLastTokenBeforeADistillationIsWatched) {
  auto pot = make_pot(10);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::Tova(), {.keep = 4, .sinks = 1});
  reader.feed(numbers(0, 18));
  Tokens watched;
  for (const Call& call : engine.calls)
    if (call.watched) watched.insert(watched.end(), call.tokens.begin(), call.tokens.end());
  EXPECT_EQ(watched, (Tokens{9, 15}));
}

TEST(SnapKvPolicy, WindowDecidesIsPooledAndStays) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.query < 16) return a.entry == 12 ? 0.9F : 0.0F;  // before the window of 4
    if (a.entry == 0) return 0.9F;                         // a sink: does not lift its neighbour
    if (a.entry == 3) return 0.4F;                         // alone
    if (a.entry >= 7 && a.entry <= 9) return 0.3F;         // a passage
    return a.entry >= 16 ? 0.9F : 0.0F;                    // the window itself
  };
  const auto keep = [&](std::size_t kernel, std::size_t count) {
    return survivors(script, make_pot(20), infinipot::SnapKv(4, kernel), {.keep = count, .sinks = 1})[0];
  };
  EXPECT_EQ(keep(1, 6), (Tokens{0, 3, 16, 17, 18, 19}));
  EXPECT_EQ(keep(1, 9), (Tokens{0, 3, 7, 8, 9, 16, 17, 18, 19}));
  EXPECT_EQ(keep(3, 6), (Tokens{0, 8, 16, 17, 18, 19}));  // .3; 7 and 9 have .2, 3 has .13
  EXPECT_EQ(keep(3, 8), (Tokens{0, 7, 8, 9, 16, 17, 18, 19}));
  EXPECT_EQ(keep(3, 10), (Tokens{0, 2, 3, 7, 8, 9, 16, 17, 18, 19})) << "2, 3, 4 tie at .13, before 6 and 10";
  EXPECT_EQ(keep(5, 6), (Tokens{0, 7, 16, 17, 18, 19})) << "7, 8 and 9 tie at .18";
}

TEST(SnapKvPolicy, WhatAnEarlierWindowPaidIsSpent) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.entry == 2) return a.query < 10 ? 0.9F : 0.0F;
    if (a.entry == 5) return a.query < 10 ? 0.8F : 0.2F;
    return a.entry == 11 && a.query >= 10 ? 0.1F : 0.0F;
  };
  auto pot = make_pot(10);
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, infinipot::SnapKv(2, 1), {.keep = 4, .sinks = 0});
  reader.feed(numbers(0, 11));
  EXPECT_EQ(kept(pot), (Tokens{2, 5, 8, 9, 10}));
  reader.feed(numbers(11, 17));
  EXPECT_EQ(kept(pot), (Tokens{5, 11, 14, 15, 16}));
}

TEST(SnapKvPolicy, OnlyTheWindowIsWatched) {
  auto pot = make_pot(20);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::SnapKv(4), {.keep = 10, .sinks = 1, .chunk = 7});
  reader.feed(numbers(0, 32));
  Tokens watched;
  for (const Call& call : engine.calls)
    if (call.watched) watched.insert(watched.end(), call.tokens.begin(), call.tokens.end());
  EXPECT_EQ(watched, (Tokens{16, 17, 18, 19, 26, 27, 28, 29}));
}

TEST(SirLlmPolicy, EntropyFadesWithEveryDistillation) {
  Script script;
  script.novelty = [](Token token) {
    if (token == 2) return 9.0F;
    if (token == 3) return 7.5F;
    return token == 10 ? 7.0F : 5.5F + 0.01F * static_cast<float>(token);
  };
  const auto keep = [&](double decay) {
    auto pot = make_pot(8);
    PlainEngine engine(script, pot);
    infinipot::Ccd reader(engine, pot, infinipot::SirLlm(decay), {.keep = 2, .sinks = 0});
    reader.feed(numbers(0, 9));
    EXPECT_EQ(kept(pot), (Tokens{2, 3, 8}));
    reader.feed(numbers(9, 15));
    return kept(pot);
  };
  EXPECT_EQ(keep(1), (Tokens{2, 3, 14}));     // 9, 7.5, 7
  EXPECT_EQ(keep(0.9), (Tokens{2, 10, 14}));  // 8.1, 6.75, 7
  EXPECT_EQ(keep(0.5), (Tokens{10, 13, 14}));
}

TEST(SirLlmPolicy, FadesOncePerDistillationSurvived) {
  Script script;
  script.novelty = [](Token token) {
    return token == 1 ? 10.0F : token == 6 ? 9.5F : token < 20 ? 5.0F : 7.0F;
  };
  auto pot = make_pot(4);
  PlainEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, infinipot::SirLlm(0.8), {.keep = 1, .sinks = 0});
  std::vector<Tokens> row;
  reader.on_distillation([&](const infinipot::Distillation&) { row.push_back(kept(pot)); });
  reader.feed(numbers(0, 11));
  // 10; after one distillation 8 against 9.5 of token 6; then 7.6 against 5.
  EXPECT_EQ(row, (Lanes{{1}, {6}, {6}}));
  reader.feed(20);
  reader.feed(21);
  reader.feed(22);
  EXPECT_EQ(row.back(), (Tokens{20})) << "7 against 9.5 * .8 * .8 = 6.08";
}

TEST(SirLlmPolicy, ForgetsATenthByDefault) {
  const auto keep = [](float novelty) {
    Script script;
    script.novelty = [=](Token token) { return token == 1 ? 8.0F : token == 4 ? novelty : 5.0F; };
    auto pot = make_pot(4);
    PlainEngine engine(script, pot);
    infinipot::Ccd reader(engine, pot, infinipot::SirLlm(), {.keep = 1, .sinks = 0});
    reader.feed(numbers(0, 8));
    return kept(pot);
  };
  EXPECT_EQ(keep(7.15F), (Tokens{1, 7})) << "8 * .9 = 7.2";
  EXPECT_EQ(keep(7.25F), (Tokens{4, 7}));
}

// ---------------------------------------------------------------- several rules

/// Half of the budget goes to tokens that both heads take, the other half is each head's own.
class HalfTogether {
 public:
  std::string_view name() const { return "half_together"; }
  std::span<const infinipot::Rule> rules() const { return rules_; }
  infinipot::Reduce reduce() const { return infinipot::Reduce::sum; }
  std::size_t longest_probe() const { return 1; }
  std::span<const Token> probe(std::size_t i, const infinipot::ProbeContext&) const {
    return std::span<const Token>(question_).first(i == 0 ? 1 : 0);
  }

 private:
  std::array<Token, 1> question_{60};
  std::array<infinipot::Rule, 2> rules_{infinipot::Rule{.share = 0.5, .scope = Granularity::layer},
                                        infinipot::Rule{}};
};

/// Scores of a pot's only head by an entry policy.
template <class P>
std::vector<float> entry_scores(const P& policy, const Pot& pot) {
  auto memory = infinipot::detail::entry_memory(pot, policy, 1);
  std::vector<float> scores(pot.size());
  policy.score_entries(infinipot::EntryRows(pot, 0, 0, memory[0]), scores);
  return scores;
}

/// A pot of these keys, which are their values too.
Pot pot_of(const std::vector<std::array<float, 2>>& rows) {
  Pot pot = make_pot(rows.size() + 1);
  for (std::size_t t = 0; t < rows.size(); ++t) pot.write(0, 0, t, rows[t].data(), rows[t].data());
  std::vector<infinipot::Entry> entries(rows.size());
  for (std::size_t t = 0; t < rows.size(); ++t) entries[t].position = t;
  pot.append(entries);
  return pot;
}

/// Within a few units: -ffast-math takes roots and quotients by approximations.
void expect_close(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t t = 0; t < actual.size(); ++t)
    EXPECT_NEAR(actual[t], expected[t], 1e-6F * std::fabs(expected[t])) << t;
}

TEST(EntryPolicies, ScoreByTheirFormulas) {
  const Pot pot = pot_of({{3, 4}, {0, 2}, {0, 0}, {5, 0}});
  expect_close(entry_scores(infinipot::KNorm(), pot), {-5, -2, 0, -5});
  expect_close(entry_scores(infinipot::ValueNorm(), pot), {5, 2, 0, 5});
  // Directions (.6, .8), (0, 1), none, (1, 0), whose mean is along (1.6, 1.8).
  const auto cosines = entry_scores(infinipot::KeyDiff(), pot);
  const float length = std::hypot(1.6F, 1.8F);
  EXPECT_NEAR(cosines[0], -(0.6F * 1.6F + 0.8F * 1.8F) / length, 1e-6F);
  EXPECT_NEAR(cosines[1], -1.8F / length, 1e-6F);
  EXPECT_EQ(cosines[2], 0);
  EXPECT_NEAR(cosines[3], -1.6F / length, 1e-6F);
}

TEST(EntryPolicies, RedundancyIsTheMeanCosineWithRecentKeysAtTheSamePlace) {
  using infinipot::TemporalRedundancy;
  const Pot pot = pot_of({{3, 4}, {0, 2}, {0, 0}, {1, 1}, {5, 0}, {0, 1}, {0, 7}, {0, -3}});
  // Frames of two entries: recent are (5, 0), (0, 1) and (0, 7), (0, -3).
  const std::vector<float> two = entry_scores(TemporalRedundancy(2, 2), pot);
  EXPECT_NEAR(two[0], 1 - (0.6F + 0.8F) / 2, 1e-6F);
  EXPECT_NEAR(two[1], 1 - (1.0F - 1.0F) / 2, 1e-6F);
  EXPECT_EQ(two[2], 1) << "a key of length 0";
  EXPECT_NEAR(two[3], 1, 1e-6F);
  EXPECT_EQ(TemporalRedundancy(2, 2).recent(100), 4U);
  // Of a text: the last key is (0, -3).
  const std::vector<float> text = entry_scores(TemporalRedundancy(1, 1), pot);
  EXPECT_NEAR(text[0], 1.8F, 1e-6F);
  EXPECT_NEAR(text[1], 2, 1e-6F);
  EXPECT_NEAR(text[3], 1 + std::sqrt(0.5F), 1e-6F);
  EXPECT_EQ(text[4], 1);
  // A frame of five: the last five entries, at places 3, 4, 0, 1 and 2.
  const std::vector<float> five = entry_scores(TemporalRedundancy(5, 1), pot);
  EXPECT_NEAR(five[0], 0.2F, 1e-6F) << "with (0, 1)";
  EXPECT_NEAR(five[1], 0, 1e-6F) << "with (0, 7)";
  EXPECT_EQ(entry_scores(TemporalRedundancy(9, 3), pot)[0], 0) << "a pot that is smaller: with itself";
  EXPECT_EQ(entry_scores(TemporalRedundancy(3, 1), pot)[2], 1) << "length 0";
}

TEST(EntryPolicies, RecentKeysThatAreNotFiniteAreNotComparedWith) {
  const float nan = std::nanf(""), infinity = HUGE_VALF;
  const infinipot::TemporalRedundancy policy(1, 3);
  const auto scores = entry_scores(policy, pot_of({{3, 4}, {nan, 1}, {1, nan}, {1, 0}, {infinity, 1}}));
  EXPECT_NEAR(scores[0], 0.4F, 1e-6F) << "with (1, 0) alone";
  EXPECT_TRUE(is_nan(scores[1]) && is_nan(scores[2]) && is_nan(scores[4]));
  EXPECT_NEAR(scores[3], 0, 1e-6F);
  const auto none = entry_scores(policy, pot_of({{3, 4}, {nan, 1}, {1, nan}, {infinity, 1}}));
  EXPECT_NEAR(none[0], 1, 1e-6F) << "there is nothing that it repeats";
}

/// An ExpectedAttention of one head that has seen these queries, one after the other.
infinipot::ExpectedAttention expecting(infinipot::ExpectedAttentionSettings settings,
                                       const std::vector<std::array<float, 2>>& queries) {
  infinipot::ExpectedAttention policy(std::move(settings));
  policy.begin(one_head, 20, 1);
  for (std::size_t i = 0; i < queries.size(); ++i) {
    policy.observe(0, i, infinipot::contiguous_queries(queries[i].data(), 1, one_head));
    policy.commit(0, 0);
  }
  return policy;
}

TEST(EntryPolicies, ExpectedAttentionIsTheMeanOverGaussianQueries) {
  // Without the first, their mean is (1, 2), their covariance ((2, 1), (1, 2)) / 3 * 2 with RoPE off.
  const std::vector<std::array<float, 2>> queries{{9, 9}, {0, 1}, {1, 2}, {2, 3}};
  const std::vector<std::array<float, 2>> rows{{7, 7}, {1, 0}, {0, 1}, {-1, 0.5F}};
  const double variance = 2.0 / 3;
  std::vector<double> expected;
  double sum = 0;
  for (const auto& row : rows) {
    const auto x = static_cast<double>(row[0]), y = static_cast<double>(row[1]);
    expected.push_back(std::exp((x + 2 * y) / std::sqrt(2.0) + variance * (x + y) * (x + y) / 4));
    if (expected.size() > 1) sum += expected.back();
  }
  for (const double epsilon : {0.0, 0.02}) {
    const auto policy = expecting({.rope = {}, .sinks = 1, .epsilon = epsilon}, queries);
    const auto scores = entry_scores(policy, pot_of(rows));
    for (std::size_t t = 1; t < rows.size(); ++t) {
      const double norm = std::hypot(static_cast<double>(rows[t][0]), static_cast<double>(rows[t][1]));
      EXPECT_NEAR(static_cast<double>(scores[t]), (expected[t] / sum + epsilon) * norm, 1e-6) << t;
    }
    EXPECT_EQ(scores[0], *std::max_element(scores.begin() + 1, scores.end())) << "the sink";
  }
}

TEST(EntryPolicies, ExpectedAttentionSharesWithALearnedSink) {
  const std::vector<std::array<float, 2>> queries{{1, 2}}, rows{{3, 4}, {0, 1}, {1, 0}};
  const double root = std::sqrt(2.0), logits[] = {11 / root, 2 / root, 1 / root}, lengths[] = {5, 1, 1};
  for (const float sink : {-3.0F, 2.0F, 9.0F, 200.0F}) {
    const auto policy = expecting({.rope = {}, .sinks = 0, .learned_sinks = {sink}}, queries);
    const auto scores = entry_scores(policy, pot_of(rows));
    double sum = std::exp(static_cast<double>(sink));
    for (const double logit : logits) sum += std::exp(logit);
    for (std::size_t t = 0; t < 3; ++t)
      EXPECT_NEAR(static_cast<double>(scores[t]), std::exp(logits[t]) / sum * lengths[t], 5e-6) << sink;
  }
  const auto none = expecting({.rope = {}, .sinks = 0, .learned_sinks = {-HUGE_VALF}}, queries);
  EXPECT_EQ(entry_scores(none, pot_of(rows)),
            entry_scores(expecting({.rope = {}, .sinks = 0}, queries), pot_of(rows)));
}

TEST(EntryPolicies, ExpectedAttentionRefusesLearnedSinksThatDoNotFit) {
  const auto begin = [](std::vector<float> sinks) {
    return [sinks] {
      infinipot::ExpectedAttention({.rope = {}, .learned_sinks = sinks}).begin({2, 4, 2, 8}, 20, 5);
    };
  };
  trial::expect_invalid(begin(std::vector<float>(4)), {"has 4 learned sinks", "2 layers", "has 8, or none"});
  std::vector<float> sinks(8);
  EXPECT_NO_THROW(begin(sinks)());
  sinks[5] = -HUGE_VALF;
  EXPECT_NO_THROW(begin(sinks)());
  for (const float bad : {HUGE_VALF, std::nanf("")}) {
    sinks[5] = bad;
    trial::expect_invalid(begin(sinks), {"learned sink 5 is", "-infinity for none"});
  }
}

// A pair that turns by pi per position: over two positions the rotation averages out, and so do the queries.
TEST(EntryPolicies, ExpectedAttentionAveragesTheRotation) {
  const infinipot::Rope rope{infinipot::Pairing::half_split, {3.14159265358979323846}, 1};
  const std::vector<std::array<float, 2>> queries{{1, 2}}, rows{{3, 4}, {0, 1}, {1, 0}};
  const auto average =
      entry_scores(expecting({.rope = rope, .future = 2, .sinks = 0}, queries), pot_of(rows));
  EXPECT_NEAR(average[0], 5.0F / 3, 1e-6F);
  EXPECT_NEAR(average[1], 1.0F / 3, 1e-6F);
  // The next position is 3, an odd one: the query is (-1, -2).
  const auto next = entry_scores(expecting({.rope = rope, .future = 1, .sinks = 0}, queries), pot_of(rows));
  const double root = std::sqrt(2.0), a = std::exp(-11 / root), b = std::exp(-2 / root),
               c = std::exp(-1 / root);
  EXPECT_NEAR(static_cast<double>(next[0]), 5 * a / (a + b + c), 1e-6);
  EXPECT_NEAR(static_cast<double>(next[1]), b / (a + b + c), 1e-6);
}

TEST(EntryPolicies, ExpectedAttentionWithoutQueriesIsAlikeForAll) {
  const auto scores = entry_scores(expecting({.rope = {}, .sinks = 1}, {}), pot_of({{9, 9}, {3, 4}, {0, 1}}));
  expect_close(scores, {2.5F, 2.5F, 0.5F});
  EXPECT_EQ(entry_scores(expecting({.rope = {}, .sinks = 5}, {}), pot_of({{9, 9}, {3, 4}})),
            (std::vector<float>{0, 0}))
      << "nothing but sinks";
}

TEST(EntryPolicies, BadKeysSpoilTheirOwnExpectedAttentionOnly) {
  const float nan = std::nanf(""), infinity = HUGE_VALF;
  const auto policy = expecting({.rope = {}, .sinks = 0}, {{1, 2}, {0, 1}, {nan, 1}});
  const auto expected = entry_scores(policy, pot_of({{3, 4}, {0, 2}, {5, 0}}));
  const auto scores = entry_scores(policy, pot_of({{3, 4}, {nan, 1}, {0, 2}, {-infinity, 1}, {5, 0}}));
  EXPECT_EQ((std::array{scores[0], scores[2], scores[4]}),
            (std::array{expected[0], expected[1], expected[2]}));
  EXPECT_TRUE(is_nan(scores[1]) && is_nan(scores[3]));
  const auto none = entry_scores(policy, pot_of({{nan, 1}, {infinity, 1}}));
  EXPECT_TRUE(is_nan(none[0]) && is_nan(none[1]));
}

TEST(EntryPolicies, ThatReadValuesAreRefusedWhereThereAreNone) {
  infinipot::PotSettings settings{.shape = {1, 2, 1, 8}, .capacity = 16, .rope = infinipot::plain_rope(4)};
  settings.shape.value_dim = 0;
  Pot pot(settings);
  struct Model {
    infinipot::Shape shape() const {
      return {.layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 8, .value_dim = 0};
    }
    std::size_t vocab_size() const { return 4; }
    void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
    void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
                 infinipot::QuerySink&) {}
  } engine;
  trial::expect_invalid([&] { infinipot::Ccd(engine, pot, infinipot::ValueNorm()); },
                        {"value_norm", "values", "value_dim 0"});
  trial::expect_invalid(
      [&] { infinipot::Ccd(engine, pot, infinipot::ExpectedAttention({.rope = infinipot::plain_rope(4)})); },
      {"expected_attention", "value_dim 0"});
  EXPECT_NO_THROW(infinipot::Ccd(engine, pot, infinipot::KNorm()));
}

TEST(EntryPolicies, BadKeysSpoilTheirOwnScoreOnly) {
  const float nan = std::nanf(""), infinity = HUGE_VALF;
  const Pot sound = pot_of({{3, 4}, {0, 2}, {5, 0}});
  const Pot spoilt = pot_of({{3, 4}, {nan, 1}, {0, 2}, {infinity, 1}, {5, 0}});
  const auto expected = entry_scores(infinipot::KeyDiff(), sound);
  const auto scores = entry_scores(infinipot::KeyDiff(), spoilt);
  EXPECT_EQ((std::array{scores[0], scores[2], scores[4]}),
            (std::array{expected[0], expected[1], expected[2]}));
  EXPECT_TRUE(is_nan(scores[1]) && is_nan(scores[3]));
  EXPECT_TRUE(is_nan(entry_scores(infinipot::KNorm(), spoilt)[1]));
  // Infinite, or NaN where -ffast-math takes a root by its reciprocal.
  EXPECT_FALSE(infinipot::detail::is_finite(entry_scores(infinipot::ValueNorm(), spoilt)[3]));
}

// After the first distillation an entry has another index in each head.
TEST(RulesOfAPolicy, HeadsThatChooseTogetherMeanTheSameToken) {
  Script script;
  script.pays = [](const Attention& a) {
    switch (a.entry) {
      case 0:
        return a.head == 0 ? 0.4F : 0.0F;
      case 1:
      case 2:
      case 3:
        return a.head == 1 ? 0.3F + 0.01F * static_cast<float>(a.entry) : 0.0F;
      case 6:
        return 0.28F;
      case 7:
        return 0.25F;
      case 9:
        return 0.35F;
      default:
        return 0.01F;
    }
  };
  auto pot = make_pot(9, {.layers = 1, .query_heads = 2, .kv_heads = 2, .head_dim = 2});
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, HalfTogether(), {.keep = 4, .sinks = 0});
  reader.feed(numbers(0, 9));
  EXPECT_EQ(kept(pot, 0), (Tokens{0, 4, 6, 7, 8})) << "6 and 7 together, then its own 0 and a tie of 4 and 5";
  EXPECT_EQ(kept(pot, 1), (Tokens{2, 3, 6, 7, 8}));
  reader.feed(numbers(9, 13));
  EXPECT_EQ(kept(pot, 0), (Tokens{0, 6, 7, 9, 12})) << "9 (.7) and 6 (.56) together";
  EXPECT_EQ(kept(pot, 1), (Tokens{2, 3, 6, 9, 12}));
}

// ---------------------------------------------------------------- what a policy may leave out

namespace least {

/// The least possible: name() and something to go by.
struct Declared {
  static constexpr infinipot::Watch watch = infinipot::Watch::every_query;
  std::string_view name() const { return "declared"; }
};

struct Nothing {
  std::string_view name() const { return "nothing"; }
};
struct Scores : Nothing {
  void score(std::size_t, const infinipot::ScoreView& view, std::span<float> scores) const {
    for (std::size_t t = 0; t < view.size(); ++t) scores[t] = static_cast<float>(view.token(t) % 3);
  }
};
struct Window : Nothing {
  std::size_t window() const { return 3; }
};
struct Probes : Nothing {
  std::size_t longest_probe() const { return 1; }
  infinipot::Reduce reduce() const { return infinipot::Reduce::sum; }
  std::span<const Token> probe(std::size_t i, const infinipot::ProbeContext&) const {
    return std::span(question).first(i == 0 ? 1 : 0);
  }
  std::array<Token, 1> question{60};
};
struct Entries : Nothing {
  void score_entries(const infinipot::EntryRows& rows, std::span<float> scores) const {
    rows.for_each_key([&](std::size_t t, const float* key) { scores[t] = -std::abs(key[0] - 4); });
  }
};
struct QueriesAndEntries : Entries {
  void begin(const Shape&, std::size_t, std::size_t) {}
  void observe(std::size_t, std::size_t, const infinipot::Queries&) noexcept {}
  void commit(std::size_t, std::size_t) noexcept {}
  void forget() noexcept {}
};
struct DeclaredAgainstItsMembers : Window {
  static constexpr infinipot::Watch watch = infinipot::Watch::every_query;
};

using infinipot::Watch, infinipot::watch_of, infinipot::Policy;
static_assert(watch_of<Declared> == Watch::every_query);
static_assert(watch_of<Scores> == Watch::nothing);
static_assert(watch_of<Window> == Watch::last_queries);
static_assert(watch_of<Probes> == Watch::probes);
static_assert(watch_of<Entries> == Watch::entries);
static_assert(watch_of<QueriesAndEntries> == Watch::queries_and_entries);
static_assert(watch_of<DeclaredAgainstItsMembers> == Watch::every_query, "what is declared counts");
static_assert(Policy<Declared> && Policy<Scores> && Policy<Window> && Policy<Probes> && Policy<Entries> &&
              Policy<QueriesAndEntries>);
static_assert(!Policy<Nothing>, "there is nothing to go by");

}  // namespace least

TEST(LeastPolicy, OneRuleTheSumOverHeadsAndNoNucAreDefaults) {
  const infinipot::Rule rule = infinipot::rules_of(least::Declared())[0];
  EXPECT_EQ(infinipot::rules_of(least::Declared()).size(), 1U);
  EXPECT_EQ(rule.share, 1);
  EXPECT_EQ(rule.scope, Granularity::head);
  EXPECT_EQ(rule.smoothing.kernel, 1U);
  EXPECT_FALSE(infinipot::uses_nuc(least::Declared()));
  EXPECT_TRUE(infinipot::uses_nuc(infinipot::SirLlm()));
  EXPECT_EQ(infinipot::rules_of(infinipot::Tova())[0].scope, Granularity::layer);
}

TEST(LeastPolicy, WhatItWatchesIsSummedOverTheHeadsThatChooseTogether) {
  Script script;
  script.pays = [](const Attention& a) {
    if (a.entry == 2) return 0.2F;                        // .4 of both heads
    if (a.entry == 4) return a.head == 0 ? 0.35F : 0.0F;  // the most of a single one
    return a.entry == 6 ? 0.01F * static_cast<float>(a.query) : 0.0F;
  };
  const Shape heads{.layers = 1, .query_heads = 2, .kv_heads = 2, .head_dim = 2};
  const auto keep = [&](const auto& policy, std::size_t count, Granularity granularity) {
    return survivors(script, make_pot(10, heads, granularity), policy, {.keep = count, .sinks = 0});
  };
  // Of the queries of 0 .. 9 entry 2 received 8 * .4, 4 6 * .35 and 6 .01 * (6 + 7 + 8 + 9) * 2.
  EXPECT_EQ(keep(least::Declared(), 1, Granularity::layer), (Lanes{{2}}));
  EXPECT_EQ(keep(least::Declared(), 3, Granularity::layer), (Lanes{{2, 4, 6}}));
  EXPECT_EQ(keep(least::Declared(), 2, Granularity::head), (Lanes{{2, 4}, {2, 6}}));
  // Of those of 7 .. 9 alone 3 * .4, 3 * .35 and .48.
  EXPECT_EQ(keep(least::Window(), 1, Granularity::layer), (Lanes{{2}}));
  EXPECT_EQ(keep(least::Window(), 2, Granularity::head), (Lanes{{2, 4}, {2, 6}}));
  // Of 60 alone .4, .35 and 1.2.
  EXPECT_EQ(keep(least::Probes(), 1, Granularity::layer), (Lanes{{6}}));
  EXPECT_EQ(keep(least::Probes(), 2, Granularity::layer), (Lanes{{2, 6}}));
  EXPECT_EQ(keep(least::Probes(), 2, Granularity::head), (Lanes{{4, 6}, {2, 6}}));
  EXPECT_EQ(keep(least::Scores(), 3, Granularity::layer), (Lanes{{2, 5, 8}}));
}

TEST(LeastPolicy, OneThatScoresEntriesNeedsNoMore) {
  auto pot = make_pot(8);
  PlainEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, least::Entries(), {.keep = 3, .sinks = 0});
  for (std::size_t t = 0; t < 8; ++t) {
    const std::array key{static_cast<float>(t), 0.0F};
    pot.write(0, 0, t, key.data(), key.data());
  }
  reader.feed(numbers(0, 9));
  EXPECT_EQ(kept(pot), (Tokens{3, 4, 5, 8}));
}

TEST(Settings, StandForTheirPolicy) {
  Pot pot({.shape = one_head, .capacity = 20, .rope = {}});
  ScriptedEngine engine({}, pot);
  const auto feed = [&](auto reader) {
    EXPECT_EQ(pot.size(), 0U);
    reader.feed(numbers(0, 30));
    EXPECT_GE(reader.stats().distillations, 1U);
    pot.truncate(0);
    return std::string(reader.policy().name());
  };
  using infinipot::Ccd;
  Ccd recommended(engine, pot, infinipot::recommended_settings({60, 61}));
  static_assert(std::same_as<decltype(recommended), Ccd<ScriptedEngine, Pot, infinipot::Infinipot>>);
  EXPECT_EQ(recommended.limit(), 18U);
  EXPECT_EQ(feed(std::move(recommended)), "infinipot");
  Ccd paper(engine, pot, infinipot::paper_settings({60}), {.keep = 6, .sinks = 0});
  static_assert(std::same_as<decltype(paper), Ccd<ScriptedEngine, Pot, infinipot::Infinipot>>);
  EXPECT_EQ(paper.settings().keep, 6U);
  EXPECT_EQ(feed(std::move(paper)), "infinipot");
  Ccd reread(engine, pot, infinipot::RereadSettings{.block = 4}, {.keep = 10});
  static_assert(std::same_as<decltype(reread), Ccd<ScriptedEngine, Pot, infinipot::Reread>>);
  EXPECT_EQ(reread.limit(), 16U);
  EXPECT_EQ(feed(std::move(reread)), "reread");
  Ccd threaded(engine, pot, infinipot::RereadSettings{.block = 4}, {.keep = 10}, infinipot::Serial{});
  static_assert(std::same_as<decltype(threaded), decltype(reread)>);
  EXPECT_EQ(feed(std::move(threaded)), "reread");

  QueryingEngine querying({}, pot);
  Ccd expected(querying, pot, infinipot::ExpectedAttentionSettings{.rope = {}, .future = 8}, {.keep = 10});
  static_assert(std::same_as<decltype(expected), Ccd<QueryingEngine, Pot, infinipot::ExpectedAttention>>);
  EXPECT_EQ(feed(std::move(expected)), "expected_attention");
}

// ---------------------------------------------------------------- what policies ask for

/// The largest number of logits rows that were wanted in one call of several tokens.
template <class P>
std::size_t most_rows_wanted(const P& policy) {
  auto pot = make_pot(20);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, policy, {.keep = 10, .sinks = 1});
  reader.feed(numbers(0, 45));
  EXPECT_GE(reader.stats().distillations, 2U);
  std::size_t most = 0;
  for (const Call& call : engine.calls) {
    if (asks(call.tokens[0]))
      EXPECT_EQ(call.first_row, call.tokens.size()) << "a catalyst's logits are of no use";
    else
      EXPECT_LT(call.first_row, call.tokens.size()) << "the last row is always wanted";
    most = std::max(most, call.tokens.size() - call.first_row);
  }
  return most;
}

TEST(PolicyNeeds, OnlyPoliciesThatUseNucWantLogitsOfEveryToken) {
  using namespace infinipot;
  EXPECT_EQ(most_rows_wanted(StreamingLlm()), 1U);
  EXPECT_EQ(most_rows_wanted(H2o()), 1U);
  EXPECT_EQ(most_rows_wanted(Tova()), 1U);
  EXPECT_EQ(most_rows_wanted(SnapKv(4)), 1U);
  EXPECT_EQ(most_rows_wanted(Infinipot({.catalysts = {{60, 61}}, .alpha = 0})), 1U);
  EXPECT_EQ(most_rows_wanted(Infinipot({.catalysts = {{60, 61}}, .alpha = 0.1})), 18U);
  EXPECT_EQ(most_rows_wanted(SirLlm()), 20U);
}

/// How often catalyst tokens went through the engine, and what else was watched.
struct Runs {
  std::size_t catalysts = 0, watched_text = 0;
};

template <class P>
Runs runs_of(const P& policy) {
  auto pot = make_pot(20);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, policy, {.keep = 10, .sinks = 1});
  reader.feed(numbers(0, 20));
  reader.feed(numbers(20, 21));
  Runs runs;
  for (const Call& call : engine.calls) {
    runs.catalysts += asks(call.tokens[0]) ? 1U : 0U;
    runs.watched_text += call.watched && !asks(call.tokens[0]) ? 1U : 0U;
    EXPECT_TRUE(call.watched || !asks(call.tokens[0]));
  }
  EXPECT_EQ(reader.stats().distillations, 1U);
  return runs;
}

TEST(PolicyNeeds, CatalystsRunAtADistillationOnlyAndNotForAlphaOne) {
  using namespace infinipot;
  EXPECT_EQ(runs_of(Infinipot({.catalysts = {{60, 61}}})).catalysts, 1U);
  EXPECT_EQ(runs_of(Infinipot({.catalysts = {{60, 61}, {62}, {63}}, .alpha = 0})).catalysts, 3U);
  EXPECT_EQ(runs_of(Infinipot({.catalysts = {{60, 61}}})).watched_text, 0U);
  EXPECT_EQ(runs_of(Infinipot({.catalysts = {{60, 61}}, .alpha = 1})).catalysts, 0U);
  EXPECT_EQ(runs_of(SirLlm()).watched_text, 0U);
}

TEST(PolicyNeeds, CatalystsRunBehindTheTextAndAreDropped) {
  auto pot = make_pot(10);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::Infinipot({.catalysts = {{60}, {61, 62, 63}}, .alpha = 0}),
                        {.keep = 5, .sinks = 0});
  EXPECT_EQ(reader.limit(), 7U) << "room for the longest";
  reader.feed(numbers(0, 8));
  EXPECT_EQ(engine.calls.at(1).tokens, (Tokens{60}));
  EXPECT_EQ(engine.calls.at(2).tokens, (Tokens{61, 62, 63}));
  EXPECT_EQ(kept(pot), (Tokens{0, 1, 2, 3, 4, 7}));
}

TEST(PolicyNeeds, RoomForCatalystsIsTheLongestOrMore) {
  using infinipot::Infinipot;
  for (const std::size_t room : {0U, 1U, 2U, 3U, 4U, 9U, 15U}) {
    auto pot = make_pot(20);
    ScriptedEngine engine({}, pot);
    const auto limit = [&](const std::vector<Tokens>& catalysts, double alpha) {
      const Infinipot policy({.catalysts = catalysts, .alpha = alpha, .longest_catalyst = room});
      return infinipot::Ccd(engine, pot, policy, {.keep = 4, .sinks = 0}).limit();
    };
    EXPECT_EQ(limit({{60}, {61, 62, 63}}, 0.5), 20 - std::max<std::size_t>(room, 3));
    EXPECT_EQ(limit({{60}}, 0), 20 - std::max<std::size_t>(room, 1));
    EXPECT_EQ(limit({{60}}, 1), 20 - room) << "no catalyst runs";
    EXPECT_EQ(limit({}, 1), 20 - room);
  }
}

TEST(PolicyNeeds, RoomForCatalystsServesALongerOne) {
  using infinipot::Infinipot;
  auto pot = make_pot(10);
  ScriptedEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, Infinipot({.catalysts = {{60}}, .alpha = 0, .longest_catalyst = 4}),
                        {.keep = 5, .sinks = 0});
  reader.feed(numbers(0, 6));
  reader.set_policy(Infinipot({.catalysts = {{60, 61, 62, 63}}, .alpha = 0}));
  EXPECT_EQ(reader.limit(), 6U);
  reader.feed(numbers(6, 7));
  EXPECT_EQ(engine.calls.at(1).tokens, (Tokens{60, 61, 62, 63}));
  reader.set_policy(Infinipot({.catalysts = {{60}}, .alpha = 0}));
  EXPECT_EQ(reader.limit(), 6U) << "room that was kept remains, for the next long one";
  EXPECT_NO_THROW(reader.set_policy(Infinipot({.catalysts = {{63, 62, 61, 60}}, .alpha = 0})));
}

TEST(PolicyNeeds, PinnedTokensStayWhateverTheScore) {
  auto pot = make_pot(10);
  PlainEngine engine({}, pot);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 5, .sinks = 1});
  reader.feed(numbers(0, 3));
  reader.feed(numbers(3, 5), Retention::pinned);
  reader.feed(numbers(5, 40));
  EXPECT_EQ(kept(pot), (Tokens{0, 3, 4, 33, 34, 35, 36, 37, 38, 39}));
}

TEST(PolicyNeeds, Names) {
  using namespace infinipot;
  EXPECT_EQ(Infinipot({.catalysts = {{60}}}).name(), "infinipot");
  EXPECT_EQ(SnapKv().name(), "snapkv");
  EXPECT_EQ(SnapKv().window(), 64U);
  EXPECT_EQ(SnapKv().rules()[0].smoothing.kernel, 5U);
  EXPECT_EQ(Tova().name(), "tova");
  EXPECT_EQ(H2o().name(), "h2o");
  EXPECT_EQ(StreamingLlm().name(), "streaming_llm");
  EXPECT_EQ(SirLlm().name(), "sirllm");
  EXPECT_EQ(ExpectedAttention({}).name(), "expected_attention");
  EXPECT_EQ(TemporalRedundancy().name(), "temporal_redundancy");
  EXPECT_EQ(TemporalRedundancy().recent(1000), 64U);
}

}  // namespace
