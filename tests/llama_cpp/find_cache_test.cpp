// Pots accept the caches that are what they take them for, whatever scales the model's RoPE, and no others.
#include "find_cache.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "sequence_batch.hpp"
#include "smollm2/test_files.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using infinipot::Pairing;
using infinipot::Rope;
using smollm2::test::GgufWriter;
using smollm2::test::TinyLlama;
using test::TemporaryModel;

std::vector<std::byte> scaled(const TinyLlama& model, const std::string& type,
                              const std::function<void(GgufWriter&)>& more) {
  GgufWriter writer = test::tiny_writer(model);
  writer.string("llama.rope.scaling.type", type);
  more(writer);
  return writer.build();
}

std::vector<std::byte> yarn(const TinyLlama& model) {
  return scaled(model, "yarn", [](GgufWriter& writer) {
    writer.f32("llama.rope.scaling.factor", 4).u32("llama.rope.scaling.original_context_length", 128);
  });
}

std::shared_ptr<const Cache> found_in(const std::vector<std::byte>& file, const ContextSettings& settings) {
  keep_quiet();
  const TemporaryModel path(file, "cache");
  const llama_model_ptr model = load_model(path.path());
  GraphTap tap;
  const llama_context_ptr context = make_context(*model, tap, settings);
  auto cache = find_cache(tap, *context, 0);
  EXPECT_LT(llama_memory_seq_pos_max(llama_get_memory(context.get()), 0), 0);
  return cache;
}

constexpr ContextSettings plain{.cells = 48, .cache_type = GGML_TYPE_F32, .flash_attention = false};

void expect_rope(const Rope& found, const Rope& right) {
  EXPECT_EQ(found.pairing, right.pairing);
  EXPECT_EQ(found.first_channel, right.first_channel);
  EXPECT_NEAR(found.attention_factor, right.attention_factor, 1e-6);
  ASSERT_EQ(found.frequencies.size(), right.frequencies.size());
  for (std::size_t i = 0; i < right.frequencies.size(); ++i)
    EXPECT_NEAR(found.frequencies[i], right.frequencies[i], 1e-6 * right.frequencies[i]) << i;
}

TEST(FindCache, KnowsTheRopeOfTheFile) {
  constexpr auto interleaved = Pairing::interleaved;
  const TinyLlama model = test::tiny_llama_of(2, 4, 2, 64);
  expect_rope(found_in(test::tiny_file(model), plain)->rope(), infinipot::plain_rope(64, 100, interleaved));
  expect_rope(found_in(scaled(model, "linear",
                              [](GgufWriter& writer) { writer.f32("llama.rope.scaling.factor", 4); }),
                       plain)
                  ->rope(),
              infinipot::linear_rope(64, 100, {4}, interleaved));
  expect_rope(found_in(yarn(model), plain)->rope(),
              infinipot::yarn_rope(64, 100, {.factor = 4, .original_context = 128}, interleaved));
  Rope longer = infinipot::plain_rope(64, 100, interleaved);
  longer.attention_factor = 1.2F;
  expect_rope(found_in(scaled(model, "longrope",
                              [](GgufWriter& writer) { writer.f32("llama.rope.scaling.attn_factor", 1.2F); }),
                       plain)
                  ->rope(),
              longer);
  expect_rope(found_in(test::tiny_mrope_file(), plain)->rope(), [] {
    Rope rope = infinipot::plain_rope(6, 10000);
    return rope;
  }());
}

TEST(FindCache, KnowsLayersWithoutRope) {
  const auto cache = found_in(test::tiny_file_of("smollm3", test::tiny_llama_of(4, 4, 2, 64)).build(), plain);
  EXPECT_EQ(cache->layers_without_rope(), (std::vector<std::size_t>{3}));
  EXPECT_EQ(cache->rope().frequencies.size(), 32U);
}

TEST(FindCache, KnowsHowRowsLie) {
  const std::vector<std::byte> file = test::tiny_file(test::tiny_llama_of(2, 4, 2, 128));
  const auto cache = [&](ggml_type type, bool flash, std::size_t sequences = 1) {
    return found_in(file,
                    {.cells = 48, .sequences = sequences, .cache_type = type, .flash_attention = flash});
  };
  EXPECT_TRUE(cache(GGML_TYPE_F16, false)->transposed());
  EXPECT_FALSE(cache(GGML_TYPE_F16, true)->transposed());
  EXPECT_EQ(cache(GGML_TYPE_F16, true)->keys().hadamard, 0U);
  const auto quantised = cache(GGML_TYPE_Q8_0, true);
  EXPECT_EQ(quantised->keys().hadamard, 128U);
  EXPECT_EQ(quantised->values().hadamard, 64U);
  EXPECT_EQ(quantised->bytes_per_token(), 2U * 2 * 2 * 136);
  EXPECT_TRUE(quantised->on_host());
  EXPECT_EQ(quantised->streams(), 1U);
  EXPECT_EQ(cache(GGML_TYPE_F16, true, 3)->streams(), 3U);
}

// Every type that llama.cpp can make a cache of, in every model above: what is stored, and what turns.
TEST(FindCache, AcceptsAllTypes) {
  for (const std::size_t head_dim : {6U, 32U, 64U, 96U, 128U}) {
    const TinyLlama model = test::tiny_llama_of(4, 4, 2, head_dim);
    for (const auto& file :
         {test::tiny_file(model), yarn(model), test::tiny_file_of("smollm3", model).build()})
      for (const ggml_type type :
           {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0,
            GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL})
        for (const bool flash : {true, false}) {
          if (head_dim % static_cast<std::size_t>(ggml_blck_size(type)) != 0) continue;
          SCOPED_TRACE(testing::Message()
                       << ggml_type_name(type) << (flash ? ", flash, " : ", ") << head_dim);
          EXPECT_NO_THROW(found_in(file, {.cells = 48, .cache_type = type, .flash_attention = flash}));
        }
  }
}

TEST(FindCache, AcceptsTheRealModel) {
  const auto path = smollm2::test::model_path();
  if (!path) GTEST_SKIP() << smollm2::test::no_model;
  keep_quiet();
  const llama_model_ptr model = load_model(path->string());
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
    GraphTap tap;
    const llama_context_ptr context = make_context(*model, tap, {.cells = 256, .cache_type = type});
    expect_rope(find_cache(tap, *context, 0)->rope(),
                infinipot::plain_rope(64, 100000, Pairing::interleaved));
  }
}

/// A model whose keys are normed once more after RoPE turned them, channel by channel, so that no rotation
/// relates those of two positions.
TEST(FindCache, RefusesKeysThatAreNoRotations) {
  TinyLlama model = test::with_head_norms(test::tiny_llama_of(2, 4, 2, 64));
  for (std::size_t layer = 0; layer < model.layers; ++layer) {
    std::vector<float>& norm = model.tensors[model.prefix(layer) + "attn_k_norm.weight"];
    for (std::size_t i = 0; i < norm.size(); ++i) norm[i] = i % 3 == 0 ? 0.5F : 2.0F;
  }
  try {
    found_in(test::tiny_file_of("hunyuan-dense", model).build(), plain);
    ADD_FAILURE() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("not those at position 0, turned as the model's RoPE says"),
              std::string::npos)
        << error.what();
  }
}

TEST(FindCache, LeavesOtherSequencesAlone) {
  keep_quiet();
  const TemporaryModel file(yarn(test::tiny_llama()), "cache");
  const llama_model_ptr model = load_model(file.path());
  GraphTap tap;
  const llama_context_ptr context = make_context(*model, tap, {.cells = 48, .sequences = 2});
  SequenceBatch other(*context, 1);
  other.decode(std::vector<llama_token>{1, 2, 3}, 0, 3);
  const auto state = [&] {
    std::vector<std::uint8_t> bytes(llama_state_seq_get_size(context.get(), 1));
    bytes.resize(llama_state_seq_get_data(context.get(), bytes.data(), bytes.size(), 1));
    return bytes;
  };
  const std::vector<std::uint8_t> before = state();
  find_cache(tap, *context, 0);
  EXPECT_EQ(state(), before);
  EXPECT_THROW(find_cache(tap, *context, 1), std::invalid_argument);
}

}  // namespace
}  // namespace llama_cpp
