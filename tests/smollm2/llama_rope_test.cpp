// RoPE as a file's metadata and tensors ask for it.
#include "llama_rope.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gguf.hpp"
#include "infinipot/rope/rope_scaling.hpp"
#include "llama_config.hpp"
#include "tiny_llama.hpp"

namespace smollm2 {
namespace {

using infinipot::Pairing;
using infinipot::Rope;
using test::GgufWriter;
using test::TinyLlama;

constexpr std::size_t rotary_dim = 6, context_length = 512;
constexpr double theta = 100;

using Change = std::function<void(GgufWriter&)>;

void add_divisors(GgufWriter& writer, const char* name, const std::vector<float>& numbers) {
  writer.tensor(name, GgmlType::f32, {numbers.size()}, std::as_bytes(std::span(numbers)));
}

LlamaConfig config_of(const Change& change) {
  GgufWriter writer = TinyLlama().file({{"rope.dimension_count", rotary_dim}});
  change(writer);
  const std::vector<std::byte> bytes = writer.build();
  return LlamaConfig::from(GgufFile(bytes, "tiny.gguf"));
}

Rope rope_of(const Change& change, std::size_t context = 100) { return config_of(change).rope(context); }

std::string error_of(const Change& change) {
  try {
    config_of(change);
  } catch (const GgufError& error) {
    return error.what();
  }
  return "no error";
}

void expect_rope(const Rope& found, const Rope& wanted) {
  EXPECT_EQ(found.pairing, Pairing::interleaved);
  ASSERT_EQ(found.frequencies.size(), wanted.frequencies.size());
  for (std::size_t i = 0; i < wanted.frequencies.size(); ++i)
    EXPECT_NEAR(found.frequencies[i], wanted.frequencies[i], 1e-15) << "pair " << i;
  EXPECT_NEAR(found.attention_factor, wanted.attention_factor, 1e-15);
}

Rope times(Rope rope, double attention_factor) {
  rope.attention_factor *= attention_factor;
  return rope;
}

const Rope plain = infinipot::plain_rope(rotary_dim, theta);
const Rope quarter = infinipot::linear_rope(rotary_dim, theta, {4});

TEST(LlamaRope, IsPlainWithoutScaling) {
  expect_rope(rope_of([](GgufWriter&) {}), plain);
  expect_rope(rope_of([](GgufWriter& w) { w.string("llama.rope.scaling.type", "linear"); }), plain);
  expect_rope(rope_of([](GgufWriter& w) { w.f32("llama.rope.scaling.factor", 0); }), plain);
  expect_rope(rope_of([](GgufWriter& w) {
                w.string("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4);
              }),
              plain);
}

TEST(LlamaRope, IsLinearWithAFactorAlone) {
  expect_rope(rope_of([](GgufWriter& w) { w.f32("llama.rope.scaling.factor", 4); }), quarter);
  expect_rope(rope_of([](GgufWriter& w) { w.f32("llama.rope.scale_linear", 4); }), quarter);
  expect_rope(
      rope_of([](GgufWriter& w) { w.f32("llama.rope.scale_linear", 2).f32("llama.rope.scaling.factor", 4); }),
      quarter);
}

TEST(LlamaRope, TakesTheAttentionFactorWithEveryScaling) {
  const auto attention = [](GgufWriter& w) { w.f32("llama.rope.scaling.attn_factor", 1.25F); };
  expect_rope(rope_of(attention), times(plain, 1.25));
  expect_rope(rope_of([&](GgufWriter& w) {
                attention(w);
                w.f32("llama.rope.scaling.factor", 4);
              }),
              times(quarter, 1.25));
  // With YaRN it comes on top of the factor that YaRN derives.
  expect_rope(rope_of([&](GgufWriter& w) {
                attention(w);
                w.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
              }),
              times(infinipot::yarn_rope(rotary_dim, theta,
                                         {.factor = 4,
                                          .original_context = context_length,
                                          .attention_factor = 0.1 * std::log(4.0) + 1}),
                    1.25));
}

TEST(LlamaRope, TakesYarnsTrainedContext) {
  const auto yarn = [](GgufWriter& w) {
    w.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 8);
    w.u32("llama.rope.scaling.original_context_length", 40);
  };
  expect_rope(rope_of(yarn), infinipot::yarn_rope(rotary_dim, theta, {.factor = 8, .original_context = 40}));
}

TEST(LlamaRope, DividesByLlama3sTensor) {
  const auto divisors = [](GgufWriter& w) { add_divisors(w, "rope_freqs.weight", {1, 2, 8}); };
  Rope wanted = plain;
  wanted.frequencies[1] /= 2;
  wanted.frequencies[2] /= 8;
  expect_rope(rope_of(divisors), wanted);
  for (double& frequency : wanted.frequencies) frequency /= 4;
  expect_rope(rope_of([&](GgufWriter& w) {
                divisors(w);
                w.f32("llama.rope.scaling.factor", 4);
              }),
              wanted);
}

Change long_rope(std::vector<float> shorter, std::vector<float> longer) {
  return [=](GgufWriter& w) {
    w.string("llama.rope.scaling.type", "longrope").f32("llama.rope.scaling.attn_factor", 1.25F);
    w.u32("llama.rope.scaling.original_context_length", 64);
    if (!shorter.empty()) add_divisors(w, "rope_factors_short.weight", shorter);
    if (!longer.empty()) add_divisors(w, "rope_factors_long.weight", longer);
  };
}

TEST(LlamaRope, ChoosesLongRopesTensorByTheRoom) {
  const LlamaConfig config = config_of(long_rope({1, 1.5F, 2}, {1, 3, 9}));
  const auto wanted = [](std::vector<double> factors) {
    return infinipot::long_rope(rotary_dim, theta, {.factors = std::move(factors), .attention_factor = 1.25});
  };
  expect_rope(config.rope(1), wanted({1, 1.5, 2}));
  expect_rope(config.rope(64), wanted({1, 1.5, 2}));
  expect_rope(config.rope(65), wanted({1, 3, 9}));
}

TEST(LlamaRope, NamesATensorThatIsMissingOrHasNoUse) {
  EXPECT_EQ(error_of(long_rope({1, 1, 1}, {})),
            "tiny.gguf: tensor 'rope_factors_long.weight': the file has no such tensor");
  EXPECT_EQ(error_of(long_rope({}, {1, 1, 1})),
            "tiny.gguf: tensor 'rope_factors_short.weight': the file has no such tensor");
  EXPECT_EQ(error_of([](GgufWriter& w) {
              add_divisors(w, "rope_factors_long.weight", {1, 1, 1});
            }),
            "tiny.gguf: tensor 'rope_factors_long.weight' does not go with RoPE scaling of type 'linear'; "
            "infinipot-llama runs what llama.cpp can");
  EXPECT_EQ(error_of([](GgufWriter& w) {
              long_rope({1, 1, 1}, {1, 1, 1})(w);
              add_divisors(w, "rope_freqs.weight", {1, 1, 1});
            }),
            "tiny.gguf: tensor 'rope_freqs.weight' does not go with RoPE scaling of type 'longrope'; "
            "infinipot-llama runs what llama.cpp can");
}

TEST(LlamaRope, NamesATensorThatIsNoTableOfDivisors) {
  const auto error = [](const std::vector<float>& numbers) {
    return error_of([&](GgufWriter& w) { add_divisors(w, "rope_freqs.weight", numbers); });
  };
  EXPECT_EQ(error({1, 2}), "tiny.gguf: tensor 'rope_freqs.weight': shape 1 x 2, but RoPE turns 3 pairs");
  EXPECT_EQ(error({1, 0, 1}), "tiny.gguf: tensor 'rope_freqs.weight': divisor 0 is not a positive number");
  for (const float bad :
       {-1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    EXPECT_NE(error({1, 1, bad}).find("is not a positive number"), std::string::npos) << bad;
  EXPECT_EQ(error_of([](GgufWriter& w) {
              w.tensor("rope_freqs.weight", GgmlType::f16, {3}, std::vector<std::byte>(6));
            }),
            "tiny.gguf: tensor 'rope_freqs.weight': its type must be F32");
}

TEST(LlamaRope, NamesAKeyOutOfRange) {
  const auto number = [](const char* key, float value) {
    return error_of([&](GgufWriter& w) { w.f32(std::string("llama.rope.") + key, value); });
  };
  EXPECT_EQ(number("scaling.factor", 0.5F),
            "tiny.gguf: metadata key 'llama.rope.scaling.factor' is 0.5, but must be 0 or at least 1");
  EXPECT_EQ(number("scale_linear", -1),
            "tiny.gguf: metadata key 'llama.rope.scale_linear' is -1, but must be 0 or at least 1");
  EXPECT_EQ(number("scaling.attn_factor", 0),
            "tiny.gguf: metadata key 'llama.rope.scaling.attn_factor' is 0, but must be above 0");
  for (const char* key : {"scaling.factor", "scale_linear", "scaling.attn_factor"})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      EXPECT_NE(number(key, bad).find(key), std::string::npos) << bad;
  EXPECT_EQ(
      error_of([](GgufWriter& w) { w.string("llama.rope.scaling.type", "su"); }),
      "tiny.gguf: metadata key 'llama.rope.scaling.type' is 'su', but must be 'none', 'linear', 'yarn' or "
      "'longrope'; infinipot-llama runs what llama.cpp can");
  EXPECT_EQ(error_of([](GgufWriter& w) {
              long_rope({1, 1, 1}, {1, 1, 1})(w);
              w.f32("llama.rope.scaling.factor", 4);
            }),
            "tiny.gguf: metadata key 'llama.rope.scaling.factor' is 4, but must be 1 where the type is "
            "'longrope'");
  EXPECT_EQ(error_of([](GgufWriter& w) { w.u32("llama.rope.scaling.original_context_length", 0); }),
            "tiny.gguf: metadata key 'llama.rope.scaling.original_context_length' is 0, but must be in 1 .. "
            "1073741824");
}

TEST(LlamaRope, PassesOnWhatTheLibraryRefuses) {
  TinyLlama model;
  model.theta = 1;
  GgufWriter writer = model.file();
  writer.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
  const std::vector<std::byte> bytes = writer.build();
  try {
    LlamaConfig::from(GgufFile(bytes, "tiny.gguf"));
    ADD_FAILURE() << "no error";
  } catch (const GgufError& error) {
    EXPECT_NE(std::string(error.what()).find("tiny.gguf: "), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("above 1 for YaRN"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace smollm2
