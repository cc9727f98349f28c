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

constexpr std::size_t capacity = 64, keep = 40, catalyst = 5, full = capacity - catalyst, distillations = 7;

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
};

std::ostream& operator<<(std::ostream& out, const Memory& memory) {
  return out << ggml_type_name(memory.type) << (memory.flash_attention ? ", flash" : "");
}

/// A model's file, read.
struct Loaded {
  explicit Loaded(const TinyFamily& family) : file(family.file), model(load_model(file.path())) {}
  TemporaryModel file;
  llama_model_ptr model;
};

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

class Families : public testing::TestWithParam<TinyFamily> {
 protected:
  Families() { keep_quiet(); }
};

std::string name_of(const testing::TestParamInfo<TinyFamily>& info) {
  std::string name;
  for (const char letter : info.param.name)
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0) name += letter;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Families, testing::ValuesIn(test::tiny_families()), name_of);

TEST_P(Families, AreReadByLlamaCpp) {
  const Loaded loaded(GetParam());
  for (const bool flash_attention : {true, false}) {
    std::vector<std::vector<float>> seen;
    for (const std::size_t first : {0U, 1U}) {
      PlainRun run(*loaded.model, {GGML_TYPE_F16, flash_attention}, GetParam().vocab_size);
      seen.push_back(run.read(text(16, GetParam(), first)));
      for (const float logit : seen.back()) EXPECT_TRUE(std::isfinite(logit));
    }
    EXPECT_NE(seen[0], seen[1]) << "what was read first does not matter";
  }
}

/// The text in calls that end where the pot is full, so that all of a call's tokens see the same entries.
std::vector<std::vector<infinipot::Token>> calls(const TinyFamily& family) {
  std::vector<std::vector<infinipot::Token>> calls;
  const std::vector<infinipot::Token> all = text(full + distillations * (full - keep), family);
  for (std::size_t at = 0; at < all.size(); at += calls.back().size())
    calls.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(at),
                       all.begin() + static_cast<std::ptrdiff_t>(at == 0 ? full : at + full - keep));
  return calls;
}

/// What plain runs say in which only the last `keep` entries before each call are seen.
std::vector<std::vector<float>> plain_logits(llama_model& model, const TinyFamily& family,
                                             const Memory& memory) {
  PlainRun run(model, memory, family.vocab_size);
  std::vector<std::vector<float>> logits;
  std::size_t read = 0;
  for (const auto& call : calls(family)) {
    if (read > 0) run.drop_before(read - keep);
    logits.push_back(run.read(call));
    read += call.size();
  }
  return logits;
}

/// What rounding to a cache's type changes: the largest difference from the same in f32.
double rounding_of(std::span<const std::vector<float>> logits, std::span<const std::vector<float>> exact) {
  double worst = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) worst = std::max(worst, difference(logits[i], exact[i]));
  return worst;
}

constexpr Memory exact{GGML_TYPE_F32, false};

/// What a pot that keeps the most recent entries says must be what llama.cpp says from whose cache the same
/// were removed, without moving any: RoPE knows distances alone. Catalysts run at each distillation and leave
/// no trace.
void expect_plain_logits(llama_model& model, const TinyFamily& family, const Memory& memory,
                         std::span<const std::vector<float>> exact_logits) {
  GraphTap tap;
  const llama_context_ptr context = make_context(model, tap,
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
  const auto plain = plain_logits(model, family, memory);
  // Keys that moved are rounded once more than those that did not.
  const double tolerance = 3 * rounding_of(plain, exact_logits) + 2e-5;
  EXPECT_LT(tolerance, 0.2) << "this says nothing";
  std::size_t call = 0, read = 0;
  for (const auto& tokens : calls(family)) {
    reader.feed(tokens);
    read += tokens.size();
    EXPECT_EQ(reader.stats().distillations, call);
    EXPECT_EQ(pot.entries().positions(0).back(), read - 1);
    EXPECT_EQ(pot.entries().positions(0).front(), call == 0 ? 0 : read - full);
    EXPECT_LT(difference(reader.logits(), plain[call]), tolerance) << "after " << call << " distillations";
    ++call;
  }
}

TEST_P(Families, ForgetAsLlamaCppDoesWithoutMoving) {
  const TinyFamily& family = GetParam();
  const Loaded loaded(family);
  const auto exact_logits = plain_logits(*loaded.model, family, exact);
  for (const Memory& memory : {exact, Memory{GGML_TYPE_F32, true}, Memory{GGML_TYPE_F16, true},
                               Memory{GGML_TYPE_F16, false}, Memory{GGML_TYPE_BF16, true}}) {
    SCOPED_TRACE(memory);
    expect_plain_logits(*loaded.model, family, memory, exact_logits);
  }
}

}  // namespace
}  // namespace llama_cpp
