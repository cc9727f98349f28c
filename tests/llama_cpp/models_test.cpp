// Models of today's families through pots over llama.cpp's cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "infinipot/check_adapter.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "slow_cache.hpp"
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
  explicit Loaded(const TinyFamily& family) : file(family.file) {
    keep_quiet();
    model = load_model(file.path());
  }
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

class Families : public testing::TestWithParam<TinyFamily> {};

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
  // Keys that moved are rounded once more than those that did not; and a few tokens, whose attention is
  // divided evenly, are far more sensitive than most.
  const double tolerance = 6 * rounding_of(plain, exact_logits) + family.float_error;
  EXPECT_LT(tolerance, 0.5) << "this says nothing";
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
    // bf16 changes which experts a token goes to, and then all of its logits.
    if (memory.type == GGML_TYPE_BF16 && family.experts) continue;
    SCOPED_TRACE(memory);
    expect_plain_logits(*loaded.model, family, memory, exact_logits);
  }
}

/// Keeps other entries in each head.
struct Scattered {
  std::string_view name() const noexcept { return "scattered"; }
  void score_entries(const infinipot::EntryRows& rows, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < rows.size(); ++t)
      scores[t] = static_cast<float>((rows.position(t) * 37 + rows.layer() * 11 + rows.kv_head() * 5) % 97);
  }
};

// Against rows that are written anew, turned in double precision.
TEST_P(Families, KeepOtherEntriesInEachHead) {
  const TinyFamily& family = GetParam();
  const Loaded loaded(family);
  GraphTap tap;
  const llama_context_ptr context = make_context(
      *loaded.model, tap,
      {.cells = capacity, .batch = capacity, .cache_type = GGML_TYPE_F32, .flash_attention = false});
  CachePot pot(tap, *context, 0,
               {.capacity = capacity, .max_keep = keep, .granularity = infinipot::Granularity::head});
  Engine engine(tap, pot);
  infinipot::Ccd reader(engine, pot, Scattered(), {.keep = keep, .sinks = 0, .chunk = capacity});
  test::SlowCache slow(*loaded.model, family, capacity);
  const std::vector<infinipot::Token> all = text(capacity + distillations * (capacity - keep), family);
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t count = at == 0 ? capacity : capacity - keep;
    const std::vector<infinipot::Token> next(all.begin() + static_cast<std::ptrdiff_t>(at),
                                             all.begin() + static_cast<std::ptrdiff_t>(at + count));
    reader.feed(next);
    if (at > 0)
      slow.keep(keep, [&](std::size_t layer, std::size_t head) {
        const auto kept = pot.entries().positions(pot.shape().head_of(layer, head)).first(keep);
        return std::vector<std::uint64_t>(kept.begin(), kept.end());
      });
    EXPECT_LT(difference(reader.logits(), slow.read(next)), 1e-4) << at << " tokens before";
    at += count;
  }
  EXPECT_EQ(reader.stats().distillations, distillations);
  if (pot.shape().heads() > 1) {
    EXPECT_FALSE(std::ranges::equal(pot.entries().positions(0), pot.entries().positions(1)));
  }
}

TEST_P(Families, PassTheCheckOfAdapters) {
  const TinyFamily& family = GetParam();
  if (family.experts)
    GTEST_SKIP() << "a token that is repeated goes to other experts as a sink takes less of its attention";
  const Loaded loaded(family);
  for (const Memory& memory : {exact, Memory{GGML_TYPE_F16, true}}) {
    SCOPED_TRACE(memory);
    GraphTap tap;
    const llama_context_ptr context =
        make_context(*loaded.model, tap,
                     {.cells = 128, .cache_type = memory.type, .flash_attention = memory.flash_attention});
    CachePot pot(tap, *context, 0, {.capacity = 128, .granularity = infinipot::Granularity::head});
    Engine engine(tap, pot);
    const infinipot::AdapterReport report = infinipot::check_adapter(
        engine, pot, text(40, family),
        {.rounding = memory.type == GGML_TYPE_F32 ? infinipot::rounding_of<infinipot::f32>()
                                                  : infinipot::rounding_of<infinipot::f16>()});
    EXPECT_TRUE(report.ok()) << report;
  }
}

/// A text is read, forked, and both go on.
TEST_P(Families, AreForked) {
  const TinyFamily& family = GetParam();
  const Loaded loaded(family);
  GraphTap tap;
  const llama_context_ptr context = make_context(*loaded.model, tap,
                                                 {.cells = capacity,
                                                  .sequences = 2,
                                                  .batch = capacity,
                                                  .cache_type = GGML_TYPE_F32,
                                                  .flash_attention = false});
  CachePot pot(tap, *context, 0, {.capacity = capacity, .max_keep = keep});
  Engine engine(tap, pot);
  infinipot::Ccd reader(engine, pot, Scattered(), {.keep = keep, .sinks = 0, .chunk = capacity});
  const std::vector<infinipot::Token> all = text(140, family);
  reader.feed(std::span(all).first(100));
  CachePot copy = pot.fork(1);
  Engine other(tap, copy);
  infinipot::Ccd second = reader.fork(other, copy);
  second.feed(std::span(all).subspan(100, 20));  // the first one must not notice
  second.feed(std::span(all).subspan(120));
  const std::vector<float> logits(second.logits().begin(), second.logits().end());
  reader.feed(std::span(all).subspan(100, 20));
  reader.feed(std::span(all).subspan(120));
  EXPECT_LT(difference(reader.logits(), logits), family.float_error);
}

/// Wants no logits, and queries as they come.
struct NoLogits final : infinipot::LogitsSink {
  explicit NoLogits(std::size_t tokens) : LogitsSink(tokens) {}
  void row(std::size_t /*token*/, std::span<const float> /*logits*/) noexcept override {}
};
struct DroppedQueries final : infinipot::QuerySink {
  void layer(std::size_t /*layer*/, const infinipot::Queries& /*queries*/) noexcept override {}
};
struct DroppedAttention final : infinipot::AttentionSink {
  void row(std::size_t /*layer*/, std::size_t /*head*/, std::size_t /*token*/,
           std::span<const float> /*paid*/) noexcept override {}
};

TEST(Sinks, AreThoseOfTheFile) {
  const TinyFamily family = test::tiny_gpt_oss();
  const Loaded loaded(family);
  for (const bool flash_attention : {true, false}) {
    GraphTap tap;
    const llama_context_ptr context =
        make_context(*loaded.model, tap, {.cells = capacity, .flash_attention = flash_attention});
    CachePot pot(tap, *context, 0, {.capacity = capacity});
    Engine engine(tap, pot);
    NoLogits logits(5);
    DroppedQueries queries;
    DroppedAttention attention;
    if (flash_attention)
      engine.forward(text(5, family), 0, logits, static_cast<infinipot::QuerySink&>(queries));
    else
      engine.forward(text(5, family), 0, logits, static_cast<infinipot::AttentionSink&>(attention));
    // The pot's layers are the model's 1 and 3.
    const auto tensors = test::tiny::gpt_oss({}, 4, 20).tensors;
    for (const std::size_t layer : {0U, 1U})
      EXPECT_TRUE(
          std::ranges::equal(engine.attention_form(layer).sinks,
                             tensors.at("blk." + std::to_string(2 * layer + 1) + ".attn_sinks.weight")));
  }
}

TEST(Files, AreRefusedOfWhatIsNotInThePot) {
  for (const TinyFamily& family : {test::tiny_gemma3(), test::tiny_lfm2()}) {
    const Loaded loaded(family);
    GraphTap tap;
    const llama_context_ptr context = make_context(*loaded.model, tap, {.cells = capacity});
    const CachePot pot(tap, *context, 0, {.capacity = capacity});
    std::ostringstream out;
    EXPECT_THROW(pot.save(out, {}), std::invalid_argument) << family.name;
  }
}

/// Logits after the last token.
struct Last final : infinipot::LogitsSink {
  explicit Last(std::size_t tokens) : LogitsSink(tokens - 1) {}
  void row(std::size_t /*token*/, std::span<const float> row) noexcept override {
    logits.assign(row.begin(), row.end());
  }
  std::vector<float> logits;
};

// What is dropped and comes back, or is read anew, goes through recurrent layers again.
TEST_P(Families, GoBack) {
  const TinyFamily& family = GetParam();
  const Loaded loaded(family);
  GraphTap tap;
  const llama_context_ptr context =
      make_context(*loaded.model, tap,
                   {.cells = capacity, .batch = 16, .cache_type = GGML_TYPE_F32, .flash_attention = false});
  CachePot pot(tap, *context, 0, {.capacity = capacity, .max_keep = keep});
  Engine engine(tap, pot);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = keep, .sinks = 0, .chunk = 7});
  constexpr std::size_t read = 86;
  const std::vector<infinipot::Token> all = text(read, family);
  reader.feed(std::span(all).first(read));
  const std::vector<float> right(reader.logits().begin(), reader.logits().end());
  std::vector<infinipot::Entry> entries;
  const std::size_t size = pot.entries().size(), left = keep + 2, dropped = size - left;
  ASSERT_GT(dropped, 8U);
  for (std::size_t i = left; i < size; ++i)
    entries.push_back({pot.entries().positions(0)[i], pot.entries().tokens(0)[i], 0, false});

  pot.truncate(left);
  Last anew(dropped);
  engine.forward(std::span(all).subspan(read - dropped, dropped), left, anew);
  EXPECT_LT(difference(anew.logits, right), family.float_error);
  pot.append(entries);
  pot.truncate(left + 5);
  pot.append(std::span(entries).subspan(5, dropped - 6));
  Last last(1);
  engine.forward(std::span(all).subspan(read - 1, 1), size - 1, last);
  EXPECT_LT(difference(last.logits, right), family.float_error);
  pot.append(std::span(entries).last(1));
  if (family.count('r') > 0) {
    EXPECT_THROW(pot.truncate(keep - 1), std::runtime_error);
    EXPECT_EQ(pot.entries().size(), size);
  }
  pot.truncate(0);
}

// By a probe, or a failure, just behind it. llama.cpp cannot move the position of a recurrent state where
// positions have several numbers (M-RoPE), which then is ahead of the entries'.
TEST_P(Families, GoBackToADistillation) {
  const TinyFamily& family = GetParam();
  const Loaded loaded(family);
  GraphTap tap;
  const llama_context_ptr context = make_context(
      *loaded.model, tap,
      {.cells = capacity, .batch = capacity, .cache_type = GGML_TYPE_F32, .flash_attention = false});
  CachePot pot(tap, *context, 0, {.capacity = capacity, .max_keep = keep});
  Engine engine(tap, pot);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = keep, .sinks = 0, .chunk = 16});
  const std::vector<infinipot::Token> all = text(capacity + 5, family);
  reader.feed(std::span(all).first(capacity));
  reader.distil();
  ASSERT_EQ(pot.entries().size(), keep);
  const auto next = std::span(all).subspan(capacity);
  const auto say = [&] {
    Last last(next.size());
    engine.forward(next, keep, last);
    pot.truncate(keep);
    return last.logits;
  };
  const std::vector<float> right = say();
  EXPECT_LT(difference(say(), right), family.float_error);
  llama_set_abort_callback(
      context.get(), [](void*) { return true; }, nullptr);
  Last none(1);
  EXPECT_THROW(engine.forward(next.first(1), keep, none), std::runtime_error);
  llama_set_abort_callback(context.get(), nullptr, nullptr);
  pot.truncate(keep);
  EXPECT_LT(difference(say(), right), family.float_error);
}

TEST_P(Families, TakeNoRowsThatLackTheirOtherLayers) {
  const TinyFamily& family = GetParam();
  const Loaded loaded(family);
  GraphTap tap;
  const llama_context_ptr context = make_context(*loaded.model, tap, {.cells = capacity});
  CachePot pot(tap, *context, 0, {.capacity = capacity});
  std::vector<float> key(family.head_dim), value(std::max<std::size_t>(family.value_dim, 1));
  pot.write_projected(0, 0, 0, key.data(), value.data());
  const std::vector<infinipot::Entry> one(1);
  if (family.count('w') + family.count('r') > 0) {
    EXPECT_THROW(pot.append(one), std::runtime_error);
    EXPECT_TRUE(pot.entries().empty());
  } else {
    EXPECT_NO_THROW(pot.append(one));
  }
}

}  // namespace
}  // namespace llama_cpp
