// llama.cpp as an engine: it agrees with the example engine, and its pots do what other pots do.
#include "engine.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cache_pot.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2/tiny_architectures.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using infinipot::Ccd;
using infinipot::CcdSettings;
using infinipot::Distillation;
using infinipot::Granularity;
using infinipot::Pot;
using infinipot::ReduceHeads;
using infinipot::Token;
using test::TemporaryModel;

static_assert(infinipot::YieldsQueries<Engine> && infinipot::YieldsAttention<Engine>);
static_assert(infinipot::ChoosesWhatToShow<Engine>);
static_assert(infinipot::WritableEntries<CachePot> && infinipot::AssignableStore<CachePot>);

using Tokens = std::vector<Token>;
using Logits = std::vector<std::vector<float>>;

class KeptLogits final : public infinipot::LogitsSink {
 public:
  explicit KeptLogits(std::size_t tokens, std::size_t first_row = 0) : LogitsSink(first_row), rows(tokens) {}
  void row(std::size_t row, std::span<const float> logits) noexcept override {
    rows[row].assign(logits.begin(), logits.end());
  }
  Logits rows;
};

float distance(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    EXPECT_TRUE(std::isfinite(a[i]));
    largest = std::max(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

/// A model that both engines have, and a text for it.
class LlamaCpp : public testing::Test {
 protected:
  static constexpr std::size_t capacity = 48;

  static void SetUpTestSuite() { keep_quiet(); }

  Tokens text(std::size_t count, std::uint32_t seed = 1) const {
    Tokens tokens(count);
    for (Token& token : tokens) {
      seed = seed * 1664525U + 1013904223U;
      token = static_cast<Token>((seed >> 8U) % tiny_.vocab_size);
    }
    return tokens;
  }

  const smollm2::test::TinyLlama tiny_ = test::tiny_llama();
  const TemporaryModel file_{test::tiny_file(tiny_)};
  const llama_model_ptr model_ = load_model(file_.path());
};

/// A context with one pot.
struct Single {
  Single(llama_model& model, std::size_t capacity, ContextSettings settings = {},
         Granularity granularity = Granularity::shared) {
    settings.cells = capacity;
    context = make_context(model, tap, settings);
    pot.emplace(tap, *context, 0, CachePotSettings{.capacity = capacity, .granularity = granularity});
    engine.emplace(tap, *pot);
  }
  GraphTap tap;
  llama_context_ptr context;
  std::optional<CachePot> pot;
  std::optional<Engine> engine;
};

constexpr ContextSettings exact{.batch = 64, .cache_type = GGML_TYPE_F32, .flash_attention = false};
constexpr ContextSettings flash{.batch = 64, .cache_type = GGML_TYPE_F16, .flash_attention = true};

/// What a reader did.
struct Trace {
  std::vector<std::vector<infinipot::Index>> kept;
  std::vector<std::uint64_t> positions;
  std::vector<float> nuc;
  std::vector<float> logits;

  template <class Reader, class Store>
  static Trace of(Reader& reader, const Store& store, const Tokens& tokens) {
    Trace trace;
    reader.on_distillation([&](const Distillation& distillation) {
      const auto indices = distillation.kept.lane(0);
      trace.kept.emplace_back(indices.begin(), indices.end());
    });
    reader.feed(tokens);
    const auto positions = store.entries().positions(0);
    trace.positions.assign(positions.begin(), positions.end());
    trace.nuc.assign(store.entries().nuc(0).begin(), store.entries().nuc(0).end());
    trace.logits.assign(reader.logits().begin(), reader.logits().end());
    return trace;
  }
};

/// The same reading by the example engine, in float.
class ExampleEngine {
 public:
  explicit ExampleEngine(const std::string& path) : pool_(1), weights_(smollm2::GgufFile(path), pool_) {}

  template <class P>
  Trace read(const P& policy, const CcdSettings& settings, std::size_t capacity, const Tokens& tokens,
             Granularity granularity = Granularity::shared) {
    Pot<float> pot({.shape = weights_.config().shape(),
                    .capacity = capacity,
                    .max_keep = settings.keep,
                    .granularity = granularity,
                    .rope = weights_.config().rope(capacity)});
    smollm2::LlamaEngine engine(weights_, pot, pool_, capacity);
    Ccd reader(engine, pot, policy, settings);
    return Trace::of(reader, pot, tokens);
  }

 private:
  smollm2::ThreadPool pool_;
  smollm2::LlamaWeights weights_;
};

TEST_F(LlamaCpp, HasTheModelsShape) {
  Single single(*model_, capacity);
  EXPECT_EQ(single.pot->shape(),
            (infinipot::Shape{tiny_.layers, tiny_.query_heads, tiny_.kv_heads, tiny_.head_dim()}));
  EXPECT_EQ(single.engine->vocab_size(), tiny_.vocab_size);
  EXPECT_EQ(single.pot->granularity(), Granularity::shared);
  EXPECT_EQ(single.pot->capacity(), capacity);
}

TEST_F(LlamaCpp, ShowsWhatItsContextHas) {
  EXPECT_FALSE(Single(*model_, capacity, exact).engine->shows_queries());
  EXPECT_TRUE(Single(*model_, capacity, flash).engine->shows_queries());
}

TEST_F(LlamaCpp, GivesTheLogitsThatAreWanted) {
  const Tokens tokens = text(30);
  const smollm2::test::SlowForward slow(tiny_, tokens);
  for (const std::size_t batch : {64U, 7U}) {
    ContextSettings settings = exact;
    settings.batch = batch;
    for (const std::size_t first_row : {0U, 11U, 29U, 30U}) {
      Single single(*model_, capacity, settings);
      KeptLogits logits(tokens.size(), first_row);
      single.engine->forward(tokens, 0, logits);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        ASSERT_EQ(logits.rows[i].empty(), i < first_row);
        for (std::size_t t = 0; t < logits.rows[i].size(); ++t)
          ASSERT_NEAR(static_cast<double>(logits.rows[i][t]), slow.logits[i][t], 1e-4);
      }
    }
  }
}

TEST_F(LlamaCpp, AttentionRowsAreWhole) {
  class Rows final : public infinipot::AttentionSink {
   public:
    void row(std::size_t layer, std::size_t head, std::size_t row,
             std::span<const float> paid) noexcept override {
      seen.push_back({layer, head, row});
      rows.emplace_back(paid.begin(), paid.end());
    }
    std::vector<std::array<std::size_t, 3>> seen;
    Logits rows;
  };
  const Tokens catalyst = text(5, 2);
  for (const std::size_t batch : {64U, 3U}) {
    ContextSettings settings = exact;
    settings.batch = batch;
    Single single(*model_, capacity, settings);
    Ccd reader(*single.engine, *single.pot, infinipot::StreamingLlm(), {.keep = 20, .sinks = 3});
    reader.feed(text(90, 3));
    const std::size_t size = single.pot->entries().size();
    Rows rows;
    KeptLogits none(catalyst.size(), catalyst.size());
    single.engine->forward(catalyst, size, none, static_cast<infinipot::AttentionSink&>(rows));
    EXPECT_EQ(std::set(rows.seen.begin(), rows.seen.end()).size(),
              tiny_.layers * tiny_.query_heads * catalyst.size());
    for (std::size_t i = 0; i < rows.rows.size(); ++i) {
      EXPECT_EQ(rows.rows[i].size(), size + rows.seen[i][2] + 1);
      EXPECT_NEAR(std::accumulate(rows.rows[i].begin(), rows.rows[i].end(), 0.0), 1, 1e-5);
    }
  }
}

template <class P>
void expect_same_reading(const P& policy, llama_model& model, const std::string& path, const Tokens& tokens,
                         const CcdSettings& settings, std::size_t capacity,
                         Granularity granularity = Granularity::shared) {
  ExampleEngine example(path);
  const Trace expected = example.read(policy, settings, capacity, tokens, granularity);
  ASSERT_GT(expected.kept.size(), 4U);
  Single single(model, capacity, exact, granularity);
  Ccd reader(*single.engine, *single.pot, policy, settings);
  const Trace found = Trace::of(reader, *single.pot, tokens);
  EXPECT_EQ(found.kept, expected.kept);
  EXPECT_EQ(found.positions, expected.positions);
  EXPECT_LT(distance(found.nuc, expected.nuc), 1e-3F);
  EXPECT_LT(distance(found.logits, expected.logits), 1e-3F);
  EXPECT_EQ(reader.stats().nan_scores, 0U);
}

TEST_F(LlamaCpp, KeepsWhatTheExampleEngineKeeps) {
  const Tokens tokens = text(400), catalyst = text(5, 2);
  const CcdSettings settings{.keep = 24, .sinks = 2, .recent = 2, .chunk = 16};
  const auto check = [&](const auto& policy) {
    SCOPED_TRACE(policy.name());
    expect_same_reading(policy, *model_, file_.path(), tokens, settings, capacity);
  };
  check(infinipot::StreamingLlm());
  check(infinipot::Infinipot(
      {.catalysts = {catalyst}, .alpha = 0.25, .over_heads = ReduceHeads::max_share, .kernel = 3}));
  check(infinipot::Infinipot({.catalysts = {catalyst, text(3, 4)}, .alpha = 0.5}));
  check(infinipot::SnapKv(6, 3));
  check(infinipot::Tova());
  check(infinipot::H2o());
  check(infinipot::SirLlm());
  for (const std::size_t layers : {1U, 0U}) check(infinipot::Reread({.block = 5, .layers = layers}));
}

TEST_F(LlamaCpp, KeepsWhatTheExampleEngineKeepsPerHead) {
  const Tokens tokens = text(400), catalyst = text(5, 2);
  const CcdSettings settings{.keep = 24, .sinks = 2, .recent = 2, .chunk = 16};
  for (const Granularity granularity : {Granularity::head, Granularity::layer}) {
    const auto check = [&](const auto& policy) {
      SCOPED_TRACE(policy.name());
      expect_same_reading(policy, *model_, file_.path(), tokens, settings, capacity, granularity);
    };
    check(infinipot::Infinipot({.catalysts = {catalyst}, .alpha = 0.25, .kernel = 3}));
    check(infinipot::SnapKv(6, 3));
    check(infinipot::H2o());
  }
}

// Where a token repeats, its keys and values in the first layer are as long wherever it stands, so that
// rounding decides; what both engines keep is nearly the same all the same.
TEST_F(LlamaCpp, ScoresEntriesByTheirRows) {
  const Tokens tokens = text(400);
  const CcdSettings settings{.keep = 24, .sinks = 2, .recent = 2, .chunk = 16};
  const auto check = [&](const auto& policy) {
    SCOPED_TRACE(policy.name());
    ExampleEngine example(file_.path());
    const Trace expected = example.read(policy, settings, capacity, tokens, Granularity::head);
    for (const ContextSettings& context : {exact, flash}) {
      Single single(*model_, capacity, context, Granularity::head);
      Ccd reader(*single.engine, *single.pot, policy, settings);
      const Trace found = Trace::of(reader, *single.pot, tokens);
      ASSERT_EQ(found.kept.size(), expected.kept.size());
      std::vector<infinipot::Index> both;
      std::ranges::set_intersection(found.kept.front(), expected.kept.front(), std::back_inserter(both));
      EXPECT_GE(both.size(), 22U);
    }
  };
  check(infinipot::KNorm());
  check(infinipot::KeyDiff());
  check(infinipot::ValueNorm());
}

// llama.cpp's K-shift is wrong for those with an attention factor (YaRN, LongRoPE).
TEST_F(LlamaCpp, ReadsModelsOfScaledRopeAsTheExampleEngineDoes) {
  const CcdSettings settings{.keep = 24, .sinks = 2, .recent = 2, .chunk = 16};
  for (const char* name : {"linear", "llama3", "yarn", "longrope_short", "biases_yarn", "qwen2", "qwen3"}) {
    SCOPED_TRACE(name);
    const smollm2::test::TinyArchitecture tiny(name);
    const TemporaryModel file(tiny.file());
    const llama_model_ptr model = load_model(file.path());
    Tokens tokens;
    while (tokens.size() < 300) {
      const std::vector<Token> some = tiny.tokens();
      tokens.insert(tokens.end(), some.begin(), some.end());
    }
    expect_same_reading(infinipot::StreamingLlm(), *model, file.path(), tokens, settings, capacity);
    expect_same_reading(infinipot::Infinipot({.catalysts = {{tokens[0], tokens[3]}}, .alpha = 0.25}), *model,
                        file.path(), tokens, settings, capacity, Granularity::head);
  }
}

/// The layers that a context shows to one who wants the first alone.
template <class Sink>
std::set<std::size_t> shown(Single& single, const Tokens& tokens, std::size_t first_row) {
  struct First final : infinipot::QuerySink, infinipot::AttentionSink {
    std::size_t layers() const noexcept override { return 1; }
    void layer(std::size_t layer, const infinipot::Queries&) noexcept override { seen.insert(layer); }
    void row(std::size_t layer, std::size_t, std::size_t, std::span<const float>) noexcept override {
      seen.insert(layer);
    }
    std::set<std::size_t> seen;
  } sink;
  KeptLogits logits(tokens.size(), first_row);
  const std::size_t size = single.pot->entries().size();
  single.engine->forward(tokens, size, logits, static_cast<Sink&>(sink));
  single.pot->truncate(size);
  return sink.seen;
}

TEST_F(LlamaCpp, LayersThatNobodyWantsAreNotComputed) {
  const Tokens tokens = text(5);
  Single probabilities(*model_, 256, exact), queries(*model_, 256, flash);
  for (const int again : {0, 1}) {
    SCOPED_TRACE(again);
    EXPECT_EQ(shown<infinipot::AttentionSink>(probabilities, tokens, 5), (std::set<std::size_t>{0}));
    EXPECT_EQ(shown<infinipot::QuerySink>(queries, tokens, 5), (std::set<std::size_t>{0}));
    EXPECT_EQ(shown<infinipot::AttentionSink>(probabilities, tokens, 4).size(), tiny_.layers);
    EXPECT_EQ(shown<infinipot::QuerySink>(queries, tokens, 4).size(), tiny_.layers);
  }
}

TEST_F(LlamaCpp, QueriesTellTheSameAsProbabilities) {
  const Tokens tokens = text(400), catalyst = text(5, 2);
  const infinipot::Infinipot policy({.catalysts = {catalyst}, .alpha = 0.25});
  const auto read = [&](const ContextSettings& settings) {
    Single single(*model_, capacity, settings);
    Ccd reader(*single.engine, *single.pot, policy, {.keep = 24, .chunk = 16});
    return Trace::of(reader, *single.pot, tokens);
  };
  ContextSettings without_flash = flash;
  without_flash.flash_attention = false;
  const Trace queries = read(flash), probabilities = read(without_flash);
  // Both have 16-bit keys and values, but flash attention adds up in another order.
  EXPECT_EQ(queries.kept.front(), probabilities.kept.front());
  EXPECT_LT(distance(queries.logits, probabilities.logits), 0.1F);
}

TEST_F(LlamaCpp, PotsOfOneContextDoNotDisturbEachOther) {
  const Tokens first = text(300), second = text(300, 9), catalyst = text(4, 2);
  const infinipot::Infinipot policy({.catalysts = {catalyst}, .alpha = 0.25});
  const CcdSettings settings{.keep = 24, .chunk = 16};
  const auto alone = [&](const Tokens& tokens) {
    Single single(*model_, capacity, exact);
    Ccd reader(*single.engine, *single.pot, policy, settings);
    return Trace::of(reader, *single.pot, tokens);
  };
  GraphTap tap;
  ContextSettings three = exact;
  three.cells = capacity;
  three.sequences = 3;
  const llama_context_ptr context = make_context(*model_, tap, three);
  CachePot pots[2] = {CachePot(tap, *context, 0, {.capacity = capacity}),
                      CachePot(tap, *context, 2, {.capacity = capacity})};
  Engine engines[2] = {{tap, pots[0]}, {tap, pots[1]}};
  Ccd<Engine, CachePot, infinipot::Infinipot> readers[2] = {{engines[0], pots[0], policy, settings},
                                                            {engines[1], pots[1], policy, settings}};
  for (std::size_t i = 0; i < first.size(); i += 20) {
    readers[0].feed(std::span(first).subspan(i, 20));
    readers[1].feed(std::span(second).subspan(i, 20));
  }
  const Trace expected[2] = {alone(first), alone(second)};
  for (int i : {0, 1}) {
    EXPECT_TRUE(std::ranges::equal(pots[i].entries().positions(0), expected[i].positions));
    EXPECT_LT(distance(readers[i].logits(), expected[i].logits), 1e-3F);
  }
}

TEST_F(LlamaCpp, ForkGoesOnAlone) {
  const Tokens tokens = text(100), more = text(100, 5), other = text(100, 6), catalyst = text(4, 2);
  const infinipot::Infinipot policy({.catalysts = {catalyst}, .alpha = 0.25});
  const auto settings = [] {
    ContextSettings two = exact;
    two.sequences = 2;
    return two;
  }();
  Single single(*model_, capacity, settings);
  Ccd reader(*single.engine, *single.pot, policy, {.keep = 24, .chunk = 16});
  reader.feed(tokens);
  for (int round = 0; round < 2; ++round) {
    CachePot copy = single.pot->fork(1);
    Engine engine(single.tap, copy);
    auto fork = reader.fork(engine, copy);
    fork.feed(round == 0 ? other : more);
    if (round == 1) reader.feed(more);
    EXPECT_EQ(std::ranges::equal(copy.entries().positions(0), single.pot->entries().positions(0)),
              round == 1);
    EXPECT_EQ(std::ranges::equal(fork.logits(), reader.logits()), round == 1);
    copy.truncate(0);
  }
}

TEST_F(LlamaCpp, RecallsByReadingArchivedTokensAnew) {
  const Tokens header = text(3, 9), tokens = text(150), question = text(4, 2), more = text(20, 7);
  ContextSettings two = exact;
  two.sequences = 2;
  constexpr CcdSettings keeps{.keep = 24, .sinks = 2, .chunk = 16};
  Single single(*model_, capacity, two), plain(*model_, capacity, exact);
  infinipot::MemoryArchive archive(
      {.shape = single.pot->shape(), .type = infinipot::ArchiveType::tokens, .block = 32, .limit = 1 << 16});
  Ccd reader(*single.engine, *single.pot, infinipot::StreamingLlm(), keeps);
  reader.archive_to(archive);
  reader.feed(header, infinipot::Retention::pinned);
  reader.feed(tokens);
  const Logits before{{reader.logits().begin(), reader.logits().end()}};
  CachePot other(single.tap, *single.context, 1, {.capacity = capacity});
  Engine engine(single.tap, other);

  // Given up, it leaves the reader as it was.
  infinipot::RecallSettings settings;
  settings.progress = [](const infinipot::RecallProgress& progress) { return progress.position < 60; };
  const std::vector<std::uint64_t> held(single.pot->entries().positions(0).begin(),
                                        single.pot->entries().positions(0).end());
  EXPECT_FALSE(recall(reader, engine, other, archive, question, settings).done);
  EXPECT_TRUE(std::ranges::equal(single.pot->entries().positions(0), held));

  // What is kept is what a reader keeps that knew the question.
  EXPECT_TRUE(recall(reader, engine, other, archive, question).done);
  Ccd known(*plain.engine, *plain.pot, infinipot::recommended_settings(question, keeps.keep), keeps);
  known.feed(header, infinipot::Retention::pinned);
  known.feed(tokens);
  known.distil();
  EXPECT_TRUE(std::ranges::equal(single.pot->entries().positions(0), plain.pot->entries().positions(0)));
  reader.feed(more);
  known.feed(more);
  EXPECT_LT(distance(reader.logits(), known.logits()), 1e-4F);
  EXPECT_EQ(archive.end(), header.size() + tokens.size() + more.size());

  EXPECT_THROW(other.assign(other, 1), std::invalid_argument);
  EXPECT_THROW(other.assign(*single.pot, capacity + 1), std::invalid_argument);
}

TEST_F(LlamaCpp, FailedPassLeavesThePotAsItWas) {
  const Tokens tokens = text(40), more = text(8, 5);
  const infinipot::StreamingLlm policy;
  Single single(*model_, capacity, exact), undisturbed(*model_, capacity, exact);
  Ccd reader(*single.engine, *single.pot, policy, {.keep = 24, .chunk = 16});
  Ccd expected(*undisturbed.engine, *undisturbed.pot, policy, {.keep = 24, .chunk = 16});
  reader.feed(tokens);
  expected.feed(tokens);
  llama_set_abort_callback(
      single.context.get(), [](void*) { return true; }, nullptr);
  EXPECT_THROW(reader.feed(more), std::runtime_error);
  llama_set_abort_callback(single.context.get(), nullptr, nullptr);
  EXPECT_EQ(single.pot->entries().size(), tokens.size());
  reader.feed(more);
  expected.feed(more);
  EXPECT_TRUE(std::ranges::equal(reader.logits(), expected.logits()));
}

// If llama.cpp cannot even give cells back, tokens that were to be read anew are lost.
TEST_F(LlamaCpp, TokensLostByADistillationAreNoticed) {
  const Tokens tokens = text(40);
  const infinipot::SnapKv policy(8, 1);
  Single single(*model_, capacity, exact), undisturbed(*model_, capacity, exact);
  Ccd reader(*single.engine, *single.pot, policy, {.keep = 24, .chunk = 16});
  Ccd expected(*undisturbed.engine, *undisturbed.pot, policy, {.keep = 24, .chunk = 16});
  reader.feed(tokens);
  expected.feed(tokens);
  expected.distil();
  llama_set_abort_callback(
      single.context.get(), [](void*) { return true; }, nullptr);
  EXPECT_THROW(reader.distil(), std::runtime_error);
  llama_set_abort_callback(single.context.get(), nullptr, nullptr);
  EXPECT_THROW(reader.feed(tokens), std::invalid_argument);
  EXPECT_EQ(single.pot->entries().size(), 32U);
  reader.resume();
  EXPECT_EQ(reader.stats().tokens_read, 32U);
  reader.feed(std::span(tokens).subspan(32));
  reader.distil();
  EXPECT_EQ(undisturbed.pot->entries().size(), 24U);
  EXPECT_TRUE(
      std::ranges::equal(single.pot->entries().positions(0), undisturbed.pot->entries().positions(0)));
}

template <class F>
std::string refusal(const F& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refusal(const std::string& found, const std::string& wanted) {
  EXPECT_NE(found.find(wanted), std::string::npos) << "found: " << found << "\nwanted: " << wanted;
}

TEST_F(LlamaCpp, RefusesContextsThatDoNotFit) {
  Single single(*model_, capacity);
  const auto pot = [&](llama_seq_id sequence, std::size_t cells) {
    return refusal([&] { CachePot(single.tap, *single.context, sequence, {.capacity = cells}); });
  };
  expect_refusal(pot(0, 0), "capacity 0 is out of range 2 .. 256");
  expect_refusal(pot(0, 257), "capacity 257 is out of range 2 .. 256");
  expect_refusal(pot(1, 48), "sequence 1 is out of range 0 .. 0");
  expect_refusal(pot(-1, 48), "sequence -1 is out of range 0 .. 0");
  KeptLogits logits(3);
  single.engine->forward(text(3), 0, logits);
  expect_refusal(pot(0, 48), "sequence 0 holds tokens already");
  expect_refusal(refusal([&] { single.pot->fork(1); }), "out of range");
}

TEST_F(LlamaCpp, RefusesAContextThatIsNotTapped) {
  GraphTap tap, other;
  const llama_context_ptr context = make_context(*model_, other, {.cells = capacity});
  expect_refusal(refusal([&] { CachePot(tap, *context, 0, {.capacity = capacity}); }), "GraphTap::install()");
}

TEST_F(LlamaCpp, RefusesATapOfAnotherContext) {
  GraphTap tap;
  const llama_context_ptr first = make_context(*model_, tap, {.cells = capacity}),
                          second = make_context(*model_, tap, {.cells = capacity});
  CachePot pot(tap, *first, 0, {.capacity = capacity});
  expect_refusal(refusal([&] { CachePot(tap, *second, 0, {.capacity = capacity}); }),
                 "make each context with a tap of its own");
}

TEST_F(LlamaCpp, RefusesToShowWhatThereIsNot) {
  struct Sink final : infinipot::QuerySink, infinipot::AttentionSink {
    void layer(std::size_t, const infinipot::Queries&) noexcept override {}
    void row(std::size_t, std::size_t, std::size_t, std::span<const float>) noexcept override {}
  } sink;
  const Tokens tokens = text(65);
  KeptLogits logits(65, 65);
  Single probabilities(*model_, 256, exact), queries(*model_, 256, flash);
  expect_refusal(refusal([&] {
                   probabilities.engine->forward(tokens, 0, logits, static_cast<infinipot::QuerySink&>(sink));
                 }),
                 "only with flash attention");
  expect_refusal(refusal([&] {
                   queries.engine->forward(tokens, 0, logits, static_cast<infinipot::AttentionSink&>(sink));
                 }),
                 "no attention probabilities");
  expect_refusal(
      refusal([&] { queries.engine->forward(tokens, 0, logits, static_cast<infinipot::QuerySink&>(sink)); }),
      "65 tokens are wanted at once, but n_ubatch is 64");
}

TEST_F(LlamaCpp, RefusesTokensThatDoNotFit) {
  Single single(*model_, capacity);
  KeptLogits logits(49);
  expect_refusal(refusal([&] { single.engine->forward(text(49), 0, logits); }),
                 "49 tokens from position 0 on");
  expect_refusal(refusal([&] { single.engine->forward(text(1), 49, logits); }), "do not fit in a pot of 48");
  EXPECT_LT(llama_memory_seq_pos_max(llama_get_memory(single.context.get()), 0), 0);
}

TEST_F(LlamaCpp, RefusesModelsThatDoNotLoad) {
  expect_refusal(refusal([] { load_model("/no/such/model.gguf"); }), "/no/such/model.gguf");
  expect_refusal(refusal([] { load_model("/no/such/model.gguf", {"nonsense"}); }), "host:port");
  expect_refusal(refusal([] { load_model("/no/such/model.gguf", {"127.0.0.1:1"}); }),
                 "127.0.0.1:1 cannot be reached");
}

}  // namespace
}  // namespace llama_cpp
