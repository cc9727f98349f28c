// Models that llama.cpp can load, but whose caches cannot be pots.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "tiny_families.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using test::TemporaryModel;

/// What CachePot says of a context of a model.
std::string refusal_of(const std::vector<std::byte>& file, bool swa_full = true, bool k_shift = false) {
  keep_quiet();
  const TemporaryModel temporary(file);
  const llama_model_ptr model = load_model(temporary.path());
  GraphTap tap;
  llama_context_params parameters = context_parameters({.cells = 512, .batch = 16, .flash_attention = false});
  parameters.swa_full = swa_full;
  tap.install(parameters);
  const llama_context_ptr context(llama_init_from_model(model.get(), parameters));
  try {
    CachePot(tap, *context, 0, {.capacity = 48, .k_shift = k_shift});
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CachePotRefuses, NoModelThatItCanServe) {
  EXPECT_EQ(refusal_of(test::tiny_file(test::tiny_llama())), "accepted");
}

TEST(CachePotRefuses, NoPositionsThatLlamaCppCannotShift) {
  EXPECT_EQ(refusal_of(test::tiny_mrope_file()), "accepted");
}

// llama.cpp aborts the program there.
TEST(CachePotRefuses, ToHaveShiftedWhatCannotBe) {
  EXPECT_EQ(refusal_of(test::tiny_mrope_file(), true, true),
            "llama.cpp pot: llama.cpp cannot shift this model's keys, such as those of M-RoPE");
  EXPECT_EQ(refusal_of(test::tiny_sliding_window_file(16), true, true),
            "llama.cpp pot: where llama.cpp shifts, models with windows or recurrent layers cannot be read");
  EXPECT_EQ(refusal_of(test::tiny_file(test::tiny_llama()), true, true), "accepted");
}

TEST(CachePotRefuses, NoSlidingWindows) {
  EXPECT_EQ(refusal_of(test::tiny_sliding_window_file(16)), "accepted");
}

TEST(CachePotRefuses, ModelsOfRecurrentLayersAlone) {
  EXPECT_EQ(refusal_of(test::tiny_recurrent_file()),
            "llama.cpp pot: mamba models have recurrent layers alone, and no entries that a pot could hold");
}

TEST(CachePotRefuses, WindowsWithoutCellsForAllPositions) {
  EXPECT_EQ(refusal_of(test::tiny_gemma3().file, false),
            "llama.cpp pot: layers with a window of 24 tokens have 256 cells, the others 512; make the "
            "context with "
            "swa_full = true");
  EXPECT_EQ(refusal_of(test::tiny_gemma3().file), "accepted");
}

TEST(CachePotRefuses, ChunksAtFixedPositions) {
  const auto file = test::tiny_file_of("llama4", test::tiny_llama(),
                                       {{"interleave_moe_layer_step", 0},
                                        {"expert_count", 2},
                                        {"expert_used_count", 1},
                                        {"expert_feed_forward_length", 8}})
                        .build();
  EXPECT_EQ(
      refusal_of(file),
      "llama.cpp pot: most layers of llama4 models see chunks of text that begin at fixed positions, where a "
      "pot's entries do not stay");
}

TEST(CachePotRefuses, WindowsBesideRecurrentLayers) {
  EXPECT_EQ(
      refusal_of(test::tiny_lfm2({}, 24).file),
      "llama.cpp pot: lfm2 models have recurrent layers beside layers with windows, of which llama.cpp saves "
      "and restores both or neither");
}

TEST(CachePotRefuses, WindowsAlone) {
  EXPECT_EQ(refusal_of(test::tiny_gemma3({}, 24, 0).file),
            "llama.cpp pot: all layers of gemma3 models see the last 24 tokens only; there is nothing that a "
            "pot could "
            "hold");
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
    CachePot pot(tap, *context, 0, {.capacity = 48});
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

// llama.cpp itself has no such caches; it says so.
TEST(ContextRefuses, QuantisedHeadsThatAreNoWholeBlocks) {
  for (const std::size_t head_dim : {6U, 16U, 48U, 80U})
    for (const ggml_type type : quantised)
      for (const bool flash_attention : {true, false})
        EXPECT_NE(refusal_of(test::tiny_llama_of(1, 2, 1, head_dim), type, flash_attention), "accepted")
            << ggml_type_name(type) << " " << head_dim << " " << flash_attention;
}

TEST(ContextRefuses, NoTypeThatItsPotsCanUse) {
  for (const bool flash_attention : {true, false}) {
    for (const std::size_t head_dim : {32U, 64U, 96U, 128U})
      for (const ggml_type type : quantised)
        EXPECT_EQ(refusal_of(test::tiny_llama_of(1, 2, 1, head_dim), type, flash_attention), "accepted")
            << ggml_type_name(type) << " " << head_dim << " " << flash_attention;
    for (const std::size_t head_dim : {6U, 16U, 80U})
      for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16})
        EXPECT_EQ(refusal_of(test::tiny_llama_of(1, 2, 1, head_dim), type, flash_attention), "accepted");
  }
}

TEST(CachePotRefuses, SequencesThatShareTheirCells) {
  keep_quiet();
  const TemporaryModel temporary(test::tiny_file(test::tiny_llama()));
  const llama_model_ptr model = load_model(temporary.path());
  GraphTap tap;
  llama_context_params parameters = context_parameters({.cells = 48, .sequences = 2});
  parameters.kv_unified = true;
  tap.install(parameters);
  const llama_context_ptr context(llama_init_from_model(model.get(), parameters));
  try {
    CachePot(tap, *context, 0, {.capacity = 48});
    ADD_FAILURE() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("make the context with kv_unified = false"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace llama_cpp
