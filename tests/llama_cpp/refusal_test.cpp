// Models that llama.cpp can load, but whose caches cannot be pots.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache_type.hpp"
#include "cell_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using test::TemporaryModel;
using test::with_head_norms;

/// What CellPot says of a context of a model.
std::string refusal_of(const std::vector<std::byte>& file) {
  keep_quiet();
  const TemporaryModel temporary(file);
  const llama_model_ptr model = load_model(temporary.path());
  GraphTap tap;
  const llama_context_ptr context = make_context(*model, tap, {.cells = 48, .flash_attention = false});
  try {
    CellPot(*context, 0, 48);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CellPotRefuses, NoModelThatItCanServe) {
  EXPECT_EQ(refusal_of(test::tiny_file(test::tiny_llama())), "accepted");
}

TEST(CellPotRefuses, PositionsThatCannotBeShifted) {
  EXPECT_EQ(
      refusal_of(test::tiny_mrope_file()),
      "llama.cpp pot: the context's cache cannot shift positions (llama_memory_can_shift), which closing "
      "gaps needs");
}

TEST(CellPotRefuses, SlidingWindows) {
  EXPECT_EQ(refusal_of(test::tiny_sliding_window_file(16)),
            "llama.cpp pot: the model has layers with a sliding window of 16 tokens, which forget entries on "
            "their own");
}

TEST(CellPotRefuses, RecurrentMemories) {
  EXPECT_EQ(refusal_of(test::tiny_recurrent_file()),
            "llama.cpp pot: the model has a recurrent memory, from which no entries can be removed");
}

/// What making a context for a cache says, in one flash attention setting or the other.
std::string refusal_of(const smollm2::test::TinyLlama& tiny, ggml_type type, bool flash_attention) {
  keep_quiet();
  const TemporaryModel temporary(test::tiny_file(tiny));
  const llama_model_ptr model = load_model(temporary.path());
  GraphTap tap;
  try {
    const ContextSettings settings{.cells = 48, .cache_type = type, .flash_attention = flash_attention};
    const llama_context_ptr context = make_context(*model, tap, settings);
    CellPot pot(*context, 0, 48);
    Engine engine(tap, pot);
    infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 24, .chunk = 16});
    reader.feed(std::vector<infinipot::Token>(100, 7));
    for (const float logit : reader.logits()) EXPECT_TRUE(std::isfinite(logit));
  } catch (const std::exception& error) {
    return error.what();
  }
  return "accepted";
}

constexpr ggml_type quantised[] = {GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0,
                                   GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL};

// llama.cpp aborts, crashes or computes NaN with some of these, in one setting or the other.
TEST(ContextRefuses, QuantisedHeadsThatAreNoMultipleOf64) {
  for (const std::size_t head_dim : {6U, 16U, 32U, 48U, 80U, 96U})
    for (const ggml_type type : quantised)
      for (const bool flash_attention : {true, false})
        EXPECT_EQ(refusal_of(test::tiny_llama_of(1, 2, 1, head_dim), type, flash_attention),
                  "llama.cpp cannot move keys of type " + std::string(ggml_type_name(type)) +
                      ", which closing gaps needs: heads of this model have " + std::to_string(head_dim) +
                      " numbers, which is no multiple of 64; use f16 or f32");
}

TEST(ContextRefuses, NoTypeThatItsPotsCanUse) {
  for (const bool flash_attention : {true, false}) {
    for (const std::size_t head_dim : {64U, 128U})
      for (const ggml_type type : quantised)
        EXPECT_EQ(refusal_of(test::tiny_llama_of(1, 2, 1, head_dim), type, flash_attention), "accepted")
            << ggml_type_name(type) << " " << head_dim << " " << flash_attention;
    for (const std::size_t head_dim : {6U, 16U, 80U})
      for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16})
        EXPECT_EQ(refusal_of(test::tiny_llama_of(1, 2, 1, head_dim), type, flash_attention), "accepted");
  }
}

TEST(ContextRefuses, OtherTypesThatCannotBeMoved) {
  EXPECT_EQ(
      refusal_of(test::tiny_llama_of(1, 2, 1, 64), GGML_TYPE_BF16, true),
      "llama.cpp cannot move keys of type bf16, which closing gaps needs: its K-shift does not know that "
      "type; use f16 or f32");
  EXPECT_EQ(refusal_of(test::tiny_llama_of(1, 2, 1, 64), GGML_TYPE_Q4_K, true),
            "llama.cpp cannot move keys of type q4_K, which closing gaps needs: heads of this model have 64 "
            "numbers, which is no multiple of 256; use f16 or f32");
}

TEST(ContextRefuses, QuantisedHeadsOfWhichRopeTurnsAPart) {
  keep_quiet();
  const smollm2::test::TinyLlama tiny = test::tiny_llama_of(1, 2, 1, 128);
  const TemporaryModel temporary(
      test::tiny_file_of(
          "qwen3", with_head_norms(tiny),
          {{"attention.key_length", 128}, {"attention.value_length", 128}, {"rope.dimension_count", 64}})
          .build());
  const llama_model_ptr model = load_model(temporary.path());
  try {
    check_key_type(*model, GGML_TYPE_Q8_0);
    FAIL() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("RoPE turns 64 of this model's 128 numbers per head, not all"),
              std::string::npos)
        << error.what();
  }
}

/// What an engine says of a context that its user made.
std::string refusal_by_engine(std::size_t head_dim, ggml_type type, bool flash_attention) {
  keep_quiet();
  const TemporaryModel temporary(test::tiny_file(test::tiny_llama_of(1, 2, 1, head_dim)));
  const llama_model_ptr model = load_model(temporary.path());
  GraphTap tap;
  llama_context_params parameters =
      context_parameters({.cells = 48, .cache_type = type, .flash_attention = flash_attention});
  tap.install(parameters);
  const llama_context_ptr context(llama_init_from_model(model.get(), parameters));
  if (context == nullptr) return "no context";
  CellPot pot(*context, 0, 48);
  try {
    const Engine engine(tap, pot);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

TEST(EngineRefuses, KeysThatCannotBeMovedInContextsOfOthers) {
  for (const bool flash_attention : {true, false}) {
    for (const std::size_t head_dim : {32U, 96U})
      EXPECT_NE(
          refusal_by_engine(head_dim, GGML_TYPE_Q8_0, flash_attention).find("which is no multiple of 64"),
          std::string::npos);
    EXPECT_NE(refusal_by_engine(64, GGML_TYPE_BF16, flash_attention).find("its K-shift does not know"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace llama_cpp
