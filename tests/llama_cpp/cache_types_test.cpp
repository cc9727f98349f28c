// Pots over every type of llama.cpp's cache: what they keep, how exactly, and that it can be copied, saved
// and archived.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "expect_invalid.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "tiny_models.hpp"

namespace llama_cpp {
namespace {

using infinipot::Ccd;
using infinipot::CcdSettings;
using infinipot::Granularity;
using infinipot::Index;
using infinipot::Selection;
using infinipot::Token;
using Tokens = std::vector<Token>;

struct Kind {
  ggml_type type;
  bool flash;
  double rounding;  // of a row, relative: half a step of its type, generously
};

std::ostream& operator<<(std::ostream& out, const Kind& kind) {
  return out << ggml_type_name(kind.type) << (kind.flash ? "_flash" : "");
}

const Kind kinds[] = {
    {GGML_TYPE_F32, true, 1e-6},  {GGML_TYPE_F32, false, 1e-6},  {GGML_TYPE_F16, true, 1e-3},
    {GGML_TYPE_F16, false, 1e-3}, {GGML_TYPE_BF16, true, 8e-3},  {GGML_TYPE_BF16, false, 8e-3},
    {GGML_TYPE_Q8_0, true, 0.02}, {GGML_TYPE_Q8_0, false, 0.02}, {GGML_TYPE_Q5_1, true, 0.1},
    {GGML_TYPE_Q5_0, true, 0.1},  {GGML_TYPE_Q4_1, true, 0.2},   {GGML_TYPE_Q4_0, true, 0.25},
    {GGML_TYPE_Q4_0, false, 0.25}};

/// A context of two sequences, with a pot in the first.
struct Single {
  Single(llama_model& model, const Kind& kind, Granularity granularity, std::size_t capacity,
         std::size_t max_keep = 0)
      : settings{capacity, max_keep, granularity} {
    context = make_context(model, tap,
                           {.cells = capacity,
                            .sequences = 2,
                            .batch = 256,
                            .cache_type = kind.type,
                            .flash_attention = kind.flash});
    pot.emplace(tap, *context, 0, settings);
    engine.emplace(tap, *pot);
  }
  CachePotSettings settings;
  GraphTap tap;
  llama_context_ptr context;
  std::optional<CachePot> pot;
  std::optional<Engine> engine;
};

class CacheTypes : public testing::TestWithParam<Kind> {
 protected:
  static void SetUpTestSuite() { keep_quiet(); }

  Tokens text(std::size_t count, std::uint32_t seed = 1) const {
    Tokens tokens(count);
    for (Token& token : tokens) {
      seed = seed * 1664525U + 1013904223U;
      token = static_cast<Token>((seed >> 8U) % tiny_.vocab_size);
    }
    return tokens;
  }

  const smollm2::test::TinyLlama tiny_ = test::tiny_llama_of(2, 4, 2, 64);
  const test::TemporaryModel file_{test::tiny_file(tiny_)};
  const llama_model_ptr model_ = load_model(file_.path());
};

INSTANTIATE_TEST_SUITE_P(Of, CacheTypes, testing::ValuesIn(kinds), [](const auto& kind) {
  std::ostringstream name;
  name << kind.param;
  return name.str();
});

std::vector<float> row_of(const CachePot& pot, bool keys, std::size_t layer, std::size_t head,
                          std::size_t entry) {
  std::vector<float> tile(pot.shape().head_dim);
  const auto rows = keys ? pot.key_rows(layer, head, entry, 1, tile.data())
                         : pot.value_rows(layer, head, entry, 1, tile.data());
  return {rows.data, rows.data + tile.size()};
}

/// Keys and values of all entries.
std::vector<std::vector<float>> all_rows(const CachePot& pot) {
  std::vector<std::vector<float>> rows;
  for (std::size_t layer = 0; layer < pot.shape().layers; ++layer)
    for (std::size_t head = 0; head < pot.shape().kv_heads; ++head)
      for (std::size_t entry = 0; entry < pot.entries().size(); ++entry)
        for (const bool keys : {true, false}) rows.push_back(row_of(pot, keys, layer, head, entry));
  return rows;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += std::pow(static_cast<double>(a[i] - b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / size);
}

/// Everything stays but entries first .. first + count - 1 of lane l, where `first` differs from lane to
/// lane.
Selection without(const CachePot& pot, std::size_t first, std::size_t count) {
  const std::size_t lanes = pot.shape().lanes(pot.granularity()), size = pot.entries().size();
  Selection kept(lanes, size - count);
  for (std::size_t lane = 0; lane < lanes; ++lane)
    for (std::size_t i = 0, entry = 0; entry < size; ++entry)
      if (entry < first + lane || entry >= first + lane + count)
        kept.lane(lane)[i++] = static_cast<Index>(entry);
  return kept;
}

void fill(Single& single, const Tokens& tokens) {
  struct Nothing final : infinipot::LogitsSink {
    explicit Nothing(std::size_t tokens) : LogitsSink(tokens) {}
    void row(std::size_t, std::span<const float>) noexcept override {}
  } nothing(tokens.size());
  single.engine->forward(tokens, 0, nothing);
  std::vector<infinipot::Entry> entries;
  for (std::size_t i = 0; i < tokens.size(); ++i) entries.push_back({.position = i, .token = tokens[i]});
  single.pot->append(entries);
}

TEST_P(CacheTypes, KeptRowsAreTheirOwnTurned) {
  for (const Granularity granularity : {Granularity::head, Granularity::layer, Granularity::shared}) {
    Single single(*model_, GetParam(), granularity, 256, 200);
    fill(single, text(90));
    CachePot& pot = *single.pot;
    const auto before = all_rows(pot);
    const Selection kept = without(pot, 5, 40);
    pot.keep(kept);
    ASSERT_EQ(pot.entries().size(), 50U);
    const infinipot::Rope& rope = pot.rope();
    std::vector<float> memory(infinipot::AngleTable::floats(rope, 90));
    const infinipot::AngleTable angles(rope, 90, memory);
    for (std::size_t layer = 0; layer < 2; ++layer)
      for (std::size_t head = 0; head < 2; ++head)
        for (std::size_t entry = 0; entry < 50; ++entry) {
          const std::size_t from = kept.lane(pot.shape().lane_of(layer, head, granularity))[entry];
          const std::size_t at = ((layer * 2 + head) * 90 + from) * 2;
          std::vector<float> key = before[at];
          infinipot::rotate(key.data(), angles[from - entry], rope.pairing, infinipot::Turn::backward, 64,
                            key.data());
          EXPECT_LE(relative_error(row_of(pot, true, layer, head, entry), key), GetParam().rounding);
          EXPECT_EQ(row_of(pot, false, layer, head, entry), before[at + 1]);
        }
  }
}

// Bit for bit: a thousand distillations that drop one entry each, and one that drops a thousand.
TEST_P(CacheTypes, AThousandDistillationsAreAsExactAsOne) {
  constexpr std::size_t size = 1040, dropped = 1000;
  Single often(*model_, GetParam(), Granularity::head, 1280, 1279),
      once(*model_, GetParam(), Granularity::head, 1280, 1279);
  for (Single* single : {&often, &once}) fill(*single, text(size));
  for (std::size_t i = 0; i < dropped; ++i) often.pot->keep(without(*often.pot, 3, 1));
  once.pot->keep(without(*once.pot, 3, dropped));
  EXPECT_EQ(all_rows(*often.pot), all_rows(*once.pot));
}

/// With a policy that chooses per head by attention, keys and values alike.
template <class Reader>
void expect_alike(const Reader& a, const Reader& b, const CachePot& pot, const CachePot& other) {
  for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
    EXPECT_TRUE(std::ranges::equal(pot.entries().positions(lane), other.entries().positions(lane)));
  EXPECT_EQ(all_rows(pot), all_rows(other));
  EXPECT_TRUE(std::ranges::equal(a.logits(), b.logits()));
}

constexpr CcdSettings keeps{.keep = 48, .sinks = 2, .chunk = 32};

TEST_P(CacheTypes, ForksGoOnAlone) {
  Single single(*model_, GetParam(), Granularity::head, 128);
  const infinipot::Infinipot policy({.catalysts = {text(5, 2)}, .alpha = 0.25});
  Ccd reader(*single.engine, *single.pot, policy, keeps);
  reader.feed(text(400, 3));
  CachePot copy = single.pot->fork(1);
  Engine engine(single.tap, copy);
  auto fork = reader.fork(engine, copy);
  EXPECT_EQ(all_rows(copy), all_rows(*single.pot));
  fork.feed(text(300, 4));
  EXPECT_FALSE(std::ranges::equal(copy.entries().positions(0), single.pot->entries().positions(0)));
  copy.assign(*single.pot, single.pot->entries().size());
  auto again = reader.fork(engine, copy);
  for (auto* one : {&reader, &again}) one->feed(text(300, 5));
  expect_alike(again, reader, copy, *single.pot);
}

TEST_P(CacheTypes, FilesGoOnAsIfNothingHadHappened) {
  Single single(*model_, GetParam(), Granularity::head, 128),
      loaded(*model_, GetParam(), Granularity::head, 128);
  const infinipot::Infinipot policy({.catalysts = {text(5, 2)}, .alpha = 0.25});
  Ccd reader(*single.engine, *single.pot, policy, keeps), other(*loaded.engine, *loaded.pot, policy, keeps);
  reader.feed(text(400, 3));
  std::ostringstream file;
  single.pot->save(file, {});
  const std::string bytes = file.str();
  loaded.pot->restore(std::as_bytes(std::span(bytes)));
  other.resume(reader.memory());
  EXPECT_EQ(all_rows(*loaded.pot), all_rows(*single.pot));
  for (auto* one : {&reader, &other}) one->feed(text(300, 5));
  expect_alike(other, reader, *loaded.pot, *single.pot);
  Single shared(*model_, GetParam(), Granularity::shared, 128);
  EXPECT_THROW(shared.pot->restore(std::as_bytes(std::span(bytes))), std::invalid_argument);
  EXPECT_TRUE(shared.pot->entries().empty());
}

TEST_P(CacheTypes, RecallsRowsFromAnArchive) {
  const Tokens question = text(5, 2);
  for (const auto type :
       {infinipot::ArchiveType::float32, infinipot::ArchiveType::codes8, infinipot::ArchiveType::tokens}) {
    Single single(*model_, GetParam(), Granularity::shared, 128),
        known(*model_, GetParam(), Granularity::shared, 128);
    infinipot::MemoryArchive archive({.shape = single.pot->shape(),
                                      .rope = single.pot->rope(),
                                      .type = type,
                                      .block = 32,
                                      .limit = 1 << 24});
    Ccd reader(*single.engine, *single.pot, infinipot::StreamingLlm(), keeps);
    reader.archive_to(archive);
    reader.feed(text(400, 3));
    CachePot room(single.tap, *single.context, 1, single.settings);
    Engine engine(single.tap, room);
    EXPECT_TRUE(recall(reader, engine, room, archive, question).done);
    // What is kept is nearly what a reader keeps that knew the question; keys of an archive were computed in
    // another pot.
    const auto kept = single.pot->entries().positions(0);
    EXPECT_EQ(kept.size(), 48U);
    EXPECT_LT(kept[8], 350U);  // not the most recent only
    reader.feed(text(30, 7));
    for (const float logit : reader.logits()) ASSERT_TRUE(std::isfinite(logit));
  }
}

// However far rounding leads this model of random weights astray: distillations lead it no further.
TEST_P(CacheTypes, ReadingIsAsGoodAsItsRounding) {
  const auto read = [&](const Kind& kind, std::size_t tokens) {
    Single single(*model_, kind, Granularity::head, 128);
    Ccd reader(*single.engine, *single.pot, infinipot::StreamingLlm(),
               keeps);  // keeps the same whatever the type
    reader.feed(text(tokens, 3));
    EXPECT_EQ(reader.stats().distillations >= 5, tokens > 128);
    return std::vector<float>(reader.logits().begin(), reader.logits().end());
  };
  const auto error_of = [&](std::size_t tokens) {
    return relative_error(read(GetParam(), tokens), read({GGML_TYPE_F32, false, 0}, tokens));
  };
  const double plain = std::max({error_of(60), error_of(90), error_of(120)});
  EXPECT_LT(error_of(530), 1e-5 + 3 * plain);
}

}  // namespace
}  // namespace llama_cpp
