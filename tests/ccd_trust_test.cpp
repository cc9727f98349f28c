// The loop with engines, stores and policies that break their promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ccd_trial.hpp"
#include "cell_store.hpp"
#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;
using infinipot::Choice;
using infinipot::LogitsSink;
using infinipot::Queries;
using infinipot::QuerySink;
using infinipot::Shape;

// ---------------------------------------------------------------- a distillation that fails

/// A policy of two probes whose attention adds up, over all distillations.
struct Adding {
  static constexpr bool carries_attention = true;
  std::array<std::vector<Token>, 2> probes{{{7, 21}, {3, 44}}};

  std::string_view name() const { return "adding"; }
  infinipot::Reduce reduce() const { return infinipot::Reduce::sum; }
  std::size_t longest_probe() const { return 2; }
  std::span<const Token> probe(std::size_t i, const infinipot::ProbeContext& /*context*/) const {
    return i < probes.size() ? std::span<const Token>(probes[i]) : std::span<const Token>();
  }
};

using Scores = std::vector<std::vector<float>>;

template <class Reader>
void note_scores(Reader& reader, Scores& scores) {
  reader.on_choice(
      [&](const Choice& choice) { scores.emplace_back(choice.attention.begin(), choice.attention.end()); });
}

TEST(FailedDistillation, WhatProbesAddedIsNotCountedTwice) {
  const toy::Model model;
  const auto text = toy::text(150, 3);
  // Calls: 5 chunks, two probes, ...
  for (std::size_t failing = 0; failing < 12; ++failing) {
    Scores scores[2];
    for (const bool fails : {false, true}) {
      auto pot = toy::make_pot(model, 40, 20);
      toy::QueryEngine<Pot<float>> engine(model, pot);
      infinipot::Ccd reader(engine, pot, Adding{}, {.keep = 10, .sinks = 0, .chunk = 8});
      note_scores(reader, scores[fails ? 1 : 0]);
      if (fails) engine.quirks.fault = toy::Fault{failing, 1, 1};
      while (reader.stats().tokens_read < text.size()) try {
          reader.feed(std::span(text).subspan(reader.stats().tokens_read));
        } catch (const std::runtime_error&) {
          EXPECT_TRUE(fails);
        }
    }
    EXPECT_GE(scores[0].size(), 4U);
    EXPECT_EQ(scores[1], scores[0]) << "failed at call " << failing;
  }
}

TEST(FailedDistillation, ObserverOfTheChoiceThatThrowsLeavesNoTrace) {
  const toy::Model model;
  const auto text = toy::text(100, 3);
  const auto read = [&](bool throws, Scores& scores) {
    auto pot = toy::make_pot(model, 40, 20);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    infinipot::Ccd reader(engine, pot, Adding{}, {.keep = 10, .sinks = 0, .chunk = 8});
    bool threw = false;
    reader.on_choice([&](const Choice& choice) {
      threw = !threw && throws;
      if (threw) throw std::runtime_error("observer");
      scores.emplace_back(choice.attention.begin(), choice.attention.end());
    });
    while (reader.stats().tokens_read < text.size()) try {
        reader.feed(std::span(text).subspan(reader.stats().tokens_read));
      } catch (const std::runtime_error&) {
        EXPECT_TRUE(throws);
      }
    return snapshot_of(pot, reader);
  };
  Scores undisturbed, disturbed;
  EXPECT_EQ(read(true, disturbed), read(false, undisturbed));
  EXPECT_EQ(disturbed, undisturbed);
  EXPECT_GE(disturbed.size(), 2U);
}

/// Distils early, failing at every call of that, and again.
template <toy::Shows shows>
void expect_early_failures_leave_no_trace(const CcdSpec& spec) {
  SCOPED_TRACE(trace(spec));
  const toy::Model model;
  const auto text = toy::text(100, 4);
  const std::size_t first = 25, second = 24;  // tokens before distil(), which finds survivors the second time
  for (std::size_t failing = 0; failing < 9; ++failing)
    for (std::size_t layer = 0; layer <= model.shape.layers; ++layer) {
      SCOPED_TRACE(testing::Message() << "call " << failing << " of distil(), layer " << layer);
      std::vector<Snapshot> ends;
      for (const bool fails : {false, true})
        with_run<float, shows>(model, spec, KeyStorage::rotated, 5, [&](auto& run) {
          const auto distil = [&] {
            const Snapshot before = snapshot(run);
            if (fails) run.engine.quirks.fault = toy::Fault{run.engine.calls() + failing, layer, 1};
            try {
              run.reader.distil();
            } catch (const std::runtime_error&) {
              EXPECT_EQ(snapshot(run), before);
              run.reader.distil();
            }
            run.engine.quirks.fault.reset();
          };
          run.reader.feed(std::span(text).first(first));
          distil();
          run.reader.feed(std::span(text).subspan(first, second));
          distil();
          run.reader.feed(std::span(text).subspan(first + second));
          ends.push_back(snapshot(run));
        });
      if (ends.empty()) return;  // the engine cannot show what the policy needs
      EXPECT_EQ(ends[1], ends[0]);
    }
}

TEST(FailedDistillation, AtAnyFillLeavesNoTrace) {
  for (const Kind kind : all_kinds) {
    auto spec = spec_of(kind);
    spec.window = 11;  // three chunks
    expect_early_failures_leave_no_trace<toy::Shows::queries>(spec);
    expect_early_failures_leave_no_trace<toy::Shows::attention>(spec);
  }
}

TEST(EarlyDistillation, WindowThatShrinksIsWatchedAnew) {
  const toy::Model model;
  const auto text = toy::text(100, 5);
  for (std::size_t stop = 24; stop <= 40; ++stop) {
    std::vector<Snapshot> ends;
    for (const bool changes : {true, false}) {
      auto pot = toy::make_pot(model, 40, 20);
      toy::QueryEngine<Pot<float>> engine(model, pot);
      infinipot::Ccd reader(engine, pot, infinipot::SnapKv(changes ? 9 : 3, 1),
                            {.keep = 16, .sinks = 2, .recent = 9});
      reader.feed(std::span(text).first(stop));
      if (changes) reader.set_policy(infinipot::SnapKv(5, 1));
      if (changes) reader.set_policy(infinipot::SnapKv(3, 1));
      reader.feed(std::span(text).subspan(stop));
      reader.distil();
      ends.push_back(snapshot_of(pot, reader));
    }
    EXPECT_EQ(ends[0], ends[1]) << stop;
  }
}

TEST(Generate, AcceptsATokenOnceWhateverThrows) {
  const toy::Model model;
  for (std::size_t failing = 1; failing < 40; ++failing)
    for (const bool feeds : {false, true}) {
      std::vector<Token> accepted[2];
      std::vector<Snapshot> ends;
      for (const bool fails : {false, true})
        with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 16, [&](auto& run) {
          auto& tokens = accepted[fails ? 1 : 0];
          const auto accept = [&](Token token) {
            tokens.push_back(token);
            return true;
          };
          run.reader.feed(toy::text(10, 1));
          if (fails) run.engine.quirks.fault = toy::Fault{failing, 1, 0};
          try {
            run.reader.generate(35, most_likely, accept);
          } catch (const std::runtime_error&) {
            EXPECT_TRUE(fails);
            if (!feeds) run.reader.generate(35 - tokens.size(), most_likely, accept);
          }
          run.engine.quirks.fault.reset();
          run.reader.feed(toy::text(3, 2), Retention::pinned);
          ends.push_back(snapshot(run));
        });
      if (feeds && accepted[1].size() < 35) {
        EXPECT_TRUE(std::equal(accepted[1].begin(), accepted[1].end(), accepted[0].begin()));
        continue;
      }
      EXPECT_EQ(accepted[1], accepted[0]) << "failed at call " << failing;
      EXPECT_EQ(ends[1], ends[0]);
    }
}

TEST(Generate, TellsWhatIsUnread) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::Engine<Pot<float>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 20});
  reader.feed(toy::text(10, 1));
  EXPECT_FALSE(reader.unread());
  engine.quirks.fault = toy::Fault{engine.calls(), 0, 0};
  const auto seven = [](std::span<const float> /*logits*/) { return Token{7}; };
  const auto all = [](Token /*token*/) { return true; };
  EXPECT_THROW(reader.generate(1, seven, all), std::runtime_error);
  EXPECT_EQ(reader.unread(), 7);
  EXPECT_EQ(reader.stats().tokens_read, 10U);
  const auto memory = reader.memory();
  auto copy = pot.fork();
  toy::Engine<Pot<float>> other(model, copy);
  auto fork = reader.fork(other, copy);
  reader.feed(8);
  EXPECT_FALSE(reader.unread());
  EXPECT_TRUE(std::ranges::equal(pot.entries().tokens(0).last(2), std::array<Token, 2>{7, 8}));
  fork.feed(8);
  EXPECT_EQ(snapshot_of(copy, fork), snapshot_of(pot, reader));
  pot.truncate(10);
  reader.resume(memory);
  EXPECT_EQ(reader.unread(), 7);
  EXPECT_EQ(reader.generate(0, seven, all), 0U);
  EXPECT_EQ(pot.entries().tokens(0).back(), 7);
}

TEST(Generate, TokenOutsideTheVocabularyIsNotAccepted) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 16, [&](auto& run) {
    run.reader.feed(1);
    const auto fifty = [](std::span<const float> /*logits*/) { return Token{50}; };
    const auto accept = [](Token /*token*/) -> bool { throw std::logic_error("accepted"); };
    expect_invalid([&] { run.reader.generate(1, fifty, accept); }, {"token 50", "0 .. 49"});
  });
}

// ---------------------------------------------------------------- tokens of policies

template <class P>
void expect_refused_tokens(const P& good, const P& bad, const std::vector<std::string>& parts) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  expect_invalid([&] { infinipot::Ccd(engine, pot, bad, {.keep = 20}); }, parts);
  infinipot::Ccd reader(engine, pot, good, {.keep = 20});
  expect_invalid([&] { reader.set_policy(bad); }, parts);
  reader.feed(toy::text(100, 1));
  EXPECT_GE(reader.stats().distillations, 2U);
}

TEST(Probes, TokensOutsideTheVocabularyAreRefusedAtOnce) {
  using infinipot::Infinipot, infinipot::Reread;
  expect_refused_tokens(Infinipot({.catalysts = {{0, 49}, {1}}}), Infinipot({.catalysts = {{1, 2}, {50}}}),
                        {"catalyst", "token 50", "0 .. 49"});
  expect_refused_tokens(Infinipot({.catalysts = {{0}}}), Infinipot({.catalysts = {{-1}}}), {"token -1"});
  expect_refused_tokens(Reread({.instruction = {49}, .block = 4}),
                        Reread({.instruction = {100000}, .block = 4}), {"instruction", "token 100000"});
}

/// Its probes turn bad when it is told to.
struct Turning {
  mutable std::vector<Token> tokens{1, 2};
  std::string_view name() const { return "turning"; }
  infinipot::Reduce reduce() const { return infinipot::Reduce::sum; }
  std::size_t longest_probe() const { return 2; }
  std::span<const Token> probe(std::size_t i, const infinipot::ProbeContext& /*context*/) const {
    return i == 0 ? std::span<const Token>(tokens) : std::span<const Token>();
  }
};

TEST(Probes, ThatTurnBadAreRefusedBeforeTheEngineSeesThem) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, Turning(), {.keep = 20});
  reader.feed(toy::text(38, 1));
  const Snapshot before = snapshot_of(pot, reader);
  const std::size_t calls = engine.calls();
  reader.policy().tokens = {1, 50};
  expect_invalid([&] { reader.feed(1); }, {"token 50"});
  reader.policy().tokens = {1, 2, 3};
  expect_invalid([&] { reader.feed(1); }, {"turning", "3 tokens", "2 of its longest_probe()"});
  EXPECT_EQ(engine.calls(), calls);
  EXPECT_EQ(snapshot_of(pot, reader), before);
  reader.policy().tokens = {1, 2};
  reader.feed(1);
}

// ---------------------------------------------------------------- engines that do not show what they should

/// Changes what a call shows.
struct Distorting {
  enum class Way {
    none,
    no_last_row,
    no_row,
    short_row,
    fewer_queries,
    more_queries,
    no_queries,
    null_queries,
    stray_layer
  };

  struct Rows final : LogitsSink {
    Rows(const LogitsSink& to, std::size_t last, Way how)
        : LogitsSink(to), sink(const_cast<LogitsSink&>(to)), tokens(last), way(how) {}
    void row(std::size_t token, std::span<const float> logits) noexcept override {
      const bool is_last = token + 1 == tokens;
      if ((way == Way::no_last_row && is_last) || (way == Way::no_row && token == 1)) return;
      sink.row(token, way == Way::short_row ? logits.first(49) : logits);
    }
    LogitsSink& sink;
    std::size_t tokens;
    Way way;
  };

  struct Shown final : QuerySink {
    Shown(QuerySink& to, Way how) : sink(to), way(how) {}
    void layer(std::size_t layer, const Queries& queries) noexcept override {
      Queries shown = queries;
      if (way == Way::fewer_queries) --shown.count;
      if (way == Way::more_queries) ++shown.count;
      if (way == Way::null_queries) shown.data = nullptr;
      if (way == Way::no_queries && layer == 1) return;
      sink.layer(way == Way::stray_layer ? layer + 1 : layer, shown);
    }
    QuerySink& sink;
    Way way;
  };

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    Rows rows(logits, tokens.size(), way);
    engine.forward(tokens, first, rows);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& queries) {
    Rows rows(logits, tokens.size(), way);
    Shown shown(queries, way);
    engine.forward(tokens, first, rows, shown);
  }

  toy::QueryEngine<Pot<float>>& engine;
  Way way = Way::none;
};

template <class P>
void expect_noticed(const P& policy, Distorting::Way way, const std::vector<std::string>& parts) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  Distorting distorting{engine};
  infinipot::Ccd reader(distorting, pot, policy, {.keep = 20, .sinks = 2, .chunk = 4});
  reader.feed(toy::text(38, 1));
  const Snapshot before = snapshot_of(pot, reader);
  distorting.way = way;
  for (int again = 0; again < 2; ++again) {
    expect_invalid([&] { reader.feed(toy::text(9, 2)); }, parts);
    EXPECT_EQ(snapshot_of(pot, reader), before);
  }
  distorting.way = Distorting::Way::none;
  reader.feed(toy::text(60, 2));
}

TEST(Engines, ThatShowTooLittleOrTooMuchAreRefused) {
  using Way = Distorting::Way;
  const infinipot::SirLlm logits;
  expect_noticed(logits, Way::no_last_row, {"no 50 logits after token 1 of a call of 2"});
  expect_noticed(logits, Way::short_row, {"no 50 logits"});
  const infinipot::StreamingLlm last;
  expect_noticed(last, Way::no_last_row, {"no 50 logits after token 1 of a call of 2"});
  const infinipot::H2o h2o;
  const infinipot::ExpectedAttention expected({.rope = infinipot::plain_rope(8, 100)});
  const infinipot::Infinipot catalyst({.catalysts = {{7, 21}}, .alpha = 0});
  const auto all = [&](Way way, const std::vector<std::string>& parts) {
    expect_noticed(h2o, way, parts);
    expect_noticed(expected, way, parts);
    expect_noticed(catalyst, way, parts);
  };
  all(Way::fewer_queries, {"queries of 1 tokens in layer 0", "a call of 2"});
  all(Way::more_queries, {"queries of 3 tokens in layer 0", "a call of 2"});
  all(Way::null_queries, {"null pointer"});
  all(Way::no_queries, {"queries of 1 layers", "not of each of 2"});
  all(Way::stray_layer, {"in layer 2", "2 layers"});
}

TEST(Engines, ThatLeaveOutARowInTheMiddleAreRefused) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  Distorting distorting{engine, Distorting::Way::no_row};
  infinipot::Ccd reader(distorting, pot, infinipot::SirLlm(), {.keep = 20});
  expect_invalid([&] { reader.feed(toy::text(4, 1)); }, {"after token 1 of a call of 4"});
  EXPECT_EQ(pot.size(), 0U);
}

/// Shows no attention, or some of a head that there is not.
struct Inattentive {
  struct Rows final : infinipot::AttentionSink {
    Rows(infinipot::AttentionSink& to, bool goes_astray) : sink(to), stray(goes_astray) {}
    void row(std::size_t layer, std::size_t head, std::size_t token,
             std::span<const float> probabilities) noexcept override {
      if (!stray) return;
      sink.row(layer, head, token, probabilities);
      sink.row(layer, head + 1, token, probabilities);
      sink.row(layer + 1, head, token, probabilities);
    }
    infinipot::AttentionSink& sink;
    bool stray;
  };

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    engine.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
               infinipot::AttentionSink& attention) {
    Rows rows(attention, stray);
    engine.forward(tokens, first, logits, rows);
  }

  toy::AttentionEngine<Pot<float>>& engine;
  bool stray = false;
};

TEST(Engines, ThatShowNoAttentionOrThatOfNoHeadAreRefused) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::AttentionEngine<Pot<float>> engine(model, pot);
  Inattentive inattentive{engine};
  infinipot::Ccd reader(inattentive, pot, infinipot::H2o(), {.keep = 20});
  expect_invalid([&] { reader.feed(1); }, {"showed no attention"});
  inattentive.stray = true;
  expect_invalid([&] { reader.feed(1); }, {"outside of its shape"});
  EXPECT_EQ(pot.size(), 0U);
}

// ---------------------------------------------------------------- stores that throw

/// A pot whose operations throw when they are told to.
struct ThrowingStore {
  Pot<float>& pot;
  bool append_throws = false, truncate_throws = false, keep_throws = false;

  const Shape& shape() const { return pot.shape(); }
  std::size_t capacity() const { return pot.capacity(); }
  Granularity granularity() const { return pot.granularity(); }
  const infinipot::EntryTable& entries() const { return pot.entries(); }
  infinipot::FloatRows key_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t count,
                                float* tile) const noexcept {
    return pot.key_rows(layer, head, first, count, tile);
  }
  static void fail(bool throws) {
    if (throws) throw std::domain_error("store");
  }
  void append(std::span<const infinipot::Entry> added) {
    fail(append_throws);
    pot.append(added);
  }
  void truncate(std::size_t size) {
    fail(truncate_throws);
    pot.truncate(size);
  }
  void keep(const infinipot::Selection& kept) {
    fail(keep_throws);
    pot.keep(kept);
  }
};

template <class P>
struct Faulty {
  explicit Faulty(const P& policy)
      : pot(toy::make_pot(model, 40, 20)),
        engine(model, pot),
        reader(engine, store, policy, {.keep = 20, .sinks = 2, .chunk = 8}) {}

  void finish() {
    reader.feed(std::span(text).subspan(reader.stats().tokens_read));
    end = snapshot_of(pot, reader);
  }

  toy::Model model;
  std::vector<Token> text = toy::text(100, 6);
  Pot<float> pot;
  ThrowingStore store{pot};
  toy::QueryEngine<Pot<float>> engine;
  infinipot::Ccd<toy::QueryEngine<Pot<float>>, ThrowingStore, P> reader;
  Snapshot end;
};

const infinipot::Infinipot catalyst({.catalysts = {{7, 21}}});

TEST(Stores, WhoseTruncateThrowsDoNotEndTheProgram) {
  Faulty undisturbed(catalyst);
  undisturbed.finish();

  Faulty run(catalyst);
  run.reader.feed(std::span(run.text).first(12));
  const Snapshot before = snapshot_of(run.pot, run.reader);
  run.store.truncate_throws = true;
  run.engine.quirks.fault = toy::Fault{run.engine.calls(), 1, 0};
  EXPECT_THROW(run.reader.feed(1), std::runtime_error) << "forward()'s, though truncate() threw too";
  EXPECT_THROW(run.reader.feed(1), std::domain_error) << "truncate() is tried again";
  EXPECT_THROW(run.reader.distil(), std::domain_error);
  EXPECT_EQ(snapshot_of(run.pot, run.reader), before);
  run.store.truncate_throws = false;
  run.finish();
  EXPECT_EQ(run.end, undisturbed.end);
}

TEST(Stores, ThatCannotDropAProbeAreAskedAgain) {
  Faulty undisturbed(catalyst);
  undisturbed.finish();
  Faulty run(catalyst);
  run.reader.feed(std::span(run.text).first(38));
  run.store.truncate_throws = true;
  EXPECT_THROW(run.reader.feed(run.text[38]), std::domain_error);
  EXPECT_THROW(run.reader.feed(run.text[38]), std::domain_error);
  EXPECT_EQ(run.reader.stats().distillations, 0U);
  run.store.truncate_throws = false;
  run.finish();
  EXPECT_EQ(run.end, undisturbed.end);
}

TEST(Stores, ThatCannotAppendOrDropWhatTheyCouldNotAppend) {
  Faulty undisturbed(catalyst);
  undisturbed.finish();
  Faulty run(catalyst);
  run.reader.feed(std::span(run.text).first(12));
  run.store.append_throws = run.store.truncate_throws = true;
  EXPECT_THROW(run.reader.feed(run.text[12]), std::domain_error);
  run.store.append_throws = run.store.truncate_throws = false;
  run.finish();
  EXPECT_EQ(run.end, undisturbed.end);
}

TEST(Stores, ThatFailToKeepAreNotReadIntoBeforeResume) {
  Faulty run(catalyst);
  run.reader.feed(std::span(run.text).first(38));
  const auto memory = run.reader.memory();
  run.store.keep_throws = true;
  EXPECT_THROW(run.reader.feed(run.text[38]), std::domain_error);
  const std::vector<std::string> parts{"may have lost entries", "resume()"};
  expect_invalid([&] { run.reader.feed(run.text[38]); }, parts);
  expect_invalid([&] { run.reader.distil(); }, parts);
  run.store.keep_throws = false;
  expect_invalid([&] { run.reader.feed(run.text[38]); }, parts);
  run.reader.resume(memory);  // this one lost nothing
  run.finish();
  Faulty undisturbed(catalyst);
  undisturbed.finish();
  EXPECT_EQ(run.end, undisturbed.end);
}

// A policy that watches the last queries reads the last tokens anew: the store may fail in between.
TEST(Stores, ThatLoseTheWindowAreNotReadIntoBeforeResume) {
  Faulty run(infinipot::SnapKv(6, 1));
  run.reader.feed(std::span(run.text).first(30));
  const Snapshot before = snapshot_of(run.pot, run.reader);
  run.store.truncate_throws = true;
  EXPECT_THROW(run.reader.distil(), std::domain_error);
  run.store.truncate_throws = false;
  EXPECT_EQ(snapshot_of(run.pot, run.reader), before);
  const auto memory = run.reader.memory();

  run.store.append_throws = true;
  EXPECT_THROW(run.reader.distil(), std::domain_error);
  expect_invalid([&] { run.reader.feed(1); }, {"may have lost entries", "resume()"});
  EXPECT_EQ(run.pot.size(), 24U);
  run.store.append_throws = false;
  expect_invalid([&] { run.reader.resume(memory); }, {"30 entries", "holds 24"});
  run.reader.resume();
  EXPECT_EQ(run.reader.stats().tokens_read, 24U);
  run.finish();
}

}  // namespace
