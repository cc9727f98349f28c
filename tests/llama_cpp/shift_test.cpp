// An engine refuses models whose keys llama.cpp moves wrongly, and no others.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cell_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "model.hpp"
#include "smollm2/test_files.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using smollm2::test::GgufWriter;
using smollm2::test::TinyLlama;
using test::TemporaryModel;
using test::with_head_norms;

struct Kind {
  std::string name;
  std::function<std::vector<std::byte>(const TinyLlama&)> file;
};

std::vector<std::byte> scaled(const TinyLlama& model, const std::string& type,
                              const std::function<void(GgufWriter&)>& more) {
  GgufWriter writer = test::tiny_writer(model);
  writer.string("llama.rope.scaling.type", type);
  more(writer);
  return writer.build();
}

Kind yarn(const std::string& name, float factor) {
  return {name, [factor](const TinyLlama& model) {
            return scaled(model, "yarn", [factor](GgufWriter& writer) {
              writer.f32("llama.rope.scaling.factor", factor)
                  .u32("llama.rope.scaling.original_context_length", 128);
            });
          }};
}

Kind attention_factor(const std::string& name, float factor) {
  return {name, [factor](const TinyLlama& model) {
            return scaled(model, "longrope", [factor](GgufWriter& writer) {
              writer.f32("llama.rope.scaling.attn_factor", factor);
            });
          }};
}

TinyLlama with_biases(TinyLlama model) {
  for (std::size_t layer = 0; layer < model.layers; ++layer) {
    model.add(model.prefix(layer) + "attn_q.bias", 1, model.embedding);
    for (const char* name : {"attn_k.bias", "attn_v.bias"})
      model.add(model.prefix(layer) + name, 1, model.kv_heads * model.head_dim());
  }
  return model;
}

const std::vector<Kind> right{
    {"Llama", [](const TinyLlama& model) { return test::tiny_file(model); }},
    {"LlamaLinear",
     [](const TinyLlama& model) {
       return scaled(model, "linear", [](GgufWriter& writer) { writer.f32("llama.rope.scaling.factor", 4); });
     }},
    {"LlamaWithRopeFactors",
     [](TinyLlama model) {
       std::vector<float>& factors = model.tensors["rope_freqs.weight"];
       for (std::size_t i = 0; i < model.head_dim() / 2; ++i)
         factors.push_back(1 + static_cast<float>(i % 8));
       model.dims["rope_freqs.weight"] = {factors.size()};
       return test::tiny_file(model);
     }},
    {"Qwen2", [](const TinyLlama& model) { return test::tiny_file_of("qwen2", with_biases(model)).build(); }},
    {"Qwen3",
     [](const TinyLlama& model) {
       const std::size_t width = model.head_dim();
       return test::tiny_file_of("qwen3", with_head_norms(model),
                                 {{"attention.key_length", width}, {"attention.value_length", width}})
           .build();
     }},
};

const std::vector<Kind> wrong_length{
    yarn("YarnTimes4", 4),
    yarn("YarnTimes1_2", 1.2F),
    attention_factor("AttentionFactor1_2", 1.2F),
    attention_factor("AttentionFactor0_9", 0.9F),
};

// Every fourth layer has no RoPE.
const Kind smollm3{"SmolLm3",
                   [](const TinyLlama& model) { return test::tiny_file_of("smollm3", model).build(); }};

struct Cache {
  ggml_type type;
  bool flash_attention;
};

std::vector<Cache> caches_of(std::size_t head_dim) {
  std::vector<Cache> caches{{GGML_TYPE_F32, true}, {GGML_TYPE_F16, true}, {GGML_TYPE_F16, false}};
  if (head_dim % 64 == 0)
    for (const ggml_type type : {GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL})
      caches.push_back({type, true});
  if (head_dim % 64 == 0) caches.push_back({GGML_TYPE_Q8_0, false});
  return caches;
}

/// With heads of 6 and of 64 numbers.
std::vector<TinyLlama> models() {
  std::vector<TinyLlama> models;
  models.push_back(test::tiny_llama());
  models.push_back(test::tiny_llama_of(4, 4, 2, 64));
  return models;
}

/// What making an engine says of a model's file in a cache.
std::string verdict(const std::string& path, const Cache& cache) {
  keep_quiet();
  const llama_model_ptr model = load_model(path);
  GraphTap tap;
  const llama_context_ptr context = make_context(
      *model, tap, {.cells = 48, .cache_type = cache.type, .flash_attention = cache.flash_attention});
  CellPot pot(*context, 0, 48);
  const auto empty = [&] { return llama_memory_seq_pos_max(llama_get_memory(context.get()), 0) < 0; };
  try {
    const Engine engine(tap, pot);
    EXPECT_TRUE(empty());
  } catch (const std::invalid_argument& error) {
    EXPECT_TRUE(empty());
    // Trying again makes it no better.
    EXPECT_THROW(Engine(tap, pot), std::invalid_argument);
    return error.what();
  }
  return "accepted";
}

template <class Check>
void for_all_caches(const Kind& kind, const TinyLlama& model, const Check& check) {
  const TemporaryModel file(kind.file(model), "shift");
  for (const Cache& cache : caches_of(model.head_dim())) {
    SCOPED_TRACE(kind.name + ", heads of " + std::to_string(model.head_dim()) + ", " +
                 ggml_type_name(cache.type) + (cache.flash_attention ? ", flash" : ""));
    check(verdict(file.path(), cache));
  }
}

TEST(Shift, ThatIsRightIsAccepted) {
  for (const TinyLlama& model : models())
    for (const Kind& kind : right)
      for_all_caches(kind, model, [](const std::string& said) { EXPECT_EQ(said, "accepted"); });
}

TEST(Shift, OfTheRealModelIsAccepted) {
  const auto path = smollm2::test::model_path();
  if (!path) GTEST_SKIP() << smollm2::test::no_model;
  for (const Cache& cache : caches_of(64))
    EXPECT_EQ(verdict(path->string(), cache), "accepted") << ggml_type_name(cache.type);
}

void expect_parts(const std::string& said, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(said.find(part), std::string::npos) << said;
}

TEST(Shift, ThatMultipliesKeysIsRefused) {
  for (const TinyLlama& model : models())
    for (const Kind& kind : wrong_length)
      for_all_caches(kind, model, [](const std::string& said) {
        expect_parts(said,
                     {"llama.cpp moves this model's keys wrongly (K-shift): each move multiplies them by ",
                      "(YaRN, LongRoPE)"});
      });
}

TEST(Shift, ThatTurnsLayersWithoutRopeIsRefused) {
  for (const TinyLlama& model : models()) {
    if (model.layers < 4) continue;
    for_all_caches(smollm3, model, [](const std::string& said) {
      expect_parts(said, {"they get a wrong direction", "those of layer 3 differ by "});
    });
  }
}

TEST(Shift, OfOtherSequencesIsNotTriedOut) {
  keep_quiet();
  const TemporaryModel file(yarn("", 4).file(test::tiny_llama()), "shift");
  const llama_model_ptr model = load_model(file.path());
  GraphTap tap;
  const llama_context_ptr context = make_context(*model, tap, {.cells = 48, .sequences = 2});
  CellPot pot(*context, 0, 48);
  llama_token token = 1;
  llama_seq_id second = 1;
  llama_seq_id* sequence = &second;
  std::int32_t one = 1;
  llama_pos position = 0;
  std::int8_t wanted = 1;
  ASSERT_EQ(llama_decode(context.get(), {1, &token, nullptr, &position, &one, &sequence, &wanted}), 0);
  const auto state = [&] {
    std::vector<std::uint8_t> bytes(llama_state_seq_get_size(context.get(), 1));
    bytes.resize(llama_state_seq_get_data(context.get(), bytes.data(), bytes.size(), 1));
    return bytes;
  };
  const std::vector<std::uint8_t> before = state();
  try {
    const Engine engine(tap, pot);
    ADD_FAILURE() << "accepted";
  } catch (const std::invalid_argument& error) {
    expect_parts(error.what(), {"sequence 1 holds", "make the engine before anything is decoded"});
  }
  EXPECT_EQ(state(), before);
}

}  // namespace
}  // namespace llama_cpp
