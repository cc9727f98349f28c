#include "llama_config.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "llama_weights.hpp"
#include "tiny_llama.hpp"

namespace smollm2 {
namespace {

using test::GgufWriter;
using test::TinyLlama;

std::string load_error(const GgufWriter& writer) {
  const std::vector<std::byte> bytes = writer.build();
  ThreadPool pool(2);
  try {
    LlamaWeights weights(GgufFile(bytes, "tiny.gguf"), pool);
  } catch (const GgufError& error) {
    return error.what();
  }
  return "no error";
}

TEST(LlamaConfig, ReadsTheMetadata) {
  const std::vector<std::byte> bytes = TinyLlama().file().build();
  const LlamaConfig config = LlamaConfig::from(GgufFile(bytes, "tiny.gguf"));
  EXPECT_EQ(config.shape(), (infinipot::Shape{2, 4, 2, 6}));
  EXPECT_EQ(config.vocab_size, 53U);
  EXPECT_EQ(config.context_length, 512U);
  EXPECT_EQ(config.rope().pairing, infinipot::Pairing::interleaved);
  EXPECT_EQ(config.rope().frequencies, (std::vector<double>{1, 0.1}));
}

struct BadNumber {
  const char* name;
  std::uint32_t value;
  const char* message;
};

class BadMetadata : public testing::TestWithParam<BadNumber> {};

TEST_P(BadMetadata, NamesKeyValueAndRange) {
  const auto& [name, value, message] = GetParam();
  EXPECT_EQ(load_error(TinyLlama().file({{name, value}})),
            "tiny.gguf: metadata key 'llama." + std::string(name) + "' is " + std::to_string(value) +
                ", but must be " + message);
}

INSTANTIATE_TEST_SUITE_P(
    LlamaConfig, BadMetadata,
    testing::Values(
        BadNumber{"block_count", 0, "in 1 .. 1024"}, BadNumber{"block_count", 1025, "in 1 .. 1024"},
        BadNumber{"embedding_length", 0, "in 1 .. 65536"},
        BadNumber{"embedding_length", 4294967295, "in 1 .. 65536"},
        BadNumber{"feed_forward_length", 0, "in 1 .. 1048576"},
        BadNumber{"context_length", 0, "in 1 .. 1073741824"}, BadNumber{"vocab_size", 0, "in 1 .. 16777216"},
        BadNumber{"attention.head_count", 0, "in 1 .. 1024"},
        BadNumber{"attention.head_count", 5, "a divisor of embedding_length 24"},
        BadNumber{"attention.head_count_kv", 0, "in 1 .. 1024"},
        BadNumber{"attention.head_count_kv", 3, "a divisor of head_count 4"},
        BadNumber{"attention.key_length", 8, "embedding_length / head_count = 6"},
        BadNumber{"attention.value_length", 7, "embedding_length / head_count = 6"},
        BadNumber{"rope.dimension_count", 8, "in 1 .. 6"}, BadNumber{"rope.dimension_count", 3, "even"}));

TEST(LlamaConfig, RefusesOtherArchitectures) {
  GgufWriter writer;
  writer.string("general.architecture", "qwen2");
  EXPECT_EQ(load_error(writer),
            "tiny.gguf: metadata key 'general.architecture' is 'qwen2', but must be 'llama'");
}

TEST(LlamaConfig, RefusesFeaturesThatItLacks) {
  EXPECT_NE(load_error(TinyLlama().file({{"expert_count", 2}})).find("mixtures of experts"),
            std::string::npos);
  TinyLlama biased;
  biased.add("blk.0.attn_q.bias", 1, 24);
  EXPECT_EQ(load_error(biased.file()), "tiny.gguf: tensor 'blk.0.attn_q.bias' is not supported");
}

TEST(LlamaConfig, RefusesNumbersThatAreNone) {
  TinyLlama model;
  model.theta = -1;
  EXPECT_NE(load_error(model.file()).find("rope.freq_base' is -1, but must be above 0"), std::string::npos);
  model.theta = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(load_error(model.file()).find("rope.freq_base"), std::string::npos);
  model.theta = 100;
  model.epsilon = std::numeric_limits<float>::infinity();
  EXPECT_NE(load_error(model.file()).find("layer_norm_rms_epsilon' is inf"), std::string::npos);
}

TEST(LlamaWeights, NamesATensorOfTheWrongShape) {
  for (const auto& [name, numbers] : TinyLlama().tensors) {
    TinyLlama model;
    model.dims[name] = {12, numbers.size() / 12};
    if (name == "token_embd.weight") continue;  // its rows are the vocabulary
    EXPECT_NE(load_error(model.file()).find("tensor '" + name + "': shape"), std::string::npos) << name;
  }
}

TEST(LlamaWeights, NamesAMissingTensor) {
  for (const auto& [name, numbers] : TinyLlama().tensors) {
    TinyLlama model;
    model.tensors.erase(name);
    EXPECT_NE(load_error(model.file()).find("tensor '" + name + "'"), std::string::npos) << name;
  }
}

TEST(LlamaWeights, NamesATensorOfAnUnknownType) {
  TinyLlama model;
  model.tensors.erase("blk.1.ffn_up.weight");
  GgufWriter writer = model.file();
  constexpr std::uint32_t f64 = 28;
  writer.tensor("blk.1.ffn_up.weight", static_cast<GgmlType>(f64), {24, 37},
                std::vector<std::byte>(24 * 37 * 8));
  EXPECT_NE(load_error(writer).find("tensor 'blk.1.ffn_up.weight'"), std::string::npos) << load_error(writer);
}

}  // namespace
}  // namespace smollm2
