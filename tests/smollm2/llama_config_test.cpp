#include "llama_config.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <map>
#include <sstream>
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
  EXPECT_EQ(config.rope(512).pairing, infinipot::Pairing::interleaved);
  EXPECT_EQ(config.rope(512).frequencies, (std::vector<double>{1, 0.1}));
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
        BadNumber{"attention.key_length", 0, "in 1 .. 65536"},
        BadNumber{"attention.value_length", 7, "that of keys, 6; infinipot-llama runs what llama.cpp can"},
        BadNumber{"rope.dimension_count", 8, "in 1 .. 6"}, BadNumber{"rope.dimension_count", 3, "even"}));

TEST(LlamaConfig, RefusesOtherArchitectures) {
  GgufWriter writer;
  writer.string("general.architecture", "phi3");
  EXPECT_EQ(
      load_error(writer),
      "tiny.gguf: metadata key 'general.architecture' is 'phi3', but must be 'llama', 'qwen2' or 'qwen3'; "
      "infinipot-llama runs what llama.cpp can");
}

TEST(LlamaConfig, HeadsMayBeOfAnotherWidthThanTheEmbeddingsShare) {
  const std::vector<std::byte> bytes = TinyLlama().file({{"attention.key_length", 8}}).build();
  EXPECT_EQ(LlamaConfig::from(GgufFile(bytes, "tiny.gguf")).head_dim, 8U);
  EXPECT_EQ(load_error(TinyLlama().file({{"attention.key_length", 8}})),
            "tiny.gguf: tensor 'blk.0.attn_q.weight': shape 24 x 24, but the metadata asks for 32 x 24");
}

struct Key {
  const char* name;
  float changing;  ///< a value that would change results
  float neutral;   ///< one that does not
};

class ForeignKey : public testing::TestWithParam<Key> {};

TEST_P(ForeignKey, IsRefusedByNameUnlessItChangesNothing) {
  const auto& [name, changing, neutral] = GetParam();
  const std::string key = "llama." + std::string(name);
  const auto error = [&](float value) { return load_error(TinyLlama().file().f32(key, value)); };
  EXPECT_EQ(error(neutral), "no error");
  std::ostringstream wanted;
  wanted << "tiny.gguf: metadata key '" << key << "' is " << changing << ", but this engine computes "
         << neutral << " only; infinipot-llama runs what llama.cpp can";
  EXPECT_EQ(error(changing), wanted.str());
  EXPECT_NE(error(std::numeric_limits<float>::quiet_NaN()).find(key), std::string::npos);
  EXPECT_EQ(load_error(TinyLlama().file().string(key, "yes")),
            "tiny.gguf: metadata key '" + key + "': wanted " + std::to_string(static_cast<int>(neutral)) +
                ", found string");
}

INSTANTIATE_TEST_SUITE_P(
    LlamaConfig, ForeignKey,
    testing::Values(Key{"rope.scaling.alpha", 2, 0}, Key{"rope.scaling.yarn_beta_fast", 64, 32},
                    Key{"rope.scaling.yarn_beta_slow", 2, 1}, Key{"rope.scaling.yarn_ext_factor", 0, 1},
                    Key{"rope.scaling.yarn_log_multiplier", 1, 0}, Key{"attention.scale", 0.5F, 0},
                    Key{"attention.causal", 0, 1}, Key{"attention.clamp_kqv", 8, 0},
                    Key{"attention.max_alibi_bias", 8, 0}, Key{"attention.sliding_window", 4096, 0},
                    Key{"attn_logit_softcapping", 50, 0}, Key{"final_logit_softcapping", 30, 0},
                    Key{"logit_scale", 0.5F, 1}, Key{"residual_scale", 0.25F, 1},
                    Key{"embedding_scale", 12, 1}, Key{"expert_count", 8, 0}, Key{"expert_used_count", 2, 0},
                    Key{"expert_shared_count", 1, 0}, Key{"nextn_predict_layers", 1, 0},
                    Key{"use_parallel_residual", 1, 0}));

TEST(LlamaConfig, RefusesAKeyThatItDoesNotKnow) {
  for (const char* name :
       {"rope.scaling.yarn_attn_factor", "rope.freq_base_swa", "rope.dimension_count_swa",
        "rope.dimension_sections", "rope.scaling.mystery", "rope.", "attention.temperature_scale", "mystery"})
    EXPECT_EQ(load_error(TinyLlama().file().f32("llama." + std::string(name), 1)),
              "tiny.gguf: metadata key 'llama." + std::string(name) +
                  "' is not known to this engine; infinipot-llama runs what llama.cpp can");
}

TEST(LlamaConfig, PassesOverKeysThatAreNoneOfItsBusiness) {
  GgufWriter writer = TinyLlama().file();
  writer.u32("general.quantization_version", 2)
      .string("tokenizer.ggml.pre", "smollm")
      .u32("quantize.imatrix", 1);
  writer.u32("qwen2.rope.mystery", 1).u32("llama2.mystery", 1);
  writer.u32("llama.pooling_type", 1).string("llama.tensor_data_layout", "Meta AI original pth");
  writer.u32("llama.rope.scaling.finetuned", 1).f32("llama.attention.layer_norm_epsilon", 1e-5F);
  EXPECT_EQ(load_error(writer), "no error");
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

std::string unknown(const std::string& tensor) {
  return "tiny.gguf: tensor '" + tensor +
         "' is not known to this engine; infinipot-llama runs what llama.cpp can";
}

class ForeignTensor : public testing::TestWithParam<const char*> {};

TEST_P(ForeignTensor, IsRefusedByName) {
  TinyLlama model;
  model.add(GetParam(), 1, model.embedding);
  EXPECT_EQ(load_error(model.file()), unknown(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(
    LlamaWeights, ForeignTensor,
    testing::Values("output.bias", "output_norm.bias", "token_embd_norm.weight", "position_embd.weight",
                    "blk.1.attn_norm.bias", "blk.1.ffn_norm.bias", "blk.1.ffn_gate.bias", "blk.0.ffn_up.bias",
                    "blk.1.ffn_down.bias", "blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight",
                    "blk.1.post_attention_norm.weight", "blk.0.rope_freqs.weight", "blk.1.attn_qkv.weight",
                    "blk.0.attn_sinks.weight", "blk.1.ffn_gate_exps.weight", "blk.0.attn_q.scale",
                    "blk.x.bias", "blk.", "blk.1", "blk.99999999999999999999.attn_norm.weight", "mystery"));

TEST(LlamaWeights, WantsTheNormsOfHeadsOfQwen3Alone) {
  TinyLlama model;
  for (std::size_t layer = 0; layer < model.layers; ++layer)
    model.add(model.prefix(layer) + "attn_q_norm.weight", 1, model.head_dim());
  EXPECT_EQ(load_error(model.file()), unknown("blk.0.attn_q_norm.weight"));
  model.architecture = "qwen3";
  EXPECT_EQ(load_error(model.file()),
            "tiny.gguf: tensor 'blk.0.attn_k_norm.weight': the file has no such tensor");
  for (std::size_t layer = 0; layer < model.layers; ++layer)
    model.add(model.prefix(layer) + "attn_k_norm.weight", 1, model.head_dim());
  EXPECT_EQ(load_error(model.file()), "no error");
  model.architecture = "qwen2";
  EXPECT_EQ(load_error(model.file()), unknown("blk.0.attn_k_norm.weight"));
}

TEST(LlamaWeights, NamesABiasOfTheWrongShape) {
  for (const auto& [name, size] : std::map<std::string, std::size_t>{
           {"attn_q.bias", 24}, {"attn_k.bias", 12}, {"attn_v.bias", 12}, {"attn_output.bias", 24}}) {
    TinyLlama model;
    model.add("blk.1." + name, 1, size);
    EXPECT_EQ(load_error(model.file()), "no error") << name;
    model.dims["blk.1." + name] = {size / 2, 2};
    EXPECT_NE(load_error(model.file()).find("tensor 'blk.1." + name + "': shape 2 x "), std::string::npos);
  }
}

TEST(LlamaWeights, CountsBlocks) {
  const auto error = [](std::uint32_t count) {
    return load_error(TinyLlama().file({{"block_count", count}}));
  };
  EXPECT_EQ(error(1),
            "tiny.gguf: metadata key 'llama.block_count' is 1, but the file has tensors of block 1");
  EXPECT_EQ(error(2), "no error");
  EXPECT_EQ(error(3),
            "tiny.gguf: metadata key 'llama.block_count' is 3, but the file has no tensor of block 2");
  TinyLlama gap;
  for (const char* name : {"blk.7.attn_q.bias", "blk.07.attn_q.bias"}) {
    gap.add(name, 1, 24);
    EXPECT_EQ(load_error(gap.file()),
              "tiny.gguf: metadata key 'llama.block_count' is 2, but the file has tensors of block 7");
    gap.tensors.erase(name);
  }
  gap.add("blk.01.attn_q.bias", 1, 24);
  EXPECT_EQ(load_error(gap.file()), unknown("blk.01.attn_q.bias"));
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
