// A recall that somebody else runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
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

const std::vector<Token> question{7, 21, 3, 44};
constexpr CcdSettings settings{.keep = 20, .sinks = 2, .chunk = 16};

template <class P = StreamingLlm>
struct Reading {
  explicit Reading(std::uint64_t seed = 3, P policy = {}, bool rows = true)
      : archive(model.shape, rows),
        text(toy::text(150, seed)),
        pot(toy::make_pot(model, 40, 20, Granularity::shared)),
        engine(model, pot),
        reader(engine, pot, std::move(policy), settings) {
    reader.archive_to(archive);
    reader.feed(std::span(text).first(5), Retention::pinned);
    reader.feed(std::span(text).subspan(5));
  }

  toy::Model model;
  VectorArchive archive;
  std::vector<Token> text;
  Pot<float> pot;
  toy::QueryEngine<Pot<float>> engine;
  Ccd<toy::QueryEngine<Pot<float>>, Pot<float>, P> reader;
};

template <class R>
std::string state(const R& run) {
  std::ostringstream out;
  save_pot(run.pot, out, run.reader.memory());
  return out.str();
}

/// What was recalled, without times.
void expect_same(const Recalled& recalled, const Recalled& expected) {
  EXPECT_EQ(recalled.done, expected.done);
  EXPECT_EQ(recalled.steps, expected.steps);
  EXPECT_EQ(recalled.distillations, expected.distillations);
  EXPECT_EQ(recalled.positions, expected.positions);
  EXPECT_EQ(recalled.draft, expected.draft);
}

/// Of one step and several, with all that they may do.
std::vector<RecallSettings> all_settings() {
  return {{},
          {.steps = 3, .draft = 4, .recent = 3},
          {.steps = 2, .next = NextCatalyst::found_and_question, .read_anew = true, .recent = 7},
          {.steps = 2, .draft = 3, .ask = {1, 2}, .read_anew = true}};
}

TEST(Recaller, DrivenByNextAndDoneIsRecall) {
  for (const bool rows : {true, false})
    for (const RecallSettings& steps : all_settings()) {
      Reading driven(3, {}, rows), plain(3, {}, rows);
      Pot<float> large = toy::make_pot(driven.model, 60, 20, Granularity::shared), same = large.fork();
      toy::QueryEngine<Pot<float>> engine(driven.model, large), other(driven.model, same);
      Recaller recaller(driven.reader, engine, large, driven.archive, question, steps);
      std::size_t passes = 0;
      while (const Pass* const pass = recaller.next()) {
        EXPECT_EQ(recaller.next(), pass);
        run_pass(engine, *pass);
        recaller.done();
        ++passes;
      }
      EXPECT_EQ(recaller.next(), nullptr);
      expect_same(recaller.recalled(), recall(plain.reader, other, same, plain.archive, question, steps));
      EXPECT_EQ(passes, other.calls());
      EXPECT_TRUE(state(driven) == state(plain));
    }
}

TEST(Recaller, OfSeveralReadersWhileAnotherReads) {
  std::vector<std::unique_ptr<Reading<>>> readings, alone;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    readings.push_back(std::make_unique<Reading<>>(seed));
    alone.push_back(std::make_unique<Reading<>>(seed));
  }
  const RecallSettings steps{.steps = 2, .draft = 3};
  using One = Recaller<decltype(readings[0]->reader), VectorArchive>;
  std::vector<std::unique_ptr<One>> recallers;
  for (std::size_t i = 0; i < 3; ++i)  // in the readers' own pots
    recallers.push_back(std::make_unique<One>(readings[i]->reader, readings[i]->archive, question, steps));
  const auto more = toy::text(200, 9);
  readings[3]->reader.start(more);
  for (bool any = true; any;) {
    std::vector<const Pass*> batch;
    for (auto& recaller : recallers) batch.push_back(recaller->next());
    batch.push_back(readings[3]->reader.next());
    for (std::size_t i = 0; i < batch.size(); ++i)
      if (batch[i] != nullptr) run_pass(readings[i]->engine, *batch[i]);
    any = std::ranges::any_of(batch, [](const Pass* pass) { return pass != nullptr; });
    if (batch[3] != nullptr) readings[3]->reader.done();
    for (std::size_t i = 0; i < 3; ++i)
      if (batch[i] != nullptr) recallers[i]->done();
  }
  for (std::size_t i = 0; i < 3; ++i) {
    expect_same(recallers[i]->recalled(), recall(alone[i]->reader, alone[i]->archive, question, steps));
    EXPECT_TRUE(state(*readings[i]) == state(*alone[i])) << i;
  }
  alone[3]->reader.feed(more);
  EXPECT_TRUE(state(*readings[3]) == state(*alone[3]));
}

TEST(Recaller, ThatFailsOrIsGivenUpAtAnyPassLeavesTheReaderAsItWas) {
  enum class Way { failed, destroyed, not_shown };
  Reading undisturbed;
  const std::string before = state(undisturbed);
  undisturbed.reader.feed(question);
  for (const bool in_own_pot : {true, false})
    for (const RecallSettings& steps : all_settings())
      for (const Way way : {Way::failed, Way::destroyed, Way::not_shown})
        for (std::size_t failing = 0;; failing += 5) {
          Reading read;
          Pot<float> other = toy::make_pot(read.model, 60, 20, Granularity::shared);
          toy::QueryEngine<Pot<float>> another(read.model, other);
          const bool own = in_own_pot && steps.next == NextCatalyst::draft;  // other catalysts need more room
          auto& engine = own ? read.engine : another;
          using One = Recaller<decltype(read.reader), VectorArchive>;
          auto recaller =
              own ? std::make_unique<One>(read.reader, read.archive, question, steps)
                  : std::make_unique<One>(read.reader, another, other, read.archive, question, steps);
          const Pass* pass = recaller->next();
          for (std::size_t i = 0; i < failing && pass != nullptr; ++i) {
            run_pass(engine, *pass);
            recaller->done();
            pass = recaller->next();
          }
          if (pass == nullptr) break;
          if (way == Way::failed) {
            engine.quirks.fault = toy::Fault{engine.calls(), 1, 0};
            EXPECT_THROW(run_pass(engine, *pass), std::runtime_error);
            recaller->failed();
          }
          if (way == Way::not_shown) {
            EXPECT_THROW(recaller->done(), std::invalid_argument);
          }
          if (way == Way::destroyed) {
            recaller.reset();
          } else {
            EXPECT_EQ(recaller->next(), nullptr);
            EXPECT_FALSE(recaller->recalled().done);
          }
          EXPECT_TRUE(state(read) == before) << "pass " << failing;
          read.reader.feed(question);
          EXPECT_TRUE(state(read) == state(undisturbed)) << "pass " << failing;
        }
}

TEST(Recaller, GivenUpByProgressLeavesTheReaderAsItWas) {
  Reading read;
  const std::string before = state(read);
  RecallSettings steps;
  std::size_t blocks = 0;
  steps.progress = [&](const RecallProgress&) { return ++blocks < 4; };
  Recaller recaller(read.reader, read.archive, question, steps);
  while (const Pass* const pass = recaller.next()) {
    run_pass(read.engine, *pass);
    recaller.done();
  }
  EXPECT_EQ(blocks, 4U);
  EXPECT_FALSE(recaller.recalled().done);
  EXPECT_TRUE(state(read) == before);
}

TEST(Recaller, KeepsTheNewestEntriesInASmallPot) {
  const toy::Model model;
  const auto text = toy::text(150, 3);
  constexpr std::size_t recent = 8;
  for (const std::size_t keep : {20U, 36U, 38U}) {
    Pot<float> pot = toy::make_pot(model, 40, 38, Granularity::shared);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    Ccd reader(engine, pot, StreamingLlm(), {.keep = keep, .sinks = 2});
    VectorArchive archive(model.shape);
    reader.archive_to(archive);
    reader.feed(text);
    const auto no_recent = [](const std::vector<Token>& catalyst) {
      return Infinipot({.catalysts = {catalyst}, .alpha = 0});
    };
    EXPECT_TRUE(recall(reader, archive, question, {.recent = recent}, no_recent).done);
    ASSERT_EQ(pot.size(), std::min<std::size_t>(keep, 36)) << "in front of the question";
    for (std::size_t i = 1; i <= recent; ++i)
      EXPECT_EQ(pot.entries().positions(0)[pot.size() - i], text.size() - i);
  }
}

TEST(Recaller, InAPotTooSmallForTheNewestEntriesIsRefused) {
  Reading read;
  Pot<float> pot = toy::make_pot(read.model, 14, 12, Granularity::shared);
  toy::QueryEngine<Pot<float>> engine(read.model, pot);
  const std::string before = state(read);
  expect_invalid([&] { recall(read.reader, engine, pot, read.archive, question, {.recent = 11}); },
                 {"a pot of 14", "the 11 newest", "4 tokens"});
  EXPECT_TRUE(state(read) == before);
}

TEST(Recaller, OfAReaderThatReadsMeanwhileIsRefused) {
  Reading read;
  Pot<float> pot = toy::make_pot(read.model, 40, 20, Granularity::shared);
  toy::QueryEngine<Pot<float>> engine(read.model, pot);
  Recaller recaller(read.reader, engine, pot, read.archive, question);
  run_pass(engine, *recaller.next());
  recaller.done();
  read.reader.feed(1);
  const std::string before = state(read);
  expect_invalid([&] { recaller.next(); }, {"have changed since the recall began"});
  EXPECT_EQ(recaller.next(), nullptr);
  EXPECT_TRUE(state(read) == before);

  Recaller in_own_pot(read.reader, read.archive, question);
  ASSERT_NE(in_own_pot.next(), nullptr);
  expect_invalid([&] { read.reader.feed(1); }, {"changed by something other"});
  in_own_pot.failed();
  EXPECT_TRUE(state(read) == before);
  read.reader.feed(1);
}

/// Somebody else runs the passes.
struct Described {
  static constexpr Shows shows = Shows::queries;
  Shape shape() const { return model.shape; }
  std::size_t vocab_size() const { return toy::Model::vocabulary; }
  const toy::Model& model;
};

TEST(Recaller, RecallsForAnEngineThatIsOnlyDescribed) {
  Reading plain;
  Pot<float> pot = toy::make_pot(plain.model, 40, 20, Granularity::shared);
  toy::QueryEngine<Pot<float>> engine(plain.model, pot);
  Described described{plain.model};
  Ccd reader(described, pot, StreamingLlm(), settings);
  const auto run = [&](auto& driven) {
    while (const Pass* const pass = driven.next()) {
      run_pass(engine, *pass);
      driven.done();
    }
  };
  for (const auto& [tokens, retention] :
       {std::pair(std::span(plain.text).first(5), Retention::pinned),
        std::pair(std::span(plain.text).subspan(5), Retention::evictable)}) {
    reader.start(tokens, retention);
    run(reader);
  }
  Recaller recaller(reader, plain.archive, question);
  run(recaller);
  EXPECT_TRUE(recaller.recalled().done);
  recall(plain.reader, plain.archive, question);
  EXPECT_EQ(trial::snapshot_of(pot, reader), trial::snapshot_of(plain.pot, plain.reader));
}

}  // namespace
