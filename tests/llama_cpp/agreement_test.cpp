// Both reading programs keep the same and predict the same, as exactly as llama.cpp's settings allow. What
// needs the real model skips without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/pot.hpp"
#include "programs.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/kept_logits.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/test_files.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2/tiny_architectures.hpp"
#include "tiny_models.hpp"
#include "unpack.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using reading::test::TemporaryFile;
using test::Arguments;
using test::infinipot_llama;
using test::infinipot_read;
using test::report_of;
using test::operator+;

std::string day(std::size_t number) {
  const std::vector<std::string> things{"river", "mountain", "harbour", "garden", "library", "bakery"};
  return "On day " + std::to_string(number) + " they saw the " + things[number % things.size()] +
         " and wrote home.";
}

/// Some 780 tokens.
constexpr std::size_t length = 56;
std::string journey() {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) {
    text += day(i) + "\n";
    if (i == 24) text += "The password of the lighthouse is marigold.\n";
  }
  return text;
}

/// How it goes on after these words.
const std::string beginning = "On day " + std::to_string(length) + " they saw";
std::string continuation() {
  std::string text = day(length);
  for (std::size_t i = length + 1; i < length + 3; ++i) text += " " + day(i);
  return text.substr(beginning.size());
}

std::vector<std::uint64_t> kept(const json& report) {
  return report.at("kept").get<std::vector<std::uint64_t>>();
}

double share_of(const std::vector<std::uint64_t>& positions, const std::vector<std::uint64_t>& others) {
  std::vector<std::uint64_t> both;
  std::ranges::set_intersection(positions, others, std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(std::max(positions.size(), others.size()));
}

/// By policy. On one thread each: llama.cpp's threads wait for one another by spinning, which takes ten times
/// as long beside other tests.
class Agreement : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    packed_ = path->string();
    unpacked_ = std::make_unique<TemporaryFile>();
    test::unpack(packed_, unpacked_->path());
  }

  std::string unpacked() const { return unpacked_->path(); }
  const std::string& packed() const { return packed_; }

  json report(const std::string& program, const std::string& model, const Arguments& more,
              const char* granularity = "shared") const {
    return report_of(program,
                     Arguments{"--model",         model,
                               "--document",      document_.path(),
                               "--question",      "What is the password of the lighthouse?",
                               "--needle",        "lighthouse is marigold",
                               "--answer-prefix", "They saw the mountain and wrote home. " + beginning,
                               "--answer",        continuation(),
                               "--policy",        GetParam(),
                               "--pot",           "400",
                               "--keep",          "300",
                               "--generate",      "0",
                               "--threads",       "1",
                               "--report-kept",   "--granularity",
                               granularity} +
                         settings() + more);
  }

  /// Smooth scores, and all that a policy may need. The tolerances below were measured with these.
  static Arguments settings() {
    if (GetParam() != std::string("infinipot")) return {};
    return {"--catalyst", "@question", "--over-queries", "sum", "--over-heads", "max_share",
            "--kernel",   "9",         "--alpha",        "0.25"};
  }

  /// By the example engine.
  json expected() const { return report(infinipot_read, unpacked(), {}); }

  json found(const std::string& model, const char* cache_type, const char* flash_attention) const {
    return report(infinipot_llama, model, {"--cache-type", cache_type, "--flash-attention", flash_attention});
  }

 private:
  std::string packed_;
  std::unique_ptr<TemporaryFile> unpacked_;
  const TemporaryFile document_{journey()};
};

INSTANTIATE_TEST_SUITE_P(Of, Agreement,
                         testing::Values("infinipot", "snapkv", "h2o", "tova", "streaming_llm"),
                         [](const auto& policy) { return std::string(policy.param); });

struct Tolerance {
  double nll;          // of the answer, nats per token
  double least_share;  // of kept positions that are the same
};

void expect_agreement(const json& found, const json& expected, const Tolerance& tolerance) {
  SCOPED_TRACE(found.at("settings").dump());
  EXPECT_EQ(found.at("distillations"), expected.at("distillations"));
  EXPECT_NEAR(found.at("answer_nll"), expected.at("answer_nll"), tolerance.nll);
  EXPECT_GE(share_of(kept(found), kept(expected)), tolerance.least_share);
}

TEST_P(Agreement, OfBothPrograms) {
  const json expected = this->expected();
  ASSERT_GE(expected.at("distillations"), 4);
  ASSERT_FALSE(expected.at("hit_rate").is_null());

  const json exact = found(unpacked(), "f32", "off");
  expect_agreement(exact, expected, {.nll = 1e-3, .least_share = 1});
  EXPECT_EQ(kept(exact), kept(expected));
  EXPECT_EQ(exact.at("hit_rate"), expected.at("hit_rate"));
  const auto compare = [&](const char* cache_type, const char* flash_attention) {
    expect_agreement(found(unpacked(), cache_type, flash_attention), expected,
                     {.nll = 0.05, .least_share = 0.95});
  };
  compare("f16", "on");
  if (GetParam() != std::string("infinipot")) return;  // other caches and weights are nothing to a policy
  compare("f16", "off");
  compare("q8_0", "on");
  // With packed weights llama.cpp also rounds what they are multiplied with.
  expect_agreement(found(packed(), "f16", "on"), expected, {.nll = 0.05, .least_share = 0});
}

TEST_P(Agreement, OfBothProgramsPerHead) {
  const json expected = report(infinipot_read, unpacked(), {}, "head"),
             found = report(infinipot_llama, unpacked(), {"--cache-type", "f32", "--flash-attention", "off"},
                            "head");
  ASSERT_GE(expected.at("distillations"), 4);
  expect_agreement(found, expected, {.nll = 2e-4, .least_share = 1});
  EXPECT_EQ(kept(found), kept(expected));
  EXPECT_EQ(found.at("hit_rate"), expected.at("hit_rate"));
}

/// Logits of all tokens of a tiny model by llama.cpp, and the room that it has made.
std::pair<std::size_t, std::vector<std::vector<float>>> logits_by_llama_cpp(
    const std::vector<std::byte>& file, const std::vector<infinipot::Token>& tokens) {
  keep_quiet();
  const test::TemporaryModel path(file);
  const llama_model_ptr model = load_model(path.path());
  llama_context_params parameters =
      context_parameters({.cells = 256, .cache_type = GGML_TYPE_F32, .flash_attention = false});
  const llama_context_ptr context(llama_init_from_model(model.get(), parameters));
  const auto count = static_cast<std::int32_t>(tokens.size());
  llama_batch batch = llama_batch_init(count, 0, 1);
  for (batch.n_tokens = 0; batch.n_tokens < count; ++batch.n_tokens) {
    const std::int32_t i = batch.n_tokens;
    batch.token[i] = tokens[static_cast<std::size_t>(i)];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  EXPECT_EQ(llama_decode(context.get(), batch), 0);
  llama_batch_free(batch);
  const std::int32_t vocab_size = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
  std::vector<std::vector<float>> logits;
  for (std::int32_t i = 0; i < count; ++i) {
    const float* const row = llama_get_logits_ith(context.get(), i);
    logits.emplace_back(row, row + vocab_size);
  }
  return {llama_n_ctx_seq(context.get()), std::move(logits)};
}

/// RoPE's scalings, biases and head norms mean to the example engine what they mean to llama.cpp, which has
/// no bias on the output of Qwen 3's attention.
class ArchitectureAgreement : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Of, ArchitectureAgreement,
                         testing::Values("plain", "linear", "llama3", "yarn", "longrope_short",
                                         "longrope_long", "biases", "biases_yarn", "qwen2", "qwen3"),
                         [](const auto& name) { return std::string(name.param); });

TEST_P(ArchitectureAgreement, OfBothEngines) {
  const smollm2::test::TinyArchitecture tiny(GetParam());
  const std::vector<std::byte> file = tiny.file();
  const std::vector<infinipot::Token> tokens = tiny.tokens();
  const auto [room, expected] = logits_by_llama_cpp(file, tokens);

  smollm2::ThreadPool pool(1);
  const smollm2::LlamaWeights weights(smollm2::GgufFile(file, "tiny"), pool);
  infinipot::Pot<float> pot(
      {.shape = weights.config().shape(), .capacity = room, .rope = weights.config().rope(room)});
  smollm2::LlamaEngine engine(weights, pot, pool, tokens.size());
  smollm2::test::KeptLogits found(tokens.size());
  engine.forward(tokens, 0, found);
  const double error = smollm2::test::largest_error(expected, found.rows);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, 1e-4);  // as against transformers, with another's single precision on top
}

}  // namespace
}  // namespace llama_cpp
