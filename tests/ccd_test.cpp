// The loop across chunks, stores and engines; laziness, generation, NuC, forks and changes of policy.
#include "infinipot/ccd.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"
#include "cell_store.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/reference_ccd.hpp"
#include "reference/reference_rope.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
  });
}

// ---------------------------------------------------------------- chunks and engines

TEST(Ccd, ChunkSizeDoesNotMatter) {
  const toy::Model model;
  const auto text = toy::text(150, 2);
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind);
    SCOPED_TRACE(trace(spec));
    Snapshot expected;
    for (const std::size_t chunk : {1U, 2U, 7U, 64U})
      with_run(model, spec, KeyStorage::rotated, chunk, [&](auto& run) {
        run.reader.feed(text);
        if (chunk == 1) expected = snapshot(run);
        EXPECT_EQ(snapshot(run), expected) << "chunk " << chunk;
      });
    with_run(model, spec, KeyStorage::rotated, 64, [&](auto& run) {
      for (const Token token : text) run.reader.feed(token);
      EXPECT_EQ(snapshot(run), expected) << "token by token";
    });
  }
}

TEST(Ccd, AnEngineMayScoreTargetsInsteadOfShowingLogits) {
  const toy::Model model;
  const auto text = toy::text(150, 2);
  for (const Kind kind : all_kinds)
    for (const std::size_t chunk : {1U, 2U, 16U})
      for (const bool nan : {false, true}) {
        const auto spec = spec_of(kind);
        SCOPED_TRACE(trace(spec));
        Snapshot expected;
        for (const bool scores : {false, true})
          with_run(model, spec, KeyStorage::rotated, chunk, [&](auto& run) {
            run.engine.quirks.scores_targets = scores;
            run.engine.quirks.impossible = text[100];  // NuC of this token is infinite
            if (nan) run.engine.quirks.nan_logits_after = text[20];
            run.reader.feed(text);
            run.reader.generate(5, most_likely, [](Token) { return true; });
            if (!scores) expected = snapshot(run);
            // Bits, since NaN is not equal to itself.
            EXPECT_TRUE(same_bits(snapshot(run).nuc, expected.nuc));
            EXPECT_EQ(snapshot(run).positions, expected.positions);
            EXPECT_EQ(snapshot(run).rows, expected.rows);
            EXPECT_EQ(snapshot(run).nan_scores, expected.nan_scores);
          });
      }
}

TEST(Ccd, ForwardIsNeverGivenMoreThanAChunkOrThePotHolds) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 7, [&](auto& run) {
    std::vector<std::uint64_t> read;
    run.engine.before_call = [&] { read.push_back(run.reader.stats().tokens_read); };
    run.reader.feed(toy::text(61, 2));
    // 40 in sevens, a distillation to 20, 20 more, another one, the last token.
    EXPECT_EQ(read, (std::vector<std::uint64_t>{0, 7, 14, 21, 28, 35, 40, 47, 54, 60}));
  });
}

TEST(Ccd, QueriesAndAttentionProbabilitiesAgree) {
  const toy::Model model;
  const auto text = toy::text(150, 3);
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::tova, Kind::h2o})
    for (const Granularity granularity : all_granularities)
      for (const bool maximum : {false, true}) {
        if (maximum && kind != Kind::infinipot) continue;
        auto spec = spec_of(kind, granularity);
        spec.max_over_queries = maximum;
        SCOPED_TRACE(trace(spec));
        Snapshot by_queries;
        with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
          run.reader.feed(text);
          by_queries = snapshot(run);
        });
        with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
          run.reader.feed(text);
          EXPECT_EQ(snapshot(run), by_queries);
        });
      }
}

static_assert(infinipot::Store<CellStore> && !infinipot::ReadableKeys<CellStore>);

TEST(Ccd, StoreOfWholeCellsAgreesWithASharedPot) {
  const toy::Model model;
  const auto text = toy::text(150, 4);
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind, Granularity::shared);
    SCOPED_TRACE(trace(spec));
    Snapshot expected;
    with_run<float, toy::Shows::attention>(model, spec, KeyStorage::unrotated, 16, [&](auto& run) {
      run.reader.feed(text);
      expected = snapshot(run);
    });
    with_policy(model, spec, [&]<class P>(P policy) {
      if constexpr (!infinipot::watches_entries(infinipot::watch_of<P>)) {  // its keys cannot be read back
        Trial<P, CellStore, toy::Shows::attention> run(model, spec, policy, CellStore(model, spec.capacity),
                                                       16);
        run.reader.feed(text);
        EXPECT_EQ(snapshot(run), expected);
        std::vector<std::uint64_t> all(expected.positions[0]);
        all.insert(all.end(), run.pot.removed.begin(), run.pot.removed.end());
        std::ranges::sort(all);
        for (std::size_t i = 0; i < text.size(); ++i)
          ASSERT_EQ(all.at(i), i) << "read once, kept or removed once";
        EXPECT_EQ(all.size(), text.size());
      }
    });
  }
}

TEST(Ccd, StoreLearnsWhichCellsToRemoveAndShift) {
  const toy::Model model;
  const CcdSpec spec{.kind = Kind::streaming_llm, .capacity = 6, .keep = 4, .sinks = 1};
  Trial<infinipot::StreamingLlm, CellStore, toy::Shows::nothing> run(model, spec, {}, CellStore(model, 6), 4);
  run.reader.feed(toy::text(9, 1));
  EXPECT_EQ(run.pot.removed, (std::vector<std::uint64_t>{1, 2, 3, 4}));
  EXPECT_EQ(run.pot.shifts, (std::vector<CellStore::Shift>{{3, 2}, {4, 2}, {5, 2}, {5, 2}, {6, 2}, {7, 2}}));
}

// ---------------------------------------------------------------- laziness, generation, NuC

TEST(Ccd, TextThatJustFillsThePotIsNotDistilled) {
  const toy::Model model;
  for (const Kind kind : all_kinds)
    with_run(model, spec_of(kind), KeyStorage::rotated, 16, [&](auto& run) {
      SCOPED_TRACE(trace(spec_of(kind)));
      EXPECT_EQ(run.reader.limit(), kind == Kind::infinipot ? 36U : kind == Kind::reread ? 31U : 40U);
      run.reader.feed(toy::text(run.reader.limit(), 5));
      EXPECT_EQ(run.reader.stats().distillations, 0U);
      EXPECT_EQ(run.pot.size(), run.reader.limit());
      run.reader.feed(std::span<const Token>());
      EXPECT_EQ(run.reader.stats().distillations, 0U);
      run.reader.feed(1);
      EXPECT_EQ(run.reader.stats().distillations, 1U);
      EXPECT_EQ(run.pot.size(), 21U);
    });
}

TEST(Ccd, ObserverSeesEveryDistillation) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot, Granularity::layer), KeyStorage::rotated, 16, [&](auto& run) {
    std::vector<std::uint64_t> numbers;
    double seconds = 0, probe_seconds = 0, cap_seconds = 0;
    run.reader.on_distillation([&](const infinipot::Distillation& d) {
      numbers.push_back(d.number);
      EXPECT_EQ(d.entries_before, 36U);
      EXPECT_EQ(d.nan_scores, 0U);
      EXPECT_EQ(d.kept.lanes(), 2U);
      EXPECT_EQ(d.kept.keep(), 20U);
      EXPECT_EQ(run.pot.size(), 20U);
      EXPECT_EQ(d.kept.lane(1)[19], 35U);  // recent
      EXPECT_GE(d.probe_seconds, 0);
      EXPECT_GE(d.seconds, d.probe_seconds);
      EXPECT_GE(d.probe_seconds, d.cap_seconds);
      EXPECT_GT(d.cap_seconds, 0);
      seconds += d.seconds;
      probe_seconds += d.probe_seconds;
      cap_seconds += d.cap_seconds;
    });
    run.reader.feed(toy::text(36 + 2 * 16 + 1, 5));
    EXPECT_EQ(numbers, (std::vector<std::uint64_t>{1, 2, 3}));
    EXPECT_GT(probe_seconds, 0);
    EXPECT_DOUBLE_EQ(run.reader.stats().distill_seconds, seconds);
    EXPECT_DOUBLE_EQ(run.reader.stats().probe_seconds, probe_seconds);
    EXPECT_DOUBLE_EQ(run.reader.stats().cap_seconds, cap_seconds);
  });
}

TEST(Ccd, ChoiceIsShownBeforeAnythingGoes) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot, Granularity::layer), KeyStorage::rotated, 16, [&](auto& run) {
    std::vector<std::uint64_t> chosen;
    run.reader.on_choice([&](const infinipot::Choice& choice) {
      EXPECT_EQ(choice.number, run.reader.stats().distillations + 1);
      EXPECT_EQ(choice.entries.size(), 36U);
      EXPECT_EQ(choice.attention.size(), model.shape.heads() * 40);
      EXPECT_GT(choice.attention[0], 0);
      chosen.clear();
      for (const infinipot::Index t : choice.kept.lane(1)) chosen.push_back(choice.entries.positions(1)[t]);
    });
    run.reader.feed(toy::text(37, 5));
    ASSERT_EQ(chosen.size(), 20U);
    const auto positions = run.pot.entries().positions(1).first(20);
    EXPECT_EQ(std::vector<std::uint64_t>(positions.begin(), positions.end()), chosen);

    run.reader.feed(toy::text(15, 6));
    const Snapshot full = snapshot(run);
    run.reader.on_choice([](const infinipot::Choice&) { throw std::runtime_error("enough"); });
    EXPECT_THROW(run.reader.feed(1), std::runtime_error);
    EXPECT_EQ(snapshot(run), full);
    run.reader.on_choice({});
    run.reader.feed(1);
    EXPECT_EQ(run.reader.stats().distillations, 2U);
  });
}

TEST(Ccd, DistilsEarlyWhenAsked) {
  const toy::Model model;
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind);
    SCOPED_TRACE(trace(spec));
    with_run(model, spec, KeyStorage::rotated, 7, [&](auto& run) {
      const auto text = toy::text(run.reader.limit(), 2);
      run.reader.feed(std::span(text).first(spec.keep));
      const Snapshot before = snapshot(run);
      run.reader.distil();
      EXPECT_EQ(snapshot(run), before) << "nothing to drop";
      run.reader.feed(std::span(text).subspan(spec.keep));
      run.reader.distil();
      EXPECT_EQ(run.pot.entries().size(), spec.keep);
      EXPECT_EQ(run.reader.stats().distillations, 1U);
      // As if the next token had caused it.
      with_run(model, spec, KeyStorage::rotated, 7, [&](auto& other) {
        other.reader.feed(text);
        other.reader.feed(text[0]);
        run.reader.feed(text[0]);
        EXPECT_EQ(snapshot(run), snapshot(other));
      });
    });
  }
}

TEST(Ccd, GeneratingDistilsAsReadingDoes) {
  const toy::Model model;
  const auto prompt = toy::text(30, 6);
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind);
    SCOPED_TRACE(trace(spec));
    std::vector<Token> all = prompt;
    Snapshot generated;
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.reader.feed(prompt);
      const std::size_t accepted = run.reader.generate(90, most_likely, [&](Token token) {
        all.push_back(token);
        return true;
      });
      EXPECT_EQ(accepted, 90U);
      EXPECT_GE(run.reader.stats().distillations, 4U);
      generated = snapshot(run);
    });
    ASSERT_EQ(all.size(), 120U);
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.reader.feed(all);
      EXPECT_EQ(snapshot(run), generated);
    });
  }
}

TEST(Ccd, GenerationStopsBeforeTheTokenThatIsNotAccepted) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 16, [&](auto& run) {
    run.reader.feed(toy::text(10, 6));
    const auto yes = [](Token) { return true; };
    EXPECT_EQ(run.reader.generate(0, most_likely, yes), 0U);
    EXPECT_EQ(run.pot.size(), 10U);
    Token sampled = 0;
    const auto sample = [&](std::span<const float> logits) { return sampled = most_likely(logits); };
    std::size_t asked = 0;
    const auto third_ends = [&](Token token) {
      EXPECT_EQ(token, sampled);
      return ++asked < 3;
    };
    EXPECT_EQ(run.reader.generate(9, sample, third_ends), 2U);
    EXPECT_EQ(run.pot.size(), 12U);
    EXPECT_EQ(run.reader.stats().tokens_read, 12U);
  });
}

TEST(Ccd, LogitsSurviveADistillation) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 16, [&](auto& run) {
    run.reader.feed(toy::text(36, 7));
    const std::vector<float> before(run.reader.logits().begin(), run.reader.logits().end());
    bool checked = false;
    run.engine.before_call = [&] {
      EXPECT_TRUE(std::ranges::equal(run.reader.logits(), before)) << "in call " << run.engine.calls();
      checked = checked || run.reader.stats().distillations == 1;
    };
    run.reader.feed(9);
    EXPECT_TRUE(checked) << "logits are there between the distillation and the next token";
    EXPECT_FALSE(std::ranges::equal(run.reader.logits(), before));
  });
}

TEST(Ccd, NucComesFromTheTextAloneAcrossChunksAndDistillations) {
  const toy::Model model;
  const auto text = toy::text(100, 8);
  with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 5, [&](auto& run) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      const double expected =
          i == 0 ? 0
                 : infinipot::log_sum_exp(run.reader.logits()) -
                       static_cast<double>(run.reader.logits()[static_cast<std::size_t>(text[i])]);
      run.reader.feed(text[i]);
      EXPECT_NEAR(static_cast<double>(run.pot.entries().nuc(0).back()), expected, 1e-6) << i;
      if (i > 0) {
        EXPECT_GT(run.pot.entries().nuc(0).back(), 0.0F);
      }
    }
    EXPECT_EQ(run.pot.entries().nuc(0)[0], 0.0F) << "nothing predicted the first token";
  });
}

TEST(Ccd, NucIsNotMeasuredForPoliciesThatDoNotUseIt) {
  const toy::Model model;
  with_run(model, spec_of(Kind::h2o), KeyStorage::rotated, 5, [&](auto& run) {
    run.engine.quirks.all_logits = true;  // rows not asked for
    run.reader.feed(toy::text(30, 8));
    for (const float nuc : run.pot.entries().nuc(0)) EXPECT_EQ(nuc, 0.0F);
  });
}

// ---------------------------------------------------------------- forks

template <class P>
using QueryTrial = Trial<P, Pot<float>, toy::Shows::queries>;

TEST(Ccd, ForkGoesOnAsTheOriginalWouldAndLeavesItAlone) {
  const toy::Model model;
  const auto text = toy::text(120, 3);
  const auto later = std::span(text).subspan(50);
  for (const Kind kind : all_kinds)
    with_run(model, spec_of(kind), KeyStorage::rotated, 16, [&](auto& run) {
      SCOPED_TRACE(trace(spec_of(kind)));
      run.reader.feed(std::span(text).first(50));
      const Snapshot before = snapshot(run);
      const auto fork = run.fork();
      fork->reader.feed(later);
      EXPECT_EQ(snapshot(run), before);
      run.reader.feed(later);
      EXPECT_GE(run.reader.stats().distillations, 3U);
      EXPECT_EQ(snapshot(run), snapshot(*fork));
    });
}

TEST(Ccd, ForkRejectsAStoreThatIsNoCopy) {
  const toy::Model model;
  QueryTrial<infinipot::H2o> run(model, spec_of(Kind::h2o), {}, toy::make_pot(model, 40, 20), 16);
  run.reader.feed(toy::text(30, 3));
  auto empty = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, empty);
  EXPECT_THROW(run.reader.fork(engine, empty), std::invalid_argument);
}

// ---------------------------------------------------------------- another policy

/// Heads of a layer keep the same tokens, so how their scores become one matters.
template <class P>
QueryTrial<P> trial_of(const toy::Model& model, P policy) {
  return {model, spec_of(Kind::infinipot), std::move(policy),
          toy::make_pot(model, 40, 20, Granularity::layer), 16};
}

/// Reads with `policy`, and from token `at` on with `next`.
template <class P>
Snapshot read_and_change(const P& policy, std::size_t at, const P& next, std::span<const Token> text) {
  const toy::Model model;
  auto run = trial_of(model, policy);
  run.reader.feed(text.first(at));
  run.reader.set_policy(next);
  run.reader.feed(text.subspan(at));
  return snapshot(run);
}

/// Before the first distillation the policy does not matter.
template <class P>
void expect_as_from_the_start(const P& policy, const P& next) {
  const toy::Model model;
  const auto text = toy::text(120, 17);
  auto old = trial_of(model, policy), expected = trial_of(model, next);
  ASSERT_EQ(old.reader.limit(), expected.reader.limit());
  old.reader.feed(text);
  expected.reader.feed(text);
  ASSERT_GE(expected.reader.stats().distillations, 4U);
  ASSERT_NE(snapshot(old).positions, snapshot(expected).positions) << "or else there is nothing to see";
  for (const std::size_t at : {0U, 1U, 30U})
    EXPECT_EQ(read_and_change(policy, at, next, text), snapshot(expected)) << "at " << at;
}

TEST(Ccd, PolicySetBeforeTheFirstDistillationIsAsOneFromTheStart) {
  using infinipot::Infinipot;
  const std::vector<std::vector<Token>> catalyst{{7, 21, 3, 44}}, other{{1, 30, 2}};
  const Infinipot first({.catalysts = catalyst, .longest_catalyst = 6});
  expect_as_from_the_start(first, Infinipot({.catalysts = other, .longest_catalyst = 6}));
  expect_as_from_the_start(first, Infinipot({.catalysts = {{9, 8, 7, 6, 5, 4}}, .longest_catalyst = 1}));
  expect_as_from_the_start(first, Infinipot({.catalysts = {{7, 21, 3, 44}, {30}}, .longest_catalyst = 6}));
  expect_as_from_the_start(first, Infinipot({.catalysts = catalyst, .alpha = 0.2, .longest_catalyst = 6}));
  expect_as_from_the_start(first, Infinipot({.catalysts = {}, .alpha = 1, .longest_catalyst = 6}));
  expect_as_from_the_start(
      first,
      Infinipot({.catalysts = catalyst, .over_queries = infinipot::Reduce::max, .longest_catalyst = 6}));
  expect_as_from_the_start(first, Infinipot({.catalysts = catalyst,
                                             .over_heads = infinipot::ReduceHeads::max_share,
                                             .longest_catalyst = 6}));
  expect_as_from_the_start(first, Infinipot({.catalysts = catalyst, .kernel = 5, .longest_catalyst = 6}));
  expect_as_from_the_start(first, Infinipot({.catalysts = catalyst,
                                             .alpha = 0.1,
                                             .terms = {3, 11, 40},
                                             .term_share = 0.4,
                                             .layers = 1,
                                             .longest_catalyst = 6}));
  expect_as_from_the_start(infinipot::SnapKv(6, 1), infinipot::SnapKv(6, 5));
  expect_as_from_the_start(infinipot::SirLlm(0.9), infinipot::SirLlm(0.1));
}

/// What set_policy should amount to, as one policy: `before` until `changed`, then `after`. Both must have
/// the same rules.
struct Turncoat {
  static constexpr infinipot::Watch watch = infinipot::Watch::probes;
  infinipot::Infinipot before, after;
  const bool* changed;

  const infinipot::Infinipot& now() const { return *changed ? after : before; }
  std::string_view name() const { return "turncoat"; }
  bool uses_nuc() const { return now().uses_nuc(); }
  std::span<const infinipot::Rule> rules() const { return before.rules(); }
  infinipot::Reduce reduce() const { return now().reduce(); }
  std::size_t longest_probe() const { return before.longest_probe(); }
  std::span<const Token> probe(std::size_t i, const infinipot::ProbeContext& context) const {
    return now().probe(i, context);
  }
  void score(std::size_t rule, const infinipot::ScoreView& view, std::span<float> scores) const {
    now().score(rule, view, scores);
  }
};

TEST(Ccd, PolicySetAfterDistillationsDecidesTheLaterOnes) {
  using infinipot::Infinipot;
  using infinipot::Reduce;
  using infinipot::ReduceHeads;
  const toy::Model model;
  const auto text = toy::text(150, 18);
  const Infinipot before({.catalysts = {{7, 21, 3, 44}}, .longest_catalyst = 6});
  for (const Infinipot& after :
       {Infinipot({.catalysts = {{1, 30, 2}}}), Infinipot({.catalysts = {{9, 8, 7, 6, 5, 4}, {3}}}),
        Infinipot({.catalysts = {{7, 21, 3, 44}}, .over_queries = Reduce::max}),
        Infinipot({.catalysts = {{7, 21, 3, 44}}, .over_heads = ReduceHeads::max_share})}) {
    bool changed = false;
    auto run = trial_of(model, before), unchanged = trial_of(model, before);
    auto expected = trial_of(model, Turncoat{before, after, &changed});
    std::vector<Snapshot> seen, unchanged_seen, expected_seen;
    const auto note_distillations = [](auto& trial, std::vector<Snapshot>& all) {
      trial.reader.on_distillation([&](const infinipot::Distillation&) { all.push_back(snapshot(trial)); });
    };
    note_distillations(run, seen);
    note_distillations(unchanged, unchanged_seen);
    note_distillations(expected, expected_seen);
    const auto feed_all = [&](std::span<const Token> part) {
      run.reader.feed(part);
      unchanged.reader.feed(part);
      expected.reader.feed(part);
    };

    feed_all(std::span(text).first(60));  // the pot is full at 34 entries
    EXPECT_EQ(seen.size(), 2U);
    EXPECT_EQ(seen, unchanged_seen);
    run.reader.set_policy(after);
    changed = true;
    EXPECT_EQ(snapshot(run), snapshot(unchanged)) << "nothing happens until the next distillation";
    feed_all(std::span(text).subspan(60));
    ASSERT_EQ(seen.size(), 9U);
    EXPECT_EQ(seen, expected_seen) << "the observer stays, too";
    EXPECT_NE(seen[2].positions, unchanged_seen[2].positions);
    EXPECT_EQ(snapshot(run), snapshot(expected));
  }
}

// One document, several questions: each is the catalyst of a fork.
TEST(Ccd, PolicyOfAForkIsItsOwn) {
  using infinipot::Infinipot;
  const toy::Model model;
  const auto text = toy::text(120, 19);
  const Infinipot policy({.catalysts = {{7, 21, 3, 44}}, .longest_catalyst = 6}),
      question({.catalysts = {{5, 6, 7, 8, 9}}});
  auto run = trial_of(model, policy), undisturbed = trial_of(model, policy);
  run.reader.feed(std::span(text).first(60));
  auto pot = run.pot.fork();
  toy::QueryEngine<Pot<float>> engine(model, pot);
  auto reader = run.reader.fork(engine, pot);
  reader.set_policy(question);
  reader.feed(std::span(text).subspan(60));
  EXPECT_EQ(snapshot_of(pot, reader), read_and_change(policy, 60, question, text));

  run.reader.feed(std::span(text).subspan(60));
  undisturbed.reader.feed(text);
  EXPECT_EQ(snapshot(run), snapshot(undisturbed));

  // A fork made after the change goes on with the new policy.
  run.reader.set_policy(question);
  auto later_pot = run.pot.fork();
  toy::QueryEngine<Pot<float>> later_engine(model, later_pot);
  auto later = run.reader.fork(later_engine, later_pot);
  run.reader.feed(text);
  later.feed(text);
  EXPECT_EQ(snapshot_of(later_pot, later), snapshot(run));
}

}  // namespace
