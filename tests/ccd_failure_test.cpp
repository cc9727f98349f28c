// The loop when its settings are wrong, the forward pass fails, or numbers go bad.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"
#include "cell_store.hpp"
#include "expect_invalid.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/reference_ccd.hpp"
#include "reference/reference_rope.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;

// ---------------------------------------------------------------- errors

/// Builds a reader over a pot of 40 (at most 20 kept).
template <class P>
std::function<void()> reader_of(P policy, infinipot::CcdSettings settings, std::size_t max_keep = 20) {
  return [=] {
    const toy::Model model;
    auto pot = toy::make_pot(model, 40, max_keep);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    infinipot::Ccd reader(engine, pot, policy, settings);
  };
}

TEST(CcdErrors, SettingsThatCannotWork) {
  const infinipot::Infinipot policy({.catalysts = {{1, 2, 3}}});
  const infinipot::StreamingLlm simple;
  expect_invalid(reader_of(simple, {.keep = 40}), {"keep 40", "capacity 40"});
  expect_invalid(reader_of(simple, {.keep = 41}), {"keep 41", "capacity 40"});
  expect_invalid(reader_of(simple, {.keep = 21}), {"keep 21", "max_keep 20"});
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = 31, .recent = 6}),
                 {"capacity 40", "31 sinks", "6 recent", "3 catalyst", "at least 41"});
  expect_invalid(reader_of(simple, {.keep = 20, .sinks = 15, .recent = 6}),
                 {"keep 20", "15 sinks", "6 recent"});
  expect_invalid(reader_of(policy, {.keep = 38}, 39),
                 {"capacity 40", "38 kept", "3 catalyst tokens", "at least 42"});
  expect_invalid(reader_of(policy, {.keep = 37}, 39), {"capacity 40", "37 kept", "at least 41"});
  expect_invalid(
      reader_of(infinipot::Infinipot({.catalysts = {{1, 2, 3}}, .longest_catalyst = 21}), {.keep = 20}),
      {"capacity 40", "20 kept", "21 catalyst tokens", "at least 42"});
  expect_invalid(reader_of(infinipot::SnapKv(11), {.keep = 30}, 39),
                 {"capacity 40", "30 kept", "window of 11", "at least 41"});
  expect_invalid(reader_of(infinipot::SnapKv(64), {.keep = 20}), {"capacity 40", "64"});
  expect_invalid(reader_of(infinipot::H2o(), {.keep = 20, .sinks = 11}),
                 {"keep 20", "11 sinks", "10 recent"});
  expect_invalid(reader_of(simple, {.keep = 20, .chunk = 0}), {"chunk 0"});
}

TEST(CcdErrors, CatalystAsLongAsThePot) {
  const std::vector<Token> catalyst(40, 1);
  expect_invalid(reader_of(infinipot::Infinipot({.catalysts = {catalyst}}), {.keep = 1, .sinks = 0}),
                 {"capacity 40", "40 catalyst"});
}

// A difference below zero wraps around; sums with it must not.
TEST(CcdErrors, NumbersThatWrapAround) {
  const auto minus = [](std::size_t n) { return std::size_t{0} - n; };
  const infinipot::StreamingLlm policy;
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = 4, .recent = minus(3)}), {"recent", "capacity 40"});
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = minus(3), .recent = 4}), {"sinks", "capacity 40"});
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = minus(2)}), {"sinks", "capacity 40"});
  expect_invalid(reader_of(infinipot::SnapKv(minus(5)), {.keep = 20, .sinks = 5}), {"capacity 40"});
}

TEST(CcdErrors, SettingsAtTheLimitsWork) {
  const infinipot::StreamingLlm simple;
  EXPECT_NO_THROW(reader_of(simple, {.keep = 39}, 39)());
  EXPECT_NO_THROW(reader_of(simple, {.keep = 20, .sinks = 14, .recent = 6})());
  EXPECT_NO_THROW(reader_of(simple, {.keep = 39, .sinks = 20, .recent = 19}, 39)());
  EXPECT_NO_THROW(reader_of(infinipot::Infinipot({.catalysts = {{1, 2, 3}}}), {.keep = 36}, 39)());
  EXPECT_NO_THROW(
      reader_of(infinipot::Infinipot({.catalysts = {{1, 2, 3}}, .longest_catalyst = 19}), {.keep = 20})());
  EXPECT_NO_THROW(reader_of(infinipot::SnapKv(10), {.keep = 30}, 39)());
  EXPECT_NO_THROW(reader_of(simple, {.keep = 1, .sinks = 0})());
}

TEST(CcdErrors, HalfOfThePotIsKeptByDefault) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 41, 20);
  toy::PlainEngine<Pot<float>> engine(model, pot);
  const infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm());
  EXPECT_EQ(reader.settings().keep, 20U);
}

TEST(CcdErrors, PoliciesOutOfRange) {
  using infinipot::Infinipot;
  const auto with_alpha = [](double alpha) {
    return [alpha] { Infinipot({.catalysts = {{1}}, .alpha = alpha}); };
  };
  expect_invalid(with_alpha(-0.25), {"alpha", "-0.25"});
  expect_invalid(with_alpha(1.5), {"alpha", "1.5"});
  expect_invalid(with_alpha(std::numeric_limits<double>::quiet_NaN()), {"alpha", "nan"});
  expect_invalid([] { Infinipot({.catalysts = {}, .alpha = 0.5}); }, {"no catalyst", "0.5"});
  expect_invalid([] { Infinipot({.catalysts = {{1, 2}, {}}}); }, {"catalyst", "empty"});
  expect_invalid([] { Infinipot({.catalysts = {{}}, .alpha = 1}); }, {"catalyst", "empty"});
  expect_invalid([] { Infinipot({.catalysts = {{1}}, .kernel = 4}); }, {"kernel 4"});
  expect_invalid([] { Infinipot({.catalysts = {{1}}, .kernel = 0}); }, {"kernel 0"});
  EXPECT_NO_THROW(Infinipot({.catalysts = {}, .alpha = 1}));
  expect_invalid([] { infinipot::SnapKv(0); }, {"window 0"});
  expect_invalid([] { infinipot::Reread({.instruction = {1}, .block = 0}); }, {"block 0", "at least 1"});
  EXPECT_NO_THROW(infinipot::Reread({.instruction = {1}, .block = 1}));
  expect_invalid([] { infinipot::SnapKv(4, 2); }, {"kernel 2"});
  expect_invalid([] { infinipot::SirLlm(0); }, {"decay 0"});
  expect_invalid([] { infinipot::SirLlm(1.5); }, {"decay 1.5"});
  expect_invalid([] { infinipot::SirLlm{std::numeric_limits<double>::quiet_NaN()}; }, {"decay", "nan"});
  using infinipot::ExpectedAttention;
  expect_invalid([] { ExpectedAttention({.rope = {}, .future = 0}); }, {"future 0", "at least 1"});
  expect_invalid([] { ExpectedAttention({.rope = {}, .epsilon = -1}); }, {"epsilon -1"});
  expect_invalid([] { ExpectedAttention({.rope = {}, .epsilon = std::numeric_limits<double>::infinity()}); },
                 {"epsilon inf"});
  expect_invalid(reader_of(ExpectedAttention({.rope = infinipot::plain_rope(10)}), {.keep = 20}),
                 {"RoPE turns 10", "head_dim is 8"});
  using infinipot::TemporalRedundancy;
  expect_invalid([] { TemporalRedundancy(0, 1); }, {"period 0", "at least 1"});
  expect_invalid([] { TemporalRedundancy(1, 0); }, {"frames 0", "at least 1"});
  expect_invalid([] { TemporalRedundancy(3, ~std::size_t{0} / 2); }, {"of 3 entries", "too many"});
  expect_invalid(reader_of(TemporalRedundancy(7, 3), {.keep = 20, .sinks = 0}), {"keep 20", "21 recent"});
  EXPECT_NO_THROW(reader_of(TemporalRedundancy(10, 2), {.keep = 20, .sinks = 0})());
}

TEST(CcdErrors, EngineAndStoreThatDoNotFit) {
  const toy::Model model;
  const toy::Model wider(infinipot::plain_rope(8),
                         {.layers = 2, .query_heads = 8, .kv_heads = 2, .head_dim = 8});
  auto pot = toy::make_pot(model, 40, 20);
  toy::PlainEngine<Pot<float>> engine(wider, pot);
  expect_invalid([&] { infinipot::Ccd(engine, pot, infinipot::StreamingLlm()); },
                 {"engine's shape (layers 2, query_heads 8, kv_heads 2, head_dim 8)",
                  "store's (layers 2, query_heads 4, kv_heads 2, head_dim 8)"});

  toy::PlainEngine<Pot<float>> fitting(model, pot);
  pot.append(std::array<infinipot::Entry, 3>{});
  expect_invalid([&] { infinipot::Ccd(fitting, pot, infinipot::StreamingLlm()); }, {"3 entries"});

  const toy::Model odd(infinipot::plain_rope(8),
                       {.layers = 2, .query_heads = 5, .kv_heads = 2, .head_dim = 8});
  CellStore cells(odd, 40);
  toy::PlainEngine<CellStore> odd_engine(odd, cells);
  expect_invalid([&] { infinipot::Ccd(odd_engine, cells, infinipot::StreamingLlm()); },
                 {"5", "2", "multiple"});
}

TEST(CcdErrors, LogitsBeforeTheFirstToken) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 16, [&](auto& run) {
    expect_invalid([&] { run.reader.logits(); }, {"before the first token"});
    expect_invalid([&] { run.reader.generate(1, most_likely, [](Token) { return true; }); }, {"first token"});
    run.reader.feed(1);
    EXPECT_NO_THROW(run.reader.logits());
  });
}

TEST(CcdErrors, TokenOutsideTheVocabularyChangesNothing) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 4, [&](auto& run) {
    run.reader.feed(toy::text(36, 9));  // full: the next token would distil first
    const Snapshot before = snapshot(run);
    const auto feed = [&](std::vector<Token> tokens) { return [&run, tokens] { run.reader.feed(tokens); }; };
    expect_invalid(feed({1, 2, 3, 4, 5, 6, -3}), {"token -3", "0 .. 49"});
    expect_invalid(feed({1, 2, 3, 4, 5, 50, 6}), {"token 50", "0 .. 49"});
    expect_invalid([&] { run.reader.feed(std::numeric_limits<Token>::max()); }, {"token 2147483647"});
    EXPECT_EQ(snapshot(run), before);
    EXPECT_NO_THROW(run.reader.feed(0));
    EXPECT_NO_THROW(run.reader.feed(49));
  });
}

TEST(CcdErrors, PinningMoreThanFitsChangesNothing) {
  const toy::Model model;
  const auto text = toy::text(60, 9);
  const auto pin = [&](auto& run, std::size_t count) {
    return [&run, &text, count] { run.reader.feed(std::span(text).first(count), Retention::pinned); };
  };
  // 20 are kept, 2 of them sinks, 3 recent: 15 may be pinned.
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 4, [&](auto& run) {
    run.reader.feed(toy::text(10, 9));
    const Snapshot before = snapshot(run);
    expect_invalid(pin(run, 16), {"cannot pin 16", "16 pinned", "2 sinks", "3 recent", "20"});
    EXPECT_EQ(snapshot(run), before);
    EXPECT_NO_THROW(pin(run, 15)());
    expect_invalid(pin(run, 1), {"cannot pin 1 ", "16 pinned"});
    run.reader.feed(text);
    EXPECT_EQ(run.reader.stats().distillations, 3U);
    EXPECT_EQ(std::ranges::count(run.pot.entries().pinned(0), 1), 15);
  });
  // Tokens that are sinks anyway take no extra room.
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 4, [&](auto& run) {
    expect_invalid(pin(run, 18), {"cannot pin 18", "16 pinned"});
    run.reader.feed(1);
    expect_invalid(pin(run, 17), {"cannot pin 17", "16 pinned"});
    EXPECT_NO_THROW(pin(run, 16)());
    expect_invalid(pin(run, 1), {"cannot pin 1 ", "16 pinned"});
    run.reader.feed(text);
    EXPECT_EQ(std::ranges::count(run.pot.entries().pinned(0), 1), 16);
  });
}

TEST(CcdErrors, FailedPinningIsNotCounted) {
  const toy::Model model;
  const auto text = toy::text(15, 9);
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 4, [&](auto& run) {
    run.reader.feed(toy::text(10, 9));  // 3 calls
    run.engine.quirks.fault = toy::Fault{.call = 4, .layer = 1, .token = 2};
    EXPECT_THROW(run.reader.feed(text, Retention::pinned), std::runtime_error);
    EXPECT_EQ(run.reader.stats().tokens_read, 14U) << "a first chunk of 4 was read and pinned";
    EXPECT_NO_THROW(run.reader.feed(std::span(text).subspan(4), Retention::pinned));
    EXPECT_EQ(std::ranges::count(run.pot.entries().pinned(0), 1), 15);
  });
}

// ---------------------------------------------------------------- a policy that does not fit

/// Reads on through distillations while `next` is offered repeatedly, and refused.
template <class P>
void expect_refused(const P& policy, const P& next, const std::vector<std::string>& parts) {
  const toy::Model model;
  const auto text = toy::text(150, 16);
  const auto read = [&](bool offered) {
    Trial<P, Pot<float>, toy::Shows::queries> run(model, spec_of(Kind::infinipot), policy,
                                                  toy::make_pot(model, 40, 20), 7);
    std::vector<Snapshot> seen;
    run.reader.on_distillation([&](const infinipot::Distillation&) { seen.push_back(snapshot(run)); });
    const std::size_t limit = run.reader.limit();
    for (std::size_t at = 0; at < text.size(); at += 25) {
      if (offered) expect_invalid([&] { run.reader.set_policy(next); }, parts);
      if (testing::Test::HasFailure()) break;  // it was accepted, and the pot may overflow
      EXPECT_EQ(run.reader.limit(), limit);
      run.reader.feed(std::span(text).subspan(at, 25));
    }
    EXPECT_EQ(run.reader.stats().distillations, seen.size());
    EXPECT_GE(seen.size(), 5U);
    seen.push_back(snapshot(run));
    EXPECT_NO_THROW(run.reader.set_policy(policy)) << "its own one always fits";
    return seen;
  };
  EXPECT_EQ(read(true), read(false));
}

/// H2o that wants other entries protected.
struct RecentH2o : infinipot::H2o {
  std::size_t wanted;

  explicit RecentH2o(std::size_t count) : wanted(count) {}
  std::size_t recent(std::size_t /*keep*/) const { return wanted; }
};

/// A policy with a user's rule, for the newest entries or (-1) the oldest.
struct RuledBy : infinipot::StreamingLlm {
  std::array<infinipot::Rule, 1> row;
  float sign;

  explicit RuledBy(const infinipot::Rule& rule, float newest = 1) : row{rule}, sign(newest) {}
  std::span<const infinipot::Rule> rules() const { return row; }
  void score(std::size_t /*rule*/, const infinipot::ScoreView& /*view*/, std::span<float> scores) const {
    for (std::size_t t = 0; t < scores.size(); ++t) scores[t] = sign * static_cast<float>(t);
  }
};

TEST(CcdErrors, PolicyThatNeedsWhatTheFirstDidNotIsRefused) {
  using infinipot::Infinipot;
  const Infinipot four({.catalysts = {{7, 21, 3, 44}}});
  expect_refused(four, Infinipot({.catalysts = {{1, 2, 3, 4, 5}}}), {"needs 5 tokens", "room for 4"});
  expect_refused(four, Infinipot({.catalysts = {{1}, {1, 2, 3, 4, 5, 6}}}), {"needs 6 tokens", "room for 4"});
  expect_refused(four, Infinipot({.catalysts = {{1}}, .longest_catalyst = 7}),
                 {"needs 7 tokens", "room for 4"});
  expect_refused(Infinipot({.catalysts = {{1}}, .longest_catalyst = 6}),
                 Infinipot({.catalysts = {{1, 2, 3, 4, 5, 6, 7}}}), {"needs 7 tokens", "room for 6"});
  expect_refused(Infinipot({.catalysts = {}, .alpha = 1}), four, {"needs 4 tokens", "room for 0"});
  expect_refused(Infinipot({.catalysts = {{1, 2}}, .alpha = 0}),
                 Infinipot({.catalysts = {{1, 2}}, .alpha = 0.1}), {"needs NuC"});
  expect_refused(infinipot::SnapKv(6, 3), infinipot::SnapKv(7, 3), {"needs 7 queries", "room for 6"});
  expect_refused(RecentH2o(5), RecentH2o(6), {"needs 6 recent entries", "room for 5"});
  expect_refused(RecentH2o(0), RecentH2o(4), {"needs 4 recent entries", "room for 3"});
  expect_refused(infinipot::TemporalRedundancy(2, 3), infinipot::TemporalRedundancy(7, 1),
                 {"needs 7 recent entries", "room for 6"});
  expect_refused(RuledBy({}), RuledBy({.share = 1.5}, -1), {"share 1.5"});
  expect_refused(RuledBy({}), RuledBy({.smoothing = {infinipot::Pooling::max, 4}}, -1), {"kernel 4"});
}

TEST(CcdErrors, PolicyThatJustFitsIsTaken) {
  using infinipot::Infinipot;
  const toy::Model model;
  const auto take = [&]<class P>(const P& policy, const P& next) {
    Trial<P, Pot<float>, toy::Shows::queries> run(model, spec_of(Kind::infinipot), policy,
                                                  toy::make_pot(model, 40, 20), 7);
    EXPECT_NO_THROW(run.reader.set_policy(next));
    EXPECT_NO_THROW(run.reader.feed(toy::text(100, 16)));
  };
  take(Infinipot({.catalysts = {{7, 21, 3, 44}}}), Infinipot({.catalysts = {{1, 2, 3, 4}, {5, 6, 7, 8}}}));
  take(Infinipot({.catalysts = {{1}}, .longest_catalyst = 6}),
       Infinipot({.catalysts = {{1}}, .longest_catalyst = 6}));
  take(Infinipot({.catalysts = {}, .alpha = 1, .longest_catalyst = 2}),
       Infinipot({.catalysts = {{1, 2}}, .alpha = 0}));
  take(infinipot::SnapKv(6, 3), infinipot::SnapKv(6, 1));
  take(RecentH2o(5), RecentH2o(5));
  take(infinipot::TemporalRedundancy(1, 6), infinipot::TemporalRedundancy(6, 1));  // with more scratch memory
  take(RecentH2o(0), RecentH2o(3));                                                // the settings' own
}

// ---------------------------------------------------------------- a forward pass that throws

/// The state before every call of forward() of an undisturbed run, and at its end.
struct History {
  std::vector<Snapshot> before_call;
  Snapshot end;
};

template <class AnyTrial>
void record(AnyTrial& run, std::span<const Token> text, History& history) {
  run.engine.before_call = [&] { history.before_call.push_back(snapshot(run)); };
  run.reader.feed(text);
  history.end = snapshot(run);
}

/// Fails at every call and layer, and checks the state after the failure and after a second attempt.
template <toy::Shows shows>
void expect_failures_leave_no_trace(const CcdSpec& spec) {
  SCOPED_TRACE(trace(spec));
  const toy::Model model;
  const auto text = toy::text(60, 10);
  constexpr std::size_t chunk = 5;
  History history;
  with_run<float, shows>(model, spec, KeyStorage::rotated, chunk,
                         [&](auto& run) { record(run, text, history); });
  ASSERT_GE(history.end.distillations, 2U);
  for (std::size_t call = 0; call < history.before_call.size(); ++call)
    for (std::size_t layer = 0; layer <= model.shape.layers; ++layer)
      for (const std::size_t token : {0U, 1U, 4U})
        with_run<float, shows>(model, spec, KeyStorage::rotated, chunk, [&](auto& run) {
          SCOPED_TRACE(testing::Message() << "call " << call << ", layer " << layer << ", token " << token);
          run.engine.quirks.fault = toy::Fault{call, layer, token};
          try {
            run.reader.feed(text);
            EXPECT_GT(token, 0U) << "should have failed";
            return;  // a chunk of fewer tokens
          } catch (const std::runtime_error&) {
          }
          EXPECT_EQ(snapshot(run), history.before_call[call]);
          run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
          EXPECT_EQ(snapshot(run), history.end);
        });
}

CcdSpec small_spec(Kind kind) {
  auto spec = spec_of(kind);
  spec.capacity = 24;
  spec.keep = 12;
  spec.recent = 1;
  spec.catalysts = {{7, 21, 3, 44, 2}, {5, 1}};
  return spec;
}

TEST(CcdFailure, LeavesNoTraceWithQueries) {
  for (const Kind kind : all_kinds) expect_failures_leave_no_trace<toy::Shows::queries>(small_spec(kind));
}

TEST(CcdFailure, LeavesNoTraceWithAttention) {
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::tova, Kind::h2o})
    expect_failures_leave_no_trace<toy::Shows::attention>(small_spec(kind));
}

TEST(CcdFailure, FailingTwiceIsNoWorse) {
  const toy::Model model;
  const auto text = toy::text(60, 10);
  for (const Kind kind : all_kinds) {
    const auto spec = small_spec(kind);
    SCOPED_TRACE(trace(spec));
    History history;
    with_run(model, spec, KeyStorage::rotated, 5, [&](auto& run) { record(run, text, history); });
    for (std::size_t call = 0; call < history.before_call.size(); ++call)
      with_run(model, spec, KeyStorage::rotated, 5, [&](auto& run) {
        const auto feed_rest = [&] {
          run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
        };
        run.engine.quirks.fault = toy::Fault{call, model.shape.layers, 0};
        EXPECT_THROW(feed_rest(), std::runtime_error);
        run.engine.quirks.fault = toy::Fault{run.engine.calls(), model.shape.layers, 0};
        EXPECT_THROW(feed_rest(), std::runtime_error);
        feed_rest();
        EXPECT_EQ(snapshot(run), history.end) << "call " << call;
      });
  }
}

/// What a policy chose by, at every distillation.
template <class AnyTrial>
void note_scores(AnyTrial& run, std::vector<std::vector<float>>& scores) {
  run.reader.on_choice([&](const infinipot::Choice& choice) {
    scores.emplace_back(choice.attention.begin(), choice.attention.end());
  });
}

// Selection may hide a small trace; the scores themselves must have the same bits.
TEST(CcdFailure, QueriesOfAFailedChunkAreNotInTheStatistics) {
  const toy::Model model;
  const auto text = toy::text(60, 10);
  const auto spec = small_spec(Kind::expected_attention);
  std::vector<std::vector<float>> expected;
  std::size_t calls = 0;
  with_run(model, spec, KeyStorage::rotated, 5, [&](auto& run) {
    note_scores(run, expected);
    run.reader.feed(text);
    calls = run.engine.calls();
  });
  ASSERT_GE(expected.size(), 3U);
  for (std::size_t call = 0; call < calls; ++call)
    for (std::size_t layer = 0; layer <= model.shape.layers; ++layer)
      with_run(model, spec, KeyStorage::rotated, 5, [&](auto& run) {
        std::vector<std::vector<float>> scores;
        note_scores(run, scores);
        run.engine.quirks.fault = toy::Fault{call, layer, 0};
        EXPECT_THROW(run.reader.feed(text), std::runtime_error);
        // Chunks of other lengths than the failed one, which do not just overwrite it.
        run.reader.feed(text[run.reader.stats().tokens_read]);
        run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
        EXPECT_EQ(scores, expected) << "call " << call << ", layer " << layer;
      });
}

TEST(CcdFailure, ObserverThatThrowsComesAfterTheDistillation) {
  const toy::Model model;
  const auto text = toy::text(60, 10);
  Snapshot expected;
  with_run(model, spec_of(Kind::h2o), KeyStorage::rotated, 8, [&](auto& run) {
    run.reader.feed(text);
    expected = snapshot(run);
  });
  with_run(model, spec_of(Kind::h2o), KeyStorage::rotated, 8, [&](auto& run) {
    run.reader.on_distillation([](const infinipot::Distillation&) { throw std::runtime_error("observer"); });
    EXPECT_THROW(run.reader.feed(text), std::runtime_error);
    EXPECT_EQ(run.reader.stats().distillations, 1U);
    EXPECT_EQ(run.pot.size(), 20U);
    run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
    EXPECT_EQ(snapshot(run), expected);
  });
}

// ---------------------------------------------------------------- NaN and infinity

TEST(CcdNan, NanQueriesAreReportedAndLeaveOtherHeadsAlone) {
  const toy::Model model;
  const auto text = toy::text(37, 11);
  for (const bool maximum : {false, true}) {
    auto spec = spec_of(Kind::infinipot);
    spec.alpha = 0;
    spec.max_over_queries = maximum;
    reference::Ccd expected(model, spec);
    for (const Token token : text) expected.feed(token);
    const auto check = [&](auto& run) {
      run.engine.quirks.nan_attention = spec.catalysts[0][2];  // query head 0, so kv head 0 of both layers
      std::size_t reported = 0;
      run.reader.on_distillation([&](const infinipot::Distillation& d) { reported = d.nan_scores; });
      run.reader.feed(text);
      // 36 entries less 2 sinks and 3 recent.
      EXPECT_EQ(reported, 2U * 31U);
      EXPECT_EQ(run.reader.stats().nan_scores, 2U * 31U);
      for (const std::size_t lane : {0U, 2U})  // all scores equal: the lower index wins
        for (std::size_t t = 0; t < 17; ++t) EXPECT_EQ(run.pot.entries().positions(lane)[t], t);
      for (const std::size_t layer : {0U, 1U})
        for (std::size_t t = 0; t < 21; ++t)
          EXPECT_EQ(run.pot.entries().positions(2 * layer + 1)[t], expected.head(layer, 1)[t].position);
    };
    with_run(model, spec, KeyStorage::rotated, 16, check);
    with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, check);
  }
}

// Of the heads that choose together only the first is NaN: the others must not hide it.
TEST(CcdNan, NanOfOneHeadIsNotHiddenByTheOthers) {
  const toy::Model model;
  for (const ReduceHeads over_heads : {ReduceHeads::sum, ReduceHeads::max_share, ReduceHeads::max})
    for (const Granularity granularity : {Granularity::layer, Granularity::shared}) {
      auto spec = spec_of(Kind::infinipot, granularity);
      spec.over_heads = over_heads;
      SCOPED_TRACE(trace(spec));
      with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
        run.engine.quirks.nan_attention = 44;  // in the catalyst
        run.reader.feed(toy::text(37, 11));
        EXPECT_EQ(run.reader.stats().nan_scores, granularity == Granularity::layer ? 62U : 31U);
        EXPECT_EQ(run.pot.size(), 21U);
      });
    }
}

TEST(CcdNan, TextIsReadOnWhateverTheScores) {
  const toy::Model model;
  const auto text = toy::text(150, 12);
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities) {
      const auto spec = spec_of(kind, granularity);
      SCOPED_TRACE(trace(spec));
      const auto check = [&](auto& run) {
        run.engine.quirks.nan_attention = kind == Kind::infinipot ? 44 : text[39];
        run.engine.quirks.nan_logits_after = text[20];
        run.reader.feed(text);
        EXPECT_GT(run.reader.stats().distillations, 3U);
        for (std::size_t lane = 0; lane < run.pot.entries().lanes(); ++lane) {
          const auto positions = run.pot.entries().positions(lane);
          EXPECT_TRUE(std::ranges::adjacent_find(positions, std::ranges::greater_equal()) == positions.end());
          EXPECT_EQ(positions[1], 1U);
          EXPECT_EQ(positions.back(), text.size() - 1);
        }
        // These read neither attention nor logits, or skip a query that is NaN.
        constexpr std::array blind{
            Kind::streaming_llm,      Kind::truncation,         Kind::knorm, Kind::keydiff, Kind::value_norm,
            Kind::expected_attention, Kind::temporal_redundancy};
        if (std::ranges::find(blind, kind) == blind.end()) {
          EXPECT_GT(run.reader.stats().nan_scores, 0U);
        }
      };
      with_run(model, spec, KeyStorage::rotated, 16, check);
      with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, check);
    }
}

/// A text in which token 30 comes once, at position 12, and token 31 once, at 13.
std::vector<Token> marked_text() {
  auto text = toy::text(41, 13, 30);
  text[12] = 30;
  text[13] = 31;
  return text;
}

TEST(CcdNan, NanNucLosesAgainstNumbers) {
  const toy::Model model;
  for (const Kind kind : {Kind::sirllm, Kind::infinipot}) {
    auto spec = spec_of(kind);
    spec.alpha = 1;
    spec.keep = 39;
    spec.capacity = 40;
    SCOPED_TRACE(trace(spec));
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.engine.quirks.nan_logits_after = 30;  // so that token 31 has no NuC
      run.reader.feed(marked_text());
      EXPECT_EQ(run.reader.stats().nan_scores, 4U) << "one in each lane";
      for (std::size_t lane = 0; lane < 4; ++lane) {
        const auto positions = run.pot.entries().positions(lane);
        EXPECT_EQ(positions.size(), 40U);
        EXPECT_EQ(std::ranges::count(positions, 13U), 0) << "39 of 40 stay, and NaN is the one that goes";
      }
    });
  }
}

TEST(CcdNan, InfiniteNucWins) {
  const toy::Model model;
  for (const Kind kind : {Kind::sirllm, Kind::infinipot}) {
    auto spec = spec_of(kind);
    spec.alpha = 1;
    spec.keep = 6;  // 2 sinks, 3 recent: one is free
    SCOPED_TRACE(trace(spec));
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.engine.quirks.impossible = 31;
      run.reader.feed(marked_text());
      EXPECT_EQ(run.reader.stats().nan_scores, 0U);
      EXPECT_EQ(run.pot.entries().positions(0)[2], 13U);
      EXPECT_EQ(run.pot.entries().nuc(0)[2], std::numeric_limits<float>::infinity());
    });
  }
}

}  // namespace
