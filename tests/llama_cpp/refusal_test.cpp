// Models that llama.cpp can load, but whose caches cannot be pots.
#include <gtest/gtest.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "cell_pot.hpp"
#include "graph_tap.hpp"
#include "model.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using test::TemporaryModel;

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

}  // namespace
}  // namespace llama_cpp
