// The seams: what counts as an engine, a store, a policy; that the loop accepts the smallest ones, and takes
// the richest way to see attention that an engine and a store offer together.
#include "infinipot/concepts.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::AttentionSink;
using infinipot::Ccd;
using infinipot::Granularity;
using infinipot::LogitsSink;
using infinipot::QuerySink;
using infinipot::Shape;
using infinipot::Token;
using Pot = infinipot::Pot<float>;

/// The least that an engine must have. It has no cache and predicts nothing.
struct LeastEngine {
  Shape shape() const { return {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8}; }
  int vocab_size() const { return 50; }  // any integer will do
  void forward(std::span<const Token> tokens, std::size_t /*first*/, LogitsSink& logits) {
    const std::array<float, 50> none{};
    for (std::size_t i = logits.first_row(); i < tokens.size(); ++i) logits.row(i, none);
  }
};

/// The least that a store must have.
struct LeastStore {
  infinipot::EntryTable table{1, 10};

  Shape shape() const { return LeastEngine().shape(); }
  std::size_t capacity() const { return 10; }
  Granularity granularity() const { return Granularity::shared; }
  const infinipot::EntryTable& entries() const { return table; }
  void append(std::span<const infinipot::Entry> added) { table.append(added); }
  void truncate(std::size_t size) { table.truncate(size); }
  void keep(const infinipot::Selection& kept) { table.keep(kept); }
};

struct WithoutVocabulary {
  Shape shape() const { return {}; }
  void forward(std::span<const Token>, std::size_t, LogitsSink&) {}
};

static_assert(infinipot::ForwardPass<LeastEngine>);
static_assert(!infinipot::YieldsQueries<LeastEngine> && !infinipot::YieldsAttention<LeastEngine>);
static_assert(!infinipot::ForwardPass<WithoutVocabulary>);
static_assert(infinipot::YieldsQueries<toy::QueryEngine<Pot>> &&
              !infinipot::YieldsAttention<toy::QueryEngine<Pot>>);
static_assert(infinipot::YieldsAttention<toy::AttentionEngine<Pot>> &&
              !infinipot::YieldsQueries<toy::AttentionEngine<Pot>>);

static_assert(infinipot::Store<LeastStore> && !infinipot::ReadableKeys<LeastStore>);
static_assert(infinipot::ReadableKeys<Pot> && infinipot::ReadableKeys<infinipot::Pot<infinipot::f16>> &&
              infinipot::ReadableKeys<infinipot::Pot<infinipot::bf16>>);
static_assert(!infinipot::Store<int>);

static_assert(infinipot::RunsProbes<infinipot::Infinipot> && !infinipot::WatchesWindow<infinipot::Infinipot>);
static_assert(infinipot::WatchesWindow<infinipot::SnapKv> && infinipot::ProtectsRecent<infinipot::SnapKv>);
static_assert(infinipot::WatchesWindow<infinipot::Tova> && infinipot::ProtectsRecent<infinipot::Tova>);
static_assert(infinipot::ProtectsRecent<infinipot::H2o> && !infinipot::RunsProbes<infinipot::H2o>);
static_assert(infinipot::Policy<infinipot::StreamingLlm> &&
              !infinipot::ProtectsRecent<infinipot::StreamingLlm>);
static_assert(infinipot::ObservesQueries<infinipot::ExpectedAttention> &&
              infinipot::ScoresEntries<infinipot::ExpectedAttention> &&
              infinipot::SizesScratch<infinipot::ExpectedAttention>);
static_assert(infinipot::ProtectsRecent<infinipot::TemporalRedundancy> &&
              infinipot::SizesScratch<infinipot::TemporalRedundancy> &&
              !infinipot::ObservesQueries<infinipot::TemporalRedundancy>);
static_assert(infinipot::ScoresEntries<infinipot::KeyDiff> && !infinipot::SizesScratch<infinipot::KeyDiff>);
static_assert(infinipot::Policy<infinipot::SirLlm> && !infinipot::WatchesWindow<infinipot::SirLlm>);

std::vector<std::uint64_t> positions(const infinipot::EntryTable& entries, std::size_t lane = 0) {
  const auto row = entries.positions(lane);
  return {row.begin(), row.end()};
}

TEST(Seams, LeastEngineAndLeastStoreWillDo) {
  LeastEngine engine;
  LeastStore store;
  Ccd reader(engine, store, infinipot::StreamingLlm(), {.keep = 5, .sinks = 2});
  reader.feed(toy::text(16, 1));
  EXPECT_EQ(positions(store.table), (std::vector<std::uint64_t>{0, 1, 12, 13, 14, 15}));
}

TEST(Seams, NucNeedsNoMoreThanTheLeastEngine) {
  LeastEngine engine;
  LeastStore store;
  Ccd sirllm(engine, store, infinipot::SirLlm(), {.keep = 5, .sinks = 2});
  sirllm.feed(toy::text(16, 1));
  EXPECT_NEAR(store.table.nuc(0)[4], std::log(50.0F), 1e-5F) << "all tokens are alike to this engine";
  EXPECT_EQ(store.table.nuc(0)[0], 0.0F);
}

/// Shows queries and probabilities, and counts which were asked for.
struct BothEngine {
  BothEngine(const toy::Model& model, Pot& pot) : engine(model, pot), by_queries(model, pot) {}

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    engine.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& queries) {
    ++queries_asked;
    by_queries.forward(tokens, first, logits, queries);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
               AttentionSink& attention) {
    ++attention_asked;
    engine.forward(tokens, first, logits, attention);
  }

  toy::AttentionEngine<Pot> engine;
  toy::QueryEngine<Pot> by_queries;
  int queries_asked = 0, attention_asked = 0;
};

/// Shows whichever it is told to.
class ChoosingEngine {
 public:
  ChoosingEngine(const toy::Model& model, Pot& pot) : by_queries_(model, pot), by_attention_(model, pot) {}

  Shape shape() const { return by_queries_.shape(); }
  std::size_t vocab_size() const { return by_queries_.vocab_size(); }
  bool shows_queries() const { return queries; }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    by_queries_.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& sink) {
    asked += 'q';
    by_queries_.forward(tokens, first, logits, sink);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, AttentionSink& sink) {
    asked += 'a';
    by_attention_.forward(tokens, first, logits, sink);
  }

  bool queries = true;
  std::string asked;  // q and a, in the order of the calls

 private:
  toy::QueryEngine<Pot> by_queries_;
  toy::AttentionEngine<Pot> by_attention_;
};

static_assert(infinipot::ChoosesWhatToShow<ChoosingEngine>);
static_assert(infinipot::YieldsQueries<BothEngine> && infinipot::YieldsAttention<BothEngine> &&
              !infinipot::ChoosesWhatToShow<BothEngine>);
static_assert(!infinipot::ChoosesWhatToShow<toy::QueryEngine<Pot>>);

TEST(Seams, EngineThatShowsEitherMayChangeItsMindAtEveryCall) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 20, 10);
  ChoosingEngine engine(model, pot);
  Ccd reader(engine, pot, infinipot::H2o(), {.keep = 10, .chunk = 5});
  reader.feed(toy::text(10, 1));
  engine.queries = false;
  reader.feed(1);
  engine.queries = true;
  reader.feed(1);
  EXPECT_EQ(engine.asked, "qqaq");
}

TEST(Seams, EngineThatShowsEitherIsAskedAgainForEveryCatalyst) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 20, 10);
  ChoosingEngine engine(model, pot);
  Ccd reader(engine, pot, infinipot::Infinipot({.catalysts = {{1, 2}, {3}}}), {.keep = 10});
  reader.feed(toy::text(18, 1));
  EXPECT_EQ(engine.asked, "") << "the text itself is not watched";
  engine.queries = false;
  reader.feed(toy::text(8, 2));
  EXPECT_EQ(engine.asked, "aa");
  engine.queries = true;
  reader.feed(1);
  EXPECT_EQ(engine.asked, "aaqq");
}

TEST(Seams, EngineThatShowsNoQueriesNowIsNotReadByAPolicyThatObservesThem) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 20, 10);
  ChoosingEngine engine(model, pot);
  Ccd reader(engine, pot, infinipot::ExpectedAttention({.rope = model.rope}), {.keep = 10, .chunk = 5});
  reader.feed(toy::text(10, 1));
  engine.queries = false;
  EXPECT_THROW(reader.feed(1), std::invalid_argument);
  EXPECT_EQ(engine.asked, "qq");
  EXPECT_EQ(pot.size(), 10U);
  engine.queries = true;
  reader.feed(1);
  EXPECT_EQ(engine.asked, "qqq");
}

/// A policy that records its scores.
template <class P>
struct Witness : P {
  Witness(P policy, std::vector<float>& noted) : P(std::move(policy)), seen(&noted) {}

  void score(std::size_t rule, const infinipot::ScoreView& view, std::span<float> scores) const {
    infinipot::score(static_cast<const P&>(*this), rule, view, scores);
    seen->insert(seen->end(), scores.begin(), scores.end());
  }

  std::vector<float>* seen;
};

/// What one distillation saw and left.
struct Seen {
  std::vector<float> scores;                          // (lanes, entries)
  std::vector<std::vector<std::uint64_t>> positions;  // by lane
};

enum class Way { queries, attention, by_turns };

template <class P>
Seen distil(const P& policy, Way way) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 42, 20);
  ChoosingEngine engine(model, pot);
  Seen seen;
  Ccd reader(engine, pot, Witness<P>(policy, seen.scores), {.keep = 20, .sinks = 0});
  const auto text = toy::text(reader.limit() + 1, 6);
  for (std::size_t i = 0; i < text.size(); ++i) {
    engine.queries = way == Way::queries || (way == Way::by_turns && i % 2 == 0);
    reader.feed(text[i]);
  }
  EXPECT_EQ(reader.stats().distillations, 1U);
  for (std::size_t lane = 0; lane < 4; ++lane) seen.positions.push_back(positions(pot.entries(), lane));
  return seen;
}

/// How far apart two sums of probabilities may be, relatively. Weights are below 0.4 and a normed input of 16
/// channels has length 4, so no channel of a query or key exceeds 0.4 * 4 * 4 = 6.4 and no logit L = 8 *
/// 6.4^2 / sqrt(8) < 116. A logit, of 8 products and a scale, is off by 10 L units (2^-24) at most, its
/// difference from the largest by 2 L more, exp by 3 + 1.5 * 2 L; the sum of up to 42 of them adds as much
/// and 42, the sum of up to 84 probabilities 84, quotients a few. Either sum may be off by all that.
constexpr double both_ways = 2 * (2 * ((10 + 2 + 3) * 116 + 3) + 42 + 84 + 4) * 0x1p-24;

template <class P>
void expect_same_either_way(const P& policy, std::size_t free) {
  const Seen by_queries = distil(policy, Way::queries);
  ASSERT_EQ(by_queries.scores.size() % 4, 0U);
  const std::size_t size = by_queries.scores.size() / 4;
  for (std::size_t lane = 0; lane < 4; ++lane) {
    // The candidates: all but the protected recent ones.
    std::vector<float> ranked(by_queries.scores.begin() + static_cast<std::ptrdiff_t>(lane * size),
                              by_queries.scores.begin() + static_cast<std::ptrdiff_t>((lane + 1) * size));
    ranked.resize(size - (20 - free));
    std::ranges::sort(ranked, std::greater());
    ASSERT_GT(static_cast<double>(ranked[free - 1]) * (1 - both_ways), static_cast<double>(ranked[free]))
        << "a case without a near tie, or else either choice would be right";
  }
  for (const Way way : {Way::attention, Way::by_turns}) {
    const Seen other = distil(policy, way);
    EXPECT_EQ(other.positions, by_queries.positions);
    ASSERT_EQ(other.scores.size(), by_queries.scores.size());
    for (std::size_t i = 0; i < other.scores.size(); ++i) {
      const auto expected = static_cast<double>(by_queries.scores[i]);
      ASSERT_GT(expected, 0);
      ASSERT_NEAR(static_cast<double>(other.scores[i]), expected, both_ways * expected) << i;
    }
  }
}

TEST(Seams, QueriesAndProbabilitiesGiveTheSameScores) {
  expect_same_either_way(infinipot::H2o(), 10);
  expect_same_either_way(infinipot::Infinipot({.catalysts = {{7, 21}}, .alpha = 0}), 20);
}

/// A pot whose keys the loop cannot see.
struct KeylessStore {
  Pot& pot;

  const Shape& shape() const { return pot.shape(); }
  std::size_t capacity() const { return pot.capacity(); }
  Granularity granularity() const { return pot.granularity(); }
  const infinipot::EntryTable& entries() const { return pot.entries(); }
  void append(std::span<const infinipot::Entry> added) {
    if (full) throw std::runtime_error("no cell is left");
    pot.append(added);
  }
  void truncate(std::size_t size) {
    pot.truncate(size);
    truncated.push_back(size);
  }
  void keep(const infinipot::Selection& kept) { pot.keep(kept); }

  std::vector<std::size_t> truncated = {};
  bool full = false;
};

// A store may have allocated cells for written rows (llama.cpp) and must be told that they are free again.
TEST(Seams, StoreIsToldToDropRowsThatWereOnlyWritten) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 20, 10);
  KeylessStore store{pot};
  toy::AttentionEngine<Pot> engine(model, pot);
  Ccd reader(engine, store, infinipot::Infinipot({.catalysts = {{1, 2}, {3}}}), {.keep = 10});
  reader.feed(toy::text(18, 1));
  EXPECT_EQ(store.truncated, (std::vector<std::size_t>{}));
  reader.feed(1);
  EXPECT_EQ(store.truncated, (std::vector<std::size_t>{18, 18})) << "once for each catalyst";
  engine.quirks.fault = toy::Fault{.call = engine.calls(), .layer = 1, .token = 0};
  EXPECT_THROW(reader.feed(1), std::runtime_error);
  EXPECT_EQ(store.truncated, (std::vector<std::size_t>{18, 18, 11}));
}

TEST(Seams, StoreThatCannotAppendIsToldToDropTheRows) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 20, 10);
  KeylessStore store{pot};
  toy::AttentionEngine<Pot> engine(model, pot);
  Ccd reader(engine, store, infinipot::SirLlm(), {.keep = 10});
  reader.feed(toy::text(5, 1));
  store.full = true;
  EXPECT_THROW(reader.feed(1), std::runtime_error);
  EXPECT_EQ(store.truncated, (std::vector<std::size_t>{5}));
  EXPECT_EQ(reader.stats().tokens_read, 5U);
}

TEST(Seams, QueriesArePreferredWhereKeysCanBeRead) {
  const toy::Model model;
  for (const bool readable : {true, false}) {
    auto pot = toy::make_pot(model, 20, 10);
    KeylessStore keyless{pot};
    BothEngine engine(model, pot);
    if (readable)
      Ccd(engine, pot, infinipot::Tova(), {.keep = 10}).feed(toy::text(20, 1));
    else
      Ccd(engine, keyless, infinipot::Tova(), {.keep = 10}).feed(toy::text(20, 1));
    EXPECT_EQ(engine.queries_asked, readable ? 1 : 0);
    EXPECT_EQ(engine.attention_asked, readable ? 0 : 1);
  }
}

/// An engine that does not state the form of its attention.
struct FormlessEngine {
  explicit FormlessEngine(toy::QueryEngine<Pot>& other) : engine(other) {}

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    engine.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& queries) {
    engine.forward(tokens, first, logits, queries);
  }

  toy::QueryEngine<Pot>& engine;
};

TEST(Seams, AttentionIsScaledByTheHeadDimensionUnlessTheEngineSaysOtherwise) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20), same = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot> engine(model, pot), other(model, same);
  FormlessEngine formless(other);
  Ccd reader(engine, pot, infinipot::H2o(), {.keep = 20});
  Ccd other_reader(formless, same, infinipot::H2o(), {.keep = 20});
  reader.feed(toy::text(100, 1));
  other_reader.feed(toy::text(100, 1));
  for (std::size_t lane = 0; lane < 4; ++lane)
    EXPECT_EQ(positions(pot.entries(), lane), positions(same.entries(), lane));
}

/// One whose attention_form() is not const.
struct CountingEngine : FormlessEngine {
  using FormlessEngine::FormlessEngine;

  infinipot::AttentionForm attention_form(std::size_t layer) {
    ++asked;
    return engine.attention_form(layer);
  }

  int asked = 0;
};

TEST(Seams, AttentionFormNeedNotBeConst) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot> engine(model, pot);
  CountingEngine counting(engine);
  Ccd(counting, pot, infinipot::H2o(), {.keep = 20}).feed(1);
  EXPECT_GT(counting.asked, 0);
}

/// One that states learned sinks for another number of query heads.
struct WrongSinksEngine : FormlessEngine {
  using FormlessEngine::FormlessEngine;

  infinipot::AttentionForm attention_form(std::size_t layer) const {
    return {.sinks = layer == 1 ? std::span<const float>(sinks) : std::span<const float>()};
  }

  std::vector<float> sinks = std::vector<float>(3);
};

TEST(Seams, LearnedSinksMustBeOnePerQueryHead) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot> engine(model, pot);
  WrongSinksEngine wrong(engine);
  Ccd reader(wrong, pot, infinipot::H2o(), {.keep = 20});
  trial::expect_invalid([&] { reader.feed(1); },
                        {"attention_form(1) has 3 learned sinks", "there are 4 query heads"});
  EXPECT_TRUE(pot.entries().empty());
  wrong.sinks.push_back(0);
  EXPECT_NO_THROW(reader.feed(1));
}

/// A user's policy: a third of the free budget for tokens that all heads of a layer take together, by the sum
/// of their attention, the rest by each head's own. It probes with the last tokens read.
class ReRead {
 public:
  static constexpr infinipot::Watch watch = infinipot::Watch::probes;

  std::string_view name() const { return "reread"; }
  bool uses_nuc() const { return false; }
  std::span<const infinipot::Rule> rules() const { return rules_; }
  infinipot::Reduce reduce() const { return infinipot::Reduce::max; }
  std::size_t longest_probe() const { return 3; }

  std::span<const Token> probe(std::size_t i, const infinipot::ProbeContext& context) const {
    if (i == 0) fresh.emplace_back(context.fresh.begin(), context.fresh.end());
    return context.fresh.subspan(std::min(3 * i, context.fresh.size()))
        .first(std::min<std::size_t>(3, context.fresh.size() - std::min(3 * i, context.fresh.size())));
  }

  void score(std::size_t rule, const infinipot::ScoreView& view, std::span<float> scores) const {
    EXPECT_EQ(view.heads(), rule == 0 ? 2U : 1U);
    view.reduce_heads(infinipot::ReduceHeads::sum, scores);
  }

  mutable std::vector<std::vector<Token>> fresh;

 private:
  std::array<infinipot::Rule, 2> rules_{infinipot::Rule{.share = 1.0 / 3, .scope = Granularity::layer},
                                        infinipot::Rule{}};
};

static_assert(infinipot::RunsProbes<ReRead>);

TEST(Seams, PolicyOfAUserSeesWhatWasReadSinceTheLastDistillation) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 23, 10);
  toy::QueryEngine<Pot> engine(model, pot);
  Ccd reader(engine, pot, ReRead(), {.keep = 10, .sinks = 1});
  EXPECT_EQ(reader.limit(), 20U);
  const auto text = toy::text(41, 1);
  std::vector<std::size_t> common;
  reader.on_distillation([&](const infinipot::Distillation& d) {
    std::vector<infinipot::Index> both;
    std::ranges::set_intersection(d.kept.lane(0), d.kept.lane(1), std::back_inserter(both));
    common.push_back(both.size());
  });
  reader.feed(text);
  const auto part = [&](std::ptrdiff_t from, std::ptrdiff_t to) {
    return std::vector<Token>(text.begin() + from, text.begin() + to);
  };
  EXPECT_EQ(reader.policy().fresh,
            (std::vector<std::vector<Token>>{{0}, part(0, 20), part(20, 30), part(30, 40)}))
      << "once to try it out, then at every distillation";
  ASSERT_EQ(common.size(), 3U);
  EXPECT_GE(common[0], 1U + 3U) << "a sink and floor(9 / 3) that both heads of the layer take";
  EXPECT_EQ(engine.calls(), 1U + 7 + 1 + 4 + 1 + 4 + 1) << "the probes: 20 tokens by threes, then 10, twice";
}

/// What a reader of 5 layers keeps, and how many layers its engine ran, with re-reading by the first two.
/// Other layers' attention must not reach the scores, shown or not.
template <class Engine>
std::pair<std::vector<std::uint64_t>, std::size_t> reread_by_two(Granularity granularity, bool all_layers) {
  const toy::Model model(infinipot::plain_rope(8, 100),
                         {.layers = 5, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  auto pot = toy::make_pot(model, 24, 10, granularity);
  Engine engine(model, pot);
  engine.quirks.all_layers = all_layers;
  Ccd reader(engine, pot, infinipot::Reread({.block = 4, .layers = 2}), {.keep = 10, .chunk = 5});
  reader.on_choice([&](const infinipot::Choice& choice) {
    const auto lower = choice.attention.first(2 * 2 * 24), upper = choice.attention.subspan(lower.size());
    EXPECT_GT(*std::ranges::max_element(lower), 0);
    EXPECT_EQ(*std::ranges::max_element(upper) > 0, granularity != Granularity::shared);
  });
  reader.feed(toy::text(81, 1));
  std::vector<std::uint64_t> kept;
  for (std::size_t lane = 0; lane < pot.shape().lanes(granularity); ++lane)
    std::ranges::copy(positions(pot.entries(), lane), std::back_inserter(kept));
  return {kept, engine.layers()};
}

TEST(Seams, LayersAboveThoseThatCountAreNotRun) {
  const auto compare = [](auto tag) {
    using Engine = typename decltype(tag)::type;
    // 81 tokens by fives: at 20, and every 10 after, 20 and then 10 are reread by fours.
    const std::size_t probes = 5 + 6 * 3, chunks = 4 + 6 * 2 + 1;
    const auto lower = reread_by_two<Engine>(Granularity::shared, false);
    const auto whole = reread_by_two<Engine>(Granularity::shared, true);
    EXPECT_EQ(lower.first, whole.first);
    EXPECT_EQ(lower.second, 5 * chunks + 2 * probes);
    EXPECT_EQ(whole.second, 5 * chunks + 5 * probes);
    EXPECT_EQ(reread_by_two<Engine>(Granularity::layer, false).second, whole.second)
        << "where layers choose for themselves, all must be asked";
  };
  compare(std::type_identity<toy::QueryEngine<Pot>>());
  compare(std::type_identity<toy::AttentionEngine<Pot>>());
}

/// Policies that do not work.
struct NoRules : infinipot::StreamingLlm {
  std::span<const infinipot::Rule> rules() const { return {}; }
};

struct ShareOf {
  static constexpr infinipot::Watch watch = infinipot::Watch::nothing;
  std::array<infinipot::Rule, 1> row;

  std::string_view name() const { return "share"; }
  bool uses_nuc() const { return false; }
  std::span<const infinipot::Rule> rules() const { return row; }
  void score(std::size_t, const infinipot::ScoreView&, std::span<float>) const {}
};

TEST(Seams, RulesOutOfRangeAreRefused) {
  LeastEngine engine;
  LeastStore store;
  const auto try_rule = [&](const infinipot::Rule& rule) { Ccd(engine, store, ShareOf{{rule}}); };
  EXPECT_THROW(Ccd(engine, store, NoRules()), std::invalid_argument);
  EXPECT_THROW(try_rule({.share = 1.5}), std::invalid_argument);
  EXPECT_THROW(try_rule({.share = -0.5}), std::invalid_argument);
  EXPECT_THROW(try_rule({.smoothing = {infinipot::Pooling::max, 2}}), std::invalid_argument);
  EXPECT_NO_THROW(try_rule({.share = 0}));
}

}  // namespace
