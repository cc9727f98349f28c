#include "llama_engine.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/pot/quantized_pot.hpp"
#include "kept_logits.hpp"
#include "test_files.hpp"
#include "tiny_llama.hpp"

namespace smollm2 {
namespace {

using infinipot::bf16;
using infinipot::f16;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Token;
using test::KeptLogits;
using test::largest_error;

static_assert(infinipot::YieldsQueries<LlamaEngine<Pot<float>>>);
static_assert(infinipot::YieldsQueries<LlamaEngine<Pot<f16>>>);

using Logits = std::vector<std::vector<float>>;

/// Wants the NuC of each token that follows another in the call, and the logits after the last one.
class Scored final : public infinipot::LogitsSink {
 public:
  explicit Scored(std::span<const Token> tokens, std::size_t first_row = 0)
      : LogitsSink(first_row, tokens.subspan(1)), scores(tokens.size() - 1, -1) {}
  void row(std::size_t row, std::span<const float> logits) noexcept override {
    EXPECT_EQ(row, scores.size());
    last.assign(logits.begin(), logits.end());
  }
  void nuc(std::size_t row, float nuc) noexcept override { scores.at(row) = nuc; }
  std::vector<float> scores;
  std::vector<float> last;
};

class KeptQueries final : public infinipot::QuerySink {
 public:
  std::size_t layers() const noexcept override { return wanted; }
  void layer(std::size_t layer, const infinipot::Queries& queries) noexcept override {
    seen.push_back(layer);
    auto& rows = numbers.emplace_back();
    for (std::size_t token = 0; token < queries.count; ++token)
      for (std::size_t head = 0; head < heads; ++head)
        rows.insert(rows.end(), queries.at(token, head), queries.at(token, head) + head_dim);
  }
  std::size_t heads = 0, head_dim = 0, wanted = infinipot::all_layers;
  std::vector<std::size_t> seen;
  std::vector<std::vector<float>> numbers;  // (layers, tokens * heads * head_dim)
};

template <class T = float>
Pot<T> make_pot(const LlamaConfig& config, std::size_t capacity, KeyStorage storage = KeyStorage::rotated) {
  infinipot::PotSettings settings;
  settings.shape = config.shape();
  settings.capacity = capacity;
  settings.key_storage = storage;
  settings.rope = config.rope(capacity);
  return Pot<T>(settings);
}

/// How to run a prompt; the logits must depend on none of it.
struct Way {
  std::size_t threads = 2;
  std::size_t call = 1000000;  ///< tokens per call of forward()
  std::size_t max_batch = 64;
  KeyStorage storage = KeyStorage::rotated;
};

template <class T = float>
Logits run(const LlamaWeights& weights, std::span<const Token> tokens, const Way& way) {
  ThreadPool pool(way.threads);
  Pot<T> pot = make_pot<T>(weights.config(), tokens.size() + 3, way.storage);
  LlamaEngine<Pot<T>> engine(weights, pot, pool, way.max_batch);
  Logits logits;
  for (std::size_t first = 0; first < tokens.size(); first += way.call) {
    const std::span<const Token> some = tokens.subspan(first, std::min(way.call, tokens.size() - first));
    KeptLogits sink(some.size());
    engine.forward(some, first, sink);
    logits.insert(logits.end(), sink.rows.begin(), sink.rows.end());
  }
  return logits;
}

/// NuC of tokens 1 ..., read as a stream: the first of a call is scored by the last logits of the one before.
std::vector<float> score(const LlamaWeights& weights, std::span<const Token> tokens, const Way& way) {
  ThreadPool pool(way.threads);
  Pot<float> pot = make_pot(weights.config(), tokens.size());
  LlamaEngine<Pot<float>> engine(weights, pot, pool, way.max_batch);
  std::vector<float> scores, last;
  for (std::size_t first = 0; first < tokens.size(); first += way.call) {
    const std::span<const Token> some = tokens.subspan(first, std::min(way.call, tokens.size() - first));
    Scored sink(some);
    engine.forward(some, first, sink);
    if (first > 0) scores.push_back(infinipot::nuc(last, some[0]));
    scores.insert(scores.end(), sink.scores.begin(), sink.scores.end());
    last = sink.last;
  }
  return scores;
}

/// The same from whole logits.
std::vector<float> score(const Logits& logits, std::span<const Token> tokens) {
  std::vector<float> scores;
  for (std::size_t i = 1; i < tokens.size(); ++i) scores.push_back(infinipot::nuc(logits[i - 1], tokens[i]));
  return scores;
}

std::vector<Token> random_tokens(std::size_t count, std::size_t vocab_size) {
  std::mt19937 random(3);
  std::vector<Token> tokens(count);
  for (Token& token : tokens) token = static_cast<Token>(random() % vocab_size);
  return tokens;
}

/// Random layers multiply errors: the first layer is exact to a few units in the last place, the next is not.
constexpr double tolerance[] = {2e-6, 1e-4};

class TinyEngine : public testing::Test {
 protected:
  test::TinyLlama model_;
  std::vector<std::byte> bytes_ = model_.file().build();
  ThreadPool pool_{2};
  LlamaWeights weights_{GgufFile(bytes_, "tiny.gguf"), pool_};
  /// More than one tile of keys.
  std::vector<Token> tokens_ = random_tokens(300, model_.vocab_size);
};

TEST_F(TinyEngine, AgreesWithASlowForwardPass) {
  const double error = largest_error(test::SlowForward(model_, tokens_).logits, run(weights_, tokens_, {}));
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, 1e-4);
}

TEST_F(TinyEngine, ReadsAnOutputMatrixOfItsOwn) {
  const test::TinyLlama untied(false);
  const std::vector<std::byte> bytes = untied.file().build();
  const LlamaWeights weights(GgufFile(bytes, "untied.gguf"), pool_);
  const std::span<const Token> few(tokens_.data(), 20);
  EXPECT_LT(largest_error(test::SlowForward(untied, few).logits, run(weights, few, {})), 1e-4);
}

TEST_F(TinyEngine, GivesTheSameBitsHoweverTokensAreSplit) {
  const Logits expected = run(weights_, tokens_, {});
  for (const std::size_t call : {1U, 7U, 64U, 299U})
    for (const std::size_t max_batch : {1U, 5U, 300U})
      EXPECT_EQ(run(weights_, tokens_, {.call = call, .max_batch = max_batch}), expected)
          << call << " tokens a call, batches of " << max_batch;
}

TEST_F(TinyEngine, GivesTheSameBitsOnAnyNumberOfThreads) {
  const Logits expected = run(weights_, tokens_, {.threads = 1});
  for (const std::size_t threads : {2U, 3U, 5U})
    EXPECT_EQ(run(weights_, tokens_, {.threads = threads}), expected);
}

TEST_F(TinyEngine, ComesCloseWithSmallerElements) {
  const Logits expected = run(weights_, tokens_, {});
  EXPECT_LT(largest_error(expected, run<f16>(weights_, tokens_, {})), 0.05);
  EXPECT_LT(largest_error(expected, run<bf16>(weights_, tokens_, {})), 0.4);
}

TEST_F(TinyEngine, AgreesWithItselfOnUnrotatedKeys) {
  const Logits expected = run(weights_, tokens_, {});
  EXPECT_LT(largest_error(expected, run(weights_, tokens_, {.storage = KeyStorage::unrotated})), 1e-6);
}

TEST_F(TinyEngine, WritesKeysAndValues) {
  const test::SlowForward slow(model_, tokens_);
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated}) {
    Pot<float> pot = make_pot(weights_.config(), tokens_.size(), storage);
    LlamaEngine<Pot<float>> engine(weights_, pot, pool_, 64);
    KeptLogits nothing(tokens_.size(),
                       tokens_.size());  // the last layer's keys and values are written all the same
    engine.forward(tokens_, 0, nothing);
    const std::size_t d = model_.head_dim();
    std::vector<float> tile(d);
    for (std::size_t layer = 0; layer < model_.layers; ++layer)
      for (std::size_t head = 0; head < model_.kv_heads; ++head)
        for (std::size_t row = 0; row < tokens_.size(); ++row) {
          const float* const key = pot.key_rows(layer, head, row, 1, tile.data()).data;
          const float* const value = pot.values(layer).row(head, row);
          for (std::size_t i = 0; i < d; ++i) {
            ASSERT_NEAR(static_cast<double>(key[i]), slow.keys[layer][row][head * d + i], tolerance[layer]);
            ASSERT_NEAR(static_cast<double>(value[i]), slow.values[layer][row][head * d + i],
                        tolerance[layer]);
          }
        }
  }
}

TEST_F(TinyEngine, GivesOnlyTheLogitsThatAreWanted) {
  const Logits all = run(weights_, tokens_, {});
  Pot<float> pot = make_pot(weights_.config(), tokens_.size());
  LlamaEngine<Pot<float>> engine(weights_, pot, pool_, 64);
  for (const std::size_t first_row : {1U, 63U, 64U, 130U, 299U, 300U, 1000U}) {
    KeptLogits sink(tokens_.size(), first_row);
    engine.forward(tokens_, 0, sink);
    for (std::size_t row = 0; row < tokens_.size(); ++row)
      ASSERT_EQ(sink.rows[row], row < first_row ? std::vector<float>() : all[row])
          << row << " from " << first_row;
  }
}

TEST_F(TinyEngine, ScoresTargetsToTheSameBitsAsFromWholeLogits) {
  for (const std::size_t vocabulary : {53U, 2048U, 5001U}) {  // one part of the vocabulary, one, and three
    const test::TinyLlama model(true, vocabulary);
    const std::vector<std::byte> bytes = model.file().build();
    const LlamaWeights weights(GgufFile(bytes, "tiny.gguf"), pool_);
    const std::vector<Token> tokens = random_tokens(130, vocabulary);
    const std::vector<float> expected = score(run(weights, tokens, {}), tokens);
    for (const std::size_t call : {1U, 7U, 64U, 1000U})
      for (const std::size_t max_batch : {1U, 5U, 300U})
        for (const std::size_t threads : {1U, 3U})
          EXPECT_EQ(score(weights, tokens, {.threads = threads, .call = call, .max_batch = max_batch}),
                    expected)
              << vocabulary << ": " << call << " tokens a call, batches of " << max_batch;
  }
}

TEST_F(TinyEngine, ScoresOnlyTheRowsThatAreWanted) {
  const std::vector<float> all = score(weights_, tokens_, {});
  const Logits logits = run(weights_, tokens_, {});
  Pot<float> pot = make_pot(weights_.config(), tokens_.size());
  LlamaEngine<Pot<float>> engine(weights_, pot, pool_, 64);
  for (const std::size_t first_row : {1U, 63U, 64U, 130U, 299U, 300U, 1000U}) {
    Scored sink(tokens_, first_row);
    engine.forward(tokens_, 0, sink);
    for (std::size_t row = 0; row < all.size(); ++row)
      ASSERT_EQ(sink.scores[row], row < first_row ? -1 : all[row]) << row << " from " << first_row;
    EXPECT_EQ(sink.last, first_row > all.size() ? std::vector<float>() : logits.back());
  }
}

TEST_F(TinyEngine, GivesTheQueriesOfEachLayerOnce) {
  const test::SlowForward slow(model_, tokens_);
  Pot<float> pot = make_pot(weights_.config(), tokens_.size());
  LlamaEngine<Pot<float>> engine(weights_, pot, pool_, tokens_.size());
  for (const std::size_t first_row : {std::size_t{0}, tokens_.size()}) {
    KeptLogits sink(tokens_.size(), first_row);
    KeptQueries queries;
    queries.heads = model_.query_heads;
    queries.head_dim = model_.head_dim();
    engine.forward(tokens_, 0, sink, queries);
    EXPECT_EQ(queries.seen, (std::vector<std::size_t>{0, 1}));
    for (std::size_t layer = 0; layer < model_.layers; ++layer)
      for (std::size_t row = 0; row < tokens_.size(); ++row)
        for (std::size_t i = 0; i < model_.embedding; ++i)
          ASSERT_NEAR(static_cast<double>(queries.numbers[layer].at(row * model_.embedding + i)),
                      slow.queries[layer][row][i], tolerance[layer]);
  }
}

TEST_F(TinyEngine, LayersThatNobodyWantsAreLeftOut) {
  const auto show = [&](Pot<float>& pot, std::size_t layers, std::size_t first_row) {
    LlamaEngine<Pot<float>> engine(weights_, pot, pool_, tokens_.size());
    KeptLogits logits(tokens_.size(), first_row);
    KeptQueries queries;
    queries.heads = model_.query_heads;
    queries.head_dim = model_.head_dim();
    queries.wanted = layers;
    engine.forward(tokens_, 0, logits, queries);
    EXPECT_EQ(logits.rows.back().empty(), first_row == tokens_.size());
    return queries;
  };
  Pot<float> lower = make_pot(weights_.config(), tokens_.size()), whole = lower.fork(),
             predicting = lower.fork();
  const KeptQueries one = show(lower, 1, tokens_.size()), both = show(whole, 2, tokens_.size());
  EXPECT_EQ(one.seen, (std::vector<std::size_t>{0}));
  EXPECT_EQ(both.seen, (std::vector<std::size_t>{0, 1}));
  EXPECT_EQ(one.numbers[0], both.numbers[0]);
  const std::size_t half = model_.kv_heads * tokens_.size() * model_.head_dim();
  const auto of_layer = [&](const Pot<float>& pot, std::size_t layer) {
    const float* const keys = pot.keys(0).data + layer * half;
    return std::vector<float>(keys, keys + half);
  };
  EXPECT_EQ(of_layer(lower, 0), of_layer(whole, 0));
  EXPECT_EQ(of_layer(lower, 1), std::vector<float>(half)) << "nothing is written there";
  EXPECT_NE(of_layer(whole, 1), std::vector<float>(half));
  EXPECT_EQ(show(predicting, 1, tokens_.size() - 1).seen, both.seen) << "logits need all layers";
}

TEST_F(TinyEngine, DoesNothingForNoTokens) {
  Pot<float> pot = make_pot(weights_.config(), 8);
  LlamaEngine<Pot<float>> engine(weights_, pot, pool_, 4);
  KeptLogits sink(0);
  KeptQueries queries;
  engine.forward({}, 8, sink);
  engine.forward({}, 8, sink, queries);
  EXPECT_TRUE(queries.seen.empty());
}

template <class Error>
void expect_error(const std::function<void()>& action, const std::string& part) {
  try {
    action();
    ADD_FAILURE() << "no error; wanted: " << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST_F(TinyEngine, RefusesWhatDoesNotExistAndWritesNothing) {
  Pot<float> pot = make_pot(weights_.config(), 8);
  LlamaEngine<Pot<float>> engine(weights_, pot, pool_, 4);
  KeptLogits sink(9);
  KeptQueries queries;
  const auto forward = [&](std::vector<Token> tokens, std::size_t first) {
    return [&, tokens, first] { engine.forward(tokens, first, sink); };
  };
  expect_error<std::out_of_range>(forward({1, -1}, 0), "token -1 is out of range 0 .. 52");
  expect_error<std::out_of_range>(forward({1, 53}, 0), "token 53 is out of range 0 .. 52");
  expect_error<std::out_of_range>(forward({1, 2}, 7), "2 tokens from position 7 on do not fit in 8 rows");
  expect_error<std::out_of_range>(forward({1}, std::numeric_limits<std::size_t>::max()),
                                  "do not fit in 8 rows");
  expect_error<std::invalid_argument>([&] { engine.forward(std::vector<Token>(5, 1), 0, sink, queries); },
                                      "5 tokens whose queries are wanted, but a batch holds 4");
  const float* const keys = pot.keys(0).data;
  EXPECT_TRUE(std::all_of(keys, keys + 2 * 2 * 8 * 6, [](float x) { return x == 0; }));
}

TEST_F(TinyEngine, RefusesAMemoryOfAnotherShape) {
  Pot<float> pot = make_pot(weights_.config(), 8);
  expect_error<std::invalid_argument>([&] { LlamaEngine<Pot<float>>(weights_, pot, pool_, 0); },
                                      "max_batch is 0");
  infinipot::PotSettings settings;
  settings.shape = {2, 4, 4, 6};
  settings.capacity = 8;
  Pot<float> other(settings);
  expect_error<std::invalid_argument>([&] { LlamaEngine<Pot<float>>(weights_, other, pool_, 4); }, "shape");
}

/// The real model, against torch in double precision.
class SmolLM2 : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = test::model_path();
    if (!path) GTEST_SKIP() << test::no_model;
    if (!weights_) weights_ = std::make_unique<LlamaWeights>(GgufFile(*path), pool_);
    golden_ = test::golden("logits.json");
    tokens_ = golden_["tokens"].get<std::vector<Token>>();
  }
  static void TearDownTestSuite() { weights_.reset(); }

  /// Largest difference to the golden logits, relative to their range.
  double error(const Logits& logits) const {
    const auto vocabulary = golden_["vocabulary"].get<std::vector<std::size_t>>();
    double error = 0, lowest = 0, highest = 0;
    for (const auto& [row, expected] : golden_["logits"].items())
      for (std::size_t i = 0; i < vocabulary.size(); ++i) {
        const double wanted = expected[i].get<double>();
        error =
            std::max(error, std::abs(wanted - static_cast<double>(logits[std::stoul(row)][vocabulary[i]])));
        lowest = std::min(lowest, wanted);
        highest = std::max(highest, wanted);
      }
    return error / (highest - lowest);
  }

  ThreadPool pool_{2};
  nlohmann::json golden_;
  std::vector<Token> tokens_;
  static std::unique_ptr<LlamaWeights> weights_;
};

std::unique_ptr<LlamaWeights> SmolLM2::weights_;

TEST_F(SmolLM2, GivesTheGoldenLogits) {
  const Logits logits = run(*weights_, tokens_, {});
  RecordProperty("relative_error", std::to_string(error(logits)));
  EXPECT_LT(error(logits), 1e-5);
  const auto logsumexp = golden_["logsumexp"].get<std::vector<double>>();
  for (std::size_t row = 0; row < tokens_.size(); ++row) {
    const auto best = std::max_element(logits[row].begin(), logits[row].end());
    EXPECT_EQ(best - logits[row].begin(), golden_["argmax"][row].get<std::ptrdiff_t>()) << "row " << row;
    double sum = 0;
    for (const float logit : logits[row]) sum += std::exp(static_cast<double>(logit - *best));
    EXPECT_NEAR(std::log(sum) + static_cast<double>(*best), logsumexp[row], 1e-3) << "row " << row;
  }
}

TEST_F(SmolLM2, GivesTheSameBitsHoweverItIsRun) {
  const Logits expected = run(*weights_, tokens_, {});
  for (const std::size_t call : {1U, 7U, 64U}) EXPECT_EQ(run(*weights_, tokens_, {.call = call}), expected);
  for (const std::size_t threads : {1U, 3U})
    EXPECT_EQ(run(*weights_, tokens_, {.threads = threads}), expected);
}

TEST_F(SmolLM2, ScoresToTheSameBitsHoweverItIsRun) {
  const std::vector<float> expected = score(run(*weights_, tokens_, {}), tokens_);
  for (const std::size_t call : {7U, 64U})
    for (const std::size_t threads : {1U, 2U})
      EXPECT_EQ(score(*weights_, tokens_, {.threads = threads, .call = call}), expected);
}

TEST_F(SmolLM2, ComesCloseWithOtherStores) {
  EXPECT_LT(error(run(*weights_, tokens_, {.storage = KeyStorage::unrotated})), 1e-5);
  EXPECT_LT(error(run<f16>(*weights_, tokens_, {})), 1e-3);
  EXPECT_LT(error(run<bf16>(*weights_, tokens_, {})), 1e-2);
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated}) {
    EXPECT_LT(error(run<infinipot::int8>(*weights_, tokens_, {.storage = storage})), 0.02);
    EXPECT_LT(error(run<infinipot::int4>(*weights_, tokens_, {.storage = storage})), 0.25);
  }
}

TEST_F(SmolLM2, GivesTheSameBitsWithCodesHoweverItIsRun) {
  const Logits expected = run<infinipot::int4>(*weights_, tokens_, {});
  EXPECT_EQ(run<infinipot::int4>(*weights_, tokens_, {.call = 7}), expected);
  EXPECT_EQ(run<infinipot::int4>(*weights_, tokens_, {.threads = 3}), expected);
}

}  // namespace
}  // namespace smollm2
