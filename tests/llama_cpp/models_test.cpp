// Models of today's families through pots over llama.cpp's cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "tiny_families.hpp"

namespace llama_cpp {
namespace {

using test::TemporaryModel;
using test::TinyFamily;

constexpr std::size_t capacity = 64, keep = 40, catalyst = 5, read_before = 300;
constexpr std::size_t distillations = 7;

std::vector<infinipot::Token> text(std::size_t tokens, const TinyFamily& family, std::size_t first = 0) {
  std::vector<infinipot::Token> text;
  for (std::size_t i = 0; i < tokens; ++i)
    text.push_back(
        static_cast<infinipot::Token>((i * i * 7 + i * 3 + (i == 0 ? first : 0)) % family.vocab_size));
  return text;
}

/// ||a - b|| / ||b||.
double difference(std::span<const float> a, std::span<const float> b) {
  double squares = 0, all = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    squares += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    all += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(squares / all);
}

struct Memory {
  ggml_type type;
  bool flash_attention;
  double tolerance;  ///< of difference()
};

std::ostream& operator<<(std::ostream& out, const Memory& memory) {
  return out << ggml_type_name(memory.type) << (memory.flash_attention ? ", flash" : "");
}

/// llama.cpp alone, without a pot: what was dropped is removed, the rest stays where it is.
class PlainRun {
 public:
  PlainRun(llama_model& model, const Memory& memory, std::size_t vocab_size)
      : vocab_size_(vocab_size),
        context_(
            llama_init_from_model(&model, context_parameters({.cells = 512,
                                                              .batch = 512,
                                                              .cache_type = memory.type,
                                                              .flash_attention = memory.flash_attention}))) {}

  /// Logits after the last token.
  std::vector<float> read(std::vector<infinipot::Token> tokens) {
    const llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<std::int32_t>(tokens.size()));
    EXPECT_EQ(llama_decode(context_.get(), batch), 0);
    const float* const logits = llama_get_logits_ith(context_.get(), -1);
    return {logits, logits + vocab_size_};
  }

  void drop_before(std::size_t position) {
    EXPECT_TRUE(
        llama_memory_seq_rm(llama_get_memory(context_.get()), 0, 0, static_cast<llama_pos>(position)));
  }

 private:
  std::size_t vocab_size_;
  llama_context_ptr context_;
};

class Families : public testing::TestWithParam<TinyFamily> {};

std::string name_of(const testing::TestParamInfo<TinyFamily>& info) {
  std::string name;
  for (const char letter : info.param.name)
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0) name += letter;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Families, testing::ValuesIn(test::tiny_families()), name_of);

TEST_P(Families, AreReadByLlamaCpp) {
  keep_quiet();
  const TemporaryModel file(GetParam().file);
  const llama_model_ptr model = load_model(file.path());
  for (const bool flash_attention : {true, false}) {
    std::vector<std::vector<float>> seen;
    for (const std::size_t first : {0U, 1U}) {
      PlainRun run(*model, {GGML_TYPE_F16, flash_attention, 0}, GetParam().vocab_size);
      seen.push_back(run.read(text(16, GetParam(), first)));
      for (const float logit : seen.back()) EXPECT_TRUE(std::isfinite(logit));
    }
    EXPECT_NE(seen[0], seen[1]) << "what was read first does not matter";
  }
}

// The most recent entries stay, so that a run of llama.cpp's own from which the same were removed, without
// moving any, must say the same: RoPE knows distances alone. Catalysts run at each distillation and leave no
// trace.
TEST_P(Families, ForgetAsLlamaCppDoesWithoutMoving) {
  keep_quiet();
  const TinyFamily& family = GetParam();
  const TemporaryModel file(family.file);
  const llama_model_ptr model = load_model(file.path());
  for (const Memory memory : {Memory{GGML_TYPE_F16, true, 2e-3}, Memory{GGML_TYPE_F32, false, 2e-5}}) {
    SCOPED_TRACE(memory);
    GraphTap tap;
    const llama_context_ptr context = make_context(*model, tap,
                                                   {.cells = capacity,
                                                    .batch = capacity,
                                                    .cache_type = memory.type,
                                                    .flash_attention = memory.flash_attention});
    CachePot pot(tap, *context, 0,
                 {.capacity = capacity, .max_keep = keep, .granularity = infinipot::Granularity::head});
    EXPECT_EQ(pot.shape().layers, family.count('g') + family.count('n'));
    Engine engine(tap, pot);
    infinipot::Ccd reader(engine, pot,
                          infinipot::Infinipot({.catalysts = {std::vector<infinipot::Token>(catalyst, 3)}}),
                          {.keep = keep, .sinks = 0, .recent = keep, .chunk = capacity});
    PlainRun plain(*model, memory, family.vocab_size);

    const std::vector<infinipot::Token> tokens = text(read_before, family);
    // Calls end where the pot is full, so that all of a call's tokens see the same entries.
    constexpr std::size_t full = capacity - catalyst;
    for (std::size_t at = 0; reader.stats().distillations < distillations;) {
      const std::size_t count = at == 0 ? full : full - keep;
      const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(at);
      const std::vector<infinipot::Token> next(begin, begin + static_cast<std::ptrdiff_t>(count));
      reader.feed(next);
      at += count;
      plain.drop_before(pot.entries().positions(0).front());
      EXPECT_EQ(pot.entries().positions(0).back(), at - 1);
      const double error = difference(reader.logits(), plain.read(next));
      EXPECT_LT(error, memory.tolerance)
          << at << " tokens, " << reader.stats().distillations << " distillations";
    }
  }
}

}  // namespace
}  // namespace llama_cpp
