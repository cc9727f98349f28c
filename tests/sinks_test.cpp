// What the sinks tell an engine of a call, and models of which several layers read one of the store's.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"
#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"
#include "vector_archive.hpp"

namespace {

using namespace infinipot;
using trial::expect_invalid;

/// Notes what is said about each call.
struct Noting {
  struct Call {
    std::vector<Token> tokens;
    std::size_t first = 0;
    std::uint64_t offset = 0;
    bool probe = false;
  };

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    note(tokens, first, logits);
    engine.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& queries) {
    note(tokens, first, logits);
    engine.forward(tokens, first, logits, queries);
  }
  void note(std::span<const Token> tokens, std::size_t first, const LogitsSink& logits) {
    calls.push_back({{tokens.begin(), tokens.end()}, first, logits.stream_offset(), logits.probe()});
  }

  toy::QueryEngine<Pot<float>>& engine;
  std::vector<Call> calls = {};
};

/// Reads, distils early now and then, generates. Returns the whole text.
template <class Reader>
std::vector<Token> read_all(Reader& reader) {
  auto text = toy::text(110, 1);
  for (std::size_t at = 0; at < text.size(); at += 22) {
    reader.feed(std::span(text).subspan(at, 22));
    reader.distil();
  }
  reader.generate(30, trial::most_likely, [&](Token token) {
    text.push_back(token);
    return true;
  });
  return text;
}

TEST(Sinks, SayWhereTheStreamIsAndWhichCallsAreProbes) {
  const toy::Model model;
  const std::vector<Token> first{7, 21, 3}, second{44, 2};
  const auto read = [&](const auto& policy) {
    auto pot = toy::make_pot(model, 40, 16);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    Noting noting{engine};
    Ccd reader(noting, pot, policy, {.keep = 16, .sinks = 2, .chunk = 5});
    const auto text = read_all(reader);
    EXPECT_GT(reader.stats().distillations, 5U);
    std::uint64_t end = 0;  // of what was read
    std::size_t probes = 0, anew = 0;
    for (const Noting::Call& call : noting.calls) {
      const std::uint64_t at = call.first + call.offset;
      if (call.probe) {
        EXPECT_EQ(call.tokens, probes++ % 2 == 0 ? first : second);
        EXPECT_EQ(at, end);
        continue;
      }
      anew += at < end ? 1 : 0;
      end = std::max(end, at + call.tokens.size());
      EXPECT_LE(end, text.size());
      EXPECT_TRUE(
          std::equal(call.tokens.begin(), call.tokens.end(), text.begin() + static_cast<std::ptrdiff_t>(at)))
          << at;
    }
    EXPECT_EQ(end, text.size());
    return std::pair(probes, anew);
  };
  const auto [probes, read_anew] = read(Infinipot({.catalysts = {first, second}}));
  EXPECT_GT(probes, 10U);
  EXPECT_EQ(read_anew, 0U);
  const auto [none, windows] = read(SnapKv(6, 1));
  EXPECT_EQ(none, 0U);
  EXPECT_GT(windows, 5U) << "in chunks of 5 and 1";
  EXPECT_EQ(read(SirLlm()).second, 0U);
}

TEST(Sinks, SayWhereTheStreamIsToAResumedReader) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 16);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  Noting noting{engine};
  Ccd reader(noting, pot, StreamingLlm(), {.keep = 16});
  reader.feed(toy::text(100, 1));
  const auto memory = reader.memory();
  const std::size_t size = pot.size();
  reader.resume(memory);
  reader.feed(1);
  EXPECT_EQ(noting.calls.back().first, size);
  EXPECT_EQ(noting.calls.back().offset, 100 - size);
  pot.truncate(size - 3);
  reader.resume();
  reader.feed(1);
  EXPECT_EQ(noting.calls.back().first, size - 3);
  EXPECT_EQ(noting.calls.back().offset, 100 - size);
}

TEST(Sinks, SayWhereTheStreamIsWhenSomethingIsRecalled) {
  const toy::Model model;
  const std::vector<Token> question{7, 21, 3};
  const auto text = toy::text(110, 1);
  for (const bool rows : {true, false}) {
    auto pot = toy::make_pot(model, 40, 20, Granularity::shared);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    Noting noting{engine};
    Ccd reader(noting, pot, StreamingLlm(), {.keep = 20, .sinks = 2, .chunk = 5});
    VectorArchive archive(model.shape, rows);
    reader.archive_to(archive);
    reader.feed(text);
    noting.calls.clear();
    ASSERT_TRUE(recall(reader, archive, question, {.read_anew = true, .recent = 3}).done);
    std::size_t probes = 0, anew = 0;
    for (const Noting::Call& call : noting.calls) {
      const std::uint64_t at = call.first + call.offset;
      ASSERT_LE(at, text.size());
      if (call.probe) {
        EXPECT_EQ(call.tokens, question);
        ++probes;
      } else {
        EXPECT_EQ(call.tokens.front(), text[at]);
        ++anew;
      }
    }
    EXPECT_GT(probes, 3U);
    EXPECT_GE(anew, rows ? 3U : 3U + 100 / 5);
    const std::size_t size = pot.size();
    reader.feed(1);
    EXPECT_EQ(noting.calls.back().first, size);
    EXPECT_EQ(noting.calls.back().offset, text.size() - size);
  }
}

// ---------------------------------------------------------------- several layers that read one

/// As if the last layer's keys were read by several layers of the model.
struct Sharing {
  struct Shown final : QuerySink {
    Shown(QuerySink& to, std::size_t most) : sink(to), times(most) {}
    std::size_t layers() const noexcept override { return sink.layers(); }
    void layer(std::size_t layer, const Queries& queries) noexcept override {
      for (std::size_t i = 0; i < (layer == 1 ? times : 1); ++i) sink.layer(layer, queries);
    }
    QuerySink& sink;
    std::size_t times;
  };

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    engine.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& queries) {
    Shown shown(queries, times);
    engine.forward(tokens, first, logits, shown);
  }

  toy::QueryEngine<Pot<float>>& engine;
  std::size_t times = 1;
};

/// (layers, kv_heads, capacity) that a policy chose by the first time, of a model whose last layer's keys
/// are read by `times` layers.
template <class P>
std::vector<float> watched(const P& policy, std::size_t times) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  Sharing sharing{engine, times};
  Ccd reader(sharing, pot, policy, {.keep = 20, .chunk = 8});
  std::vector<float> scores;
  reader.on_choice(
      [&](const Choice& choice) { scores.assign(choice.attention.begin(), choice.attention.end()); });
  reader.feed(toy::text(41, 1));
  return scores;
}

template <class P>
void expect_adds_up(const P& policy, double rounding) {
  const auto once = watched(policy, 1), thrice = watched(policy, 3);
  ASSERT_EQ(once.size(), 2 * 2 * 40U);
  ASSERT_EQ(thrice.size(), once.size());
  for (std::size_t i = 0; i < once.size(); ++i) {
    const double expected = (i < once.size() / 2 ? 1 : 3) * static_cast<double>(once[i]);
    ASSERT_NEAR(static_cast<double>(thrice[i]), expected, rounding * expected) << i;
  }
}

TEST(Sharing, WhatSeveralLayersPayAddsUp) {
  // The same probabilities are added in another order: at most 2 heads x 40 queries x 3 of them, each way.
  constexpr double rounding = 2 * 2 * 40 * 3 * 0x1p-24;
  expect_adds_up(H2o(), rounding);
  expect_adds_up(SnapKv(6, 1), rounding);
  expect_adds_up(Infinipot({.catalysts = {{7, 21}, {3}}, .alpha = 0}), rounding);
}

TEST(Sharing, EachLayerOfTheStoreMustBeShown) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  Sharing sharing{engine, 0};
  Ccd reader(sharing, pot, H2o(), {.keep = 20, .chunk = 8});
  expect_invalid([&] { reader.feed(1); }, {"queries of 1 layers, not of each of 2"});
  sharing.times = 2;
  reader.feed(1);
  EXPECT_EQ(reader.stats().tokens_read, 1U);
}

// ---------------------------------------------------------------- a store that asks for recent entries

/// Its newest entries are in sliding windows, say.
struct Windowed : Pot<float> {
  Windowed(Pot<float> pot, std::size_t newest) : Pot<float>(std::move(pot)), recent(newest) {}

  std::size_t keeps_recent() const { return recent; }
  Windowed fork() const { return {Pot<float>::fork(), recent}; }

  std::size_t recent;
};

static_assert(AsksForRecent<Windowed> && !AsksForRecent<Pot<float>>);

TEST(RecentEntries, StayIfTheStoreAsksForThem) {
  const toy::Model model;
  Windowed pot(toy::make_pot(model, 40, 20), 9);
  toy::Engine<Windowed> engine(model, pot);
  const auto settings = [&](CcdSettings given) {
    return Ccd(engine, pot, SirLlm(), given).settings().recent;
  };
  EXPECT_EQ(settings({.keep = 20}), 9U);
  EXPECT_EQ(settings({.keep = 20, .recent = 4}), 9U);
  EXPECT_EQ(settings({.keep = 20, .recent = 12}), 12U);
  EXPECT_EQ(Ccd(engine, pot, H2o(), {.keep = 20}).settings().recent, 10U) << "the policy asks for more";
  expect_invalid([&] { settings({.keep = 12}); }, {"keep 12", "4 sinks", "9 recent"});

  Ccd reader(engine, pot, SirLlm(), {.keep = 20, .sinks = 2});
  std::uint64_t tokens = 0;
  reader.on_distillation([&](const Distillation& d) {
    for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
      for (std::size_t i = 0; i < 9; ++i)
        EXPECT_EQ(d.kept.lane(lane)[11 + i], d.entries_before - 9 + i) << lane;
    tokens = reader.stats().tokens_read;
  });
  reader.feed(toy::text(100, 1));
  EXPECT_EQ(tokens, 80U);
  expect_invalid([&] { reader.feed(toy::text(10, 1), Retention::pinned); }, {"10 pinned", "9 recent"});
}

TEST(RecentEntries, StayWhenSomethingIsRecalled) {
  const toy::Model model;
  const std::vector<Token> question{7, 21, 3};
  for (const std::size_t asked : {std::size_t{0}, std::size_t{5}}) {
    Windowed pot(toy::make_pot(model, 40, 20, Granularity::shared), asked);
    toy::Engine<Windowed> engine(model, pot);
    Ccd reader(engine, pot, StreamingLlm(), {.keep = 20, .sinks = 2});
    VectorArchive archive(model.shape);
    reader.archive_to(archive);
    reader.feed(toy::text(100, 1));
    const Recalled recalled = recall(reader, archive, question);
    ASSERT_TRUE(recalled.done);
    EXPECT_EQ(recalled.positions.size(), 18 - asked);
    EXPECT_EQ(pot.size(), 20U);
    for (std::size_t i = 0; i < asked; ++i)
      EXPECT_EQ(pot.entries().positions(0)[20 - asked + i], 100 - asked + i);
  }
}

}  // namespace
