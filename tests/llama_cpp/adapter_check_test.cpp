// The adapter to llama.cpp passes the library's check, as far as a context can be seen into.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "broken_adapters.hpp"
#include "cache_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "infinipot/check_adapter.hpp"
#include "infinipot/infinipot.hpp"
#include "infinipot/measure_rope.hpp"
#include "model.hpp"
#include "rope_error.hpp"
#include "smollm2/test_files.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using infinipot::AdapterReport;
using infinipot::Flaw;
using infinipot::Pairing;
using infinipot::Rope;
using infinipot::Token;
using test::TemporaryModel;
using trial::rope_error;
using trial::slope_error;

constexpr std::size_t capacity = 128;

/// A context with one pot.
struct Single {
  Single(llama_model& model, ContextSettings settings) {
    settings.cells = capacity;
    settings.batch = 64;
    context = make_context(model, tap, settings);
    pot.emplace(tap, *context, 0, CachePotSettings{.capacity = capacity});
    engine.emplace(tap, *pot);
  }
  GraphTap tap;
  llama_context_ptr context;
  std::optional<CachePot> pot;
  std::optional<Engine> engine;
};

infinipot::Rounding rounding_of(ggml_type type) {
  if (type == GGML_TYPE_F32) return infinipot::rounding_of<infinipot::f32>();
  if (type == GGML_TYPE_F16) return infinipot::rounding_of<infinipot::f16>();
  if (type == GGML_TYPE_BF16) return infinipot::rounding_of<infinipot::bf16>();
  return infinipot::rounding_of<infinipot::int8>();
}

std::vector<Token> some_text(const Engine& engine) {
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < 40; ++i)
    tokens.push_back(static_cast<Token>((i * i * 31 + 7 * i + 3) % engine.vocab_size()));
  return tokens;
}

AdapterReport checked(llama_model& model, const ContextSettings& settings,
                      infinipot::CheckOptions options = {}) {
  Single single(model, settings);
  options.rounding = rounding_of(settings.cache_type);
  const AdapterReport report =
      infinipot::check_adapter(*single.engine, *single.pot, some_text(*single.engine), options);
  EXPECT_TRUE(single.pot->entries().empty());
  EXPECT_LT(llama_memory_seq_pos_max(llama_get_memory(single.context.get()), 0), 0);
  return report;
}

Rope measured(llama_model& model, ggml_type type) {
  Single single(model, {.cache_type = type, .flash_attention = true});
  return infinipot::measure_rope(*single.engine, *single.pot, {.rounding = rounding_of(type)});
}

/// A model whose heads have `head_dim` channels, with more metadata.
template <class F>
std::vector<std::byte> file_with(const F& more) {
  const smollm2::test::TinyLlama model = test::tiny_llama();
  auto writer = model.file({{"vocab_size", static_cast<std::uint32_t>(model.vocab_size)}});
  writer.string("tokenizer.ggml.model", "no_vocab");
  more(writer);
  return writer.build();
}

/// What sums in 16 bits may be off by, relative to them.
constexpr double sums = 4 * 0x1p-11;

class AdapterCheck : public testing::Test {
 protected:
  static void SetUpTestSuite() { keep_quiet(); }
};

void expect_right(llama_model& model, const ContextSettings& settings,
                  const infinipot::CheckOptions& options = {}) {
  SCOPED_TRACE(testing::Message() << ggml_type_name(settings.cache_type)
                                  << (settings.flash_attention ? ", flash attention" : ""));
  const AdapterReport report = checked(model, settings, options);
  EXPECT_TRUE(report) << report;
  // Of queries and probabilities a context shows one, and only that is left out. Rows are read and written
  // without the rotation that llama.cpp gives those of quantised caches.
  for (const char* left_out : {"RoPE", "keys were not", "another basis", "order of query heads"})
    EXPECT_EQ(report.what().find(left_out), std::string::npos) << report;
  EXPECT_NE(report.what().find(settings.flash_attention ? "(attention_form() was not checked"
                                                        : "(queries were not checked"),
            std::string::npos)
      << report;
}

TEST_F(AdapterCheck, TinyModelPasses) {
  const TemporaryModel file(test::tiny_file(test::tiny_llama()));
  const llama_model_ptr model = load_model(file.path());
  for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16})
    for (const bool flash : {false, true})
      expect_right(*model, {.cache_type = type, .flash_attention = flash});
}

TEST_F(AdapterCheck, MeasuresWhatTheMetadataSay) {
  const auto expect = [](const std::vector<std::byte>& bytes, const Rope& right) {
    const TemporaryModel file(bytes);
    const llama_model_ptr model = load_model(file.path());
    const Rope found = measured(*model, GGML_TYPE_F32);
    EXPECT_EQ(found.frequencies.size(), right.frequencies.size());
    EXPECT_EQ(found.pairing, Pairing::interleaved);
    // Flash attention adds up values in 16 bits, so that the second layer's keys are off by some roundings
    // even in a cache of floats; an f16 cache rounds them once more.
    EXPECT_LT(rope_error(found, right), slope_error(sums));
    EXPECT_LT(rope_error(measured(*model, GGML_TYPE_F16), right), slope_error(sums + 0x1p-11));
  };
  constexpr auto interleaved = Pairing::interleaved;
  expect(test::tiny_file(test::tiny_llama()), infinipot::plain_rope(6, 100, interleaved));
  expect(file_with([](auto& writer) {
           writer.string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4);
         }),
         infinipot::linear_rope(6, 100, {4}, interleaved));
  expect(file_with([](auto& writer) {
           writer.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
           writer.u32("llama.rope.scaling.original_context_length", 128);
         }),
         infinipot::yarn_rope(6, 100, {.factor = 4, .original_context = 128}, interleaved));
}

TEST_F(AdapterCheck, RealModelPasses) {
  const auto path = smollm2::test::model_path();
  if (!path) GTEST_SKIP() << smollm2::test::no_model;
  const llama_model_ptr model = load_model(path->string());
  for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0})
    for (const bool flash : {true, false})
      expect_right(*model, {.cache_type = type, .flash_attention = flash}, {.fill = 16});
}

/// In calls of several tokens, each row of logits is that of the token before.
struct RowsOfOthers {
  Engine& engine;

  infinipot::Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return static_cast<std::size_t>(engine.vocab_size()); }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    std::vector<float> before;
    broken::ChangedLogits changed(
        logits, [&](infinipot::LogitsSink& to, std::size_t token, std::span<const float> row) {
          to.row(token, before.empty() ? row : std::span<const float>(before));
          before.assign(row.begin(), row.end());
        });
    engine.forward(tokens, first, changed);
  }
};

TEST_F(AdapterCheck, RealModelsNoiseHidesNoRowsOfOthers) {
  const auto path = smollm2::test::model_path();
  if (!path) GTEST_SKIP() << smollm2::test::no_model;
  const llama_model_ptr model = load_model(path->string());
  for (const bool flash : {true, false}) {
    Single single(*model, {.cache_type = GGML_TYPE_F16, .flash_attention = flash});
    RowsOfOthers engine{*single.engine};
    const AdapterReport report =
        infinipot::check_adapter(engine, *single.pot, some_text(*single.engine), {.text = 16, .fill = 16});
    EXPECT_TRUE(report.has(Flaw::logits_rows) || report.has(Flaw::chunks)) << report;
  }
}

TEST_F(AdapterCheck, RealModelHasTheRopeOfItsFile) {
  const auto path = smollm2::test::model_path();
  if (!path) GTEST_SKIP() << smollm2::test::no_model;
  const llama_model_ptr model = load_model(path->string());
  const Rope right = infinipot::plain_rope(64, 100000, Pairing::interleaved);
  const Rope found = measured(*model, GGML_TYPE_F32);
  RecordProperty("error", std::to_string(1e9 * rope_error(found, right)) + "e-9");
  EXPECT_EQ(found.pairing, Pairing::interleaved);
  EXPECT_LT(rope_error(found, right), slope_error(sums));
}

}  // namespace
}  // namespace llama_cpp
