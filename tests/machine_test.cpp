// The loop turned inside out: who drives it by next() and done() gets what feed(), generate() and distil()
// give.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "ccd_trial.hpp"
#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;
using infinipot::Ccd;
using infinipot::Pass;
using Run = AnyRun<float>;

/// One of the things that a conversation consists of.
struct Turn {
  enum class Kind { read, pin, distil, generate } kind = Kind::read;
  std::size_t tokens = 0;
};

/// A reader and all that happens to it, one step of a scheduler at a time.
class Conversation {
 public:
  Conversation(std::unique_ptr<Run> of, std::vector<Turn> script, std::uint64_t seed)
      : run(std::move(of)), turns_(std::move(script)), text_(toy::text(400, seed)) {}

  /// What to run next; null at the end.
  const Pass* next() {
    for (;;) {
      if (const Pass* const pass = run->reader.next()) return pass;
      if (!begin()) return nullptr;
    }
  }

  /// The same by the drivers: no pass is left to others.
  void finish() {
    for (; turn_ < turns_.size(); ++turn_) {
      const Turn turn = turns_[turn_];
      if (turn.kind == Turn::Kind::distil)
        run->reader.distil();
      else if (turn.kind == Turn::Kind::generate)
        run->reader.generate(turn.tokens, most_likely, [](Token) { return true; });
      else
        run->reader.feed(take(turn.tokens), retention(turn));
    }
  }

  std::unique_ptr<Run> run;

 private:
  static Retention retention(const Turn& turn) {
    return turn.kind == Turn::Kind::pin ? Retention::pinned : Retention::evictable;
  }

  std::span<const Token> take(std::size_t count) {
    const auto tokens = std::span(text_).subspan(at_, count);
    at_ += count;
    return tokens;
  }

  /// Starts what comes next. Returns false at the end.
  bool begin() {
    if (turn_ == turns_.size()) return false;
    Turn& turn = turns_[turn_];
    if (turn.kind == Turn::Kind::generate && turn.tokens > 0) {
      --turn.tokens;
      token_ = most_likely(run->reader.logits());
      run->reader.start({&token_, 1});
      return true;
    }
    ++turn_;
    if (turn.kind == Turn::Kind::distil) run->reader.start_distil();
    if (turn.kind == Turn::Kind::read || turn.kind == Turn::Kind::pin)
      run->reader.start(take(turn.tokens), retention(turn));
    return true;
  }

  std::vector<Turn> turns_;
  std::vector<Token> text_;
  std::size_t turn_ = 0, at_ = 0;
  Token token_ = 0;
};

const std::vector<Turn> script{{Turn::Kind::pin, 5},       {Turn::Kind::read, 61},  {Turn::Kind::distil, 0},
                               {Turn::Kind::generate, 17}, {Turn::Kind::pin, 1},    {Turn::Kind::read, 9},
                               {Turn::Kind::distil, 0},    {Turn::Kind::distil, 0}, {Turn::Kind::read, 80},
                               {Turn::Kind::generate, 3}};

std::unique_ptr<Run> make(const toy::Model& model, const CcdSpec& spec, std::size_t chunk = 7,
                          toy::Shows shows = toy::Shows::queries) {
  return make_run<float>(model, spec, KeyStorage::rotated, chunk, shows);
}

void step(Conversation& conversation, const Pass& pass) {
  conversation.run->run_pass(pass);
  conversation.run->reader.done();
}

/// All that can be told of a reader, its memory too.
void expect_same(Run& run, Run& expected, const std::string& what = "") {
  EXPECT_EQ(snapshot(run), snapshot(expected)) << what;
  EXPECT_TRUE(run.reader.memory() == expected.reader.memory()) << what;
}

// ---------------------------------------------------------------- next() and done()

TEST(Machine, DrivenByNextAndDoneIsWhatFeedGenerateAndDistilDo) {
  const toy::Model model;
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities)
      for (const toy::Shows shows : {toy::Shows::queries, toy::Shows::attention}) {
        auto spec = spec_of(kind, granularity);
        spec.window = 11;  // two chunks
        spec.catalysts = {{7, 21, 3}, {44}};
        SCOPED_TRACE(trace(spec));
        auto run = make(model, spec, 7, shows);
        if (!run) continue;  // the engine cannot show what the policy needs
        Conversation driven(std::move(run), script, 1), fed(make(model, spec, 7, shows), script, 1);
        std::size_t passes = 0;
        while (const Pass* const pass = driven.next()) {
          const Pass copy = *pass;
          EXPECT_EQ(driven.run->reader.next(), pass) << "the same until it is done";
          EXPECT_EQ(pass->tokens.data(), copy.tokens.data());
          EXPECT_EQ(pass->first, driven.run->pot.size());
          EXPECT_EQ(pass->logits, copy.logits);
          EXPECT_FALSE(pass->queries != nullptr && pass->attention != nullptr);
          step(driven, *pass);
          ++passes;
        }
        fed.finish();
        EXPECT_EQ(passes, fed.run->engine.calls());
        EXPECT_GE(driven.run->reader.stats().distillations, 5U);
        expect_same(*driven.run, *fed.run);
      }
}

TEST(Machine, TellsWhatAPassIs) {
  const toy::Model model;
  auto run = make(model, spec_of(Kind::infinipot), 16);
  const auto text = toy::text(37, 1);
  run->reader.start(text);
  std::vector<std::size_t> lengths;
  while (const Pass* const pass = run->reader.next()) {
    lengths.push_back(pass->tokens.size());
    EXPECT_EQ(pass->logits->probe(), lengths.size() == 4) << "the catalyst comes when the pot is full";
    EXPECT_EQ(pass->queries != nullptr, pass->logits->probe());
    EXPECT_EQ(pass->logits->first_row(), pass->logits->probe() ? 4U : 0U) << "with NuC";
    run->run_pass(*pass);
    run->reader.done();
  }
  EXPECT_EQ(lengths, (std::vector<std::size_t>{16, 16, 4, 4, 1}));
}

TEST(Machine, AllocatesNothing) {
  const toy::Model model;
  for (const Kind kind : all_kinds)
    for (const toy::Shows shows : {toy::Shows::queries, toy::Shows::attention}) {
      auto run = make(model, spec_of(kind), 7, shows);
      if (!run) continue;
      Conversation conversation(std::move(run), script, 2);
      const allocation_counter::Scope counted;
      while (const Pass* const pass = conversation.next()) step(conversation, *pass);
      const std::size_t calls = counted.calls();
      EXPECT_EQ(calls, 0U) << trace(spec_of(kind));
    }
}

// ---------------------------------------------------------------- many at once

/// A conversation by each policy, with texts, scripts and settings of their own.
std::vector<Conversation> conversations(const toy::Model& model) {
  std::vector<Conversation> all;
  for (const Kind kind : all_kinds) {
    auto spec = spec_of(kind, all_granularities[all.size() % 3]);
    spec.catalysts = {{static_cast<Token>(all.size()), 21}, {3}};
    auto turns = script;
    std::rotate(turns.begin(), turns.begin() + static_cast<std::ptrdiff_t>(all.size() % 2), turns.end());
    all.emplace_back(make(model, spec, 3 + all.size()), std::move(turns), 10 + all.size());
  }
  return all;
}

void expect_as_one_after_the_other(std::vector<Conversation>& all, const toy::Model& model,
                                   std::size_t except = ~std::size_t{0}) {
  auto alone = conversations(model);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i == except) continue;
    alone[i].finish();
    expect_same(*all[i].run, *alone[i].run, "conversation " + std::to_string(i));
  }
}

TEST(Scheduler, OfManyReadersInAnyOrderIsOneAfterTheOther) {
  const toy::Model model;
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    auto all = conversations(model);
    std::vector<std::size_t> open(all.size());
    for (std::size_t i = 0; i < open.size(); ++i) open[i] = i;
    for (std::uint64_t n = 0; !open.empty(); ++n) {
      const std::size_t drawn = toy::hash(seed << 32U | n) % open.size();
      Conversation& conversation = all[open[drawn]];
      if (const Pass* const pass = conversation.next())
        step(conversation, *pass);
      else
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(drawn));
    }
    expect_as_one_after_the_other(all, model);
  }
}

/// One round of a batch: all passes are asked for, then run, then done, last first. Returns how many there
/// were. `before_done` is called with each.
template <class F>
std::size_t run_batch(std::vector<Conversation>& all, const F& before_done) {
  std::vector<std::pair<std::size_t, const Pass*>> batch;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (const Pass* const pass = all[i].next()) batch.emplace_back(i, pass);
  for (const auto& [i, pass] : batch) all[i].run->run_pass(*pass);
  for (auto it = batch.rbegin(); it != batch.rend(); ++it)
    if (before_done(it->first)) all[it->first].run->reader.done();
  return batch.size();
}

TEST(Scheduler, OfBatchesIsOneAfterTheOther) {
  const toy::Model model;
  auto all = conversations(model);
  std::size_t widest = 0;
  while (const std::size_t width = run_batch(all, [](std::size_t) { return true; }))
    widest = std::max(widest, width);
  EXPECT_EQ(widest, all.size());
  expect_as_one_after_the_other(all, model);
}

TEST(Scheduler, OneThatIsCancelledLeavesTheOthersAsTheyWere) {
  const toy::Model model;
  for (std::size_t cancelled = 0; cancelled < all_kinds.size(); ++cancelled) {
    auto all = conversations(model);
    std::size_t round = 0;
    const auto cancels = [&](std::size_t i) { return i == cancelled && round == 8; };
    while (run_batch(all, [&](std::size_t i) {
             if (cancels(i)) all[i].run->reader.failed();
             return !cancels(i);
           }) > 0)
      ++round;
    EXPECT_GT(round, 8U);
    expect_as_one_after_the_other(all, model, cancelled);
  }
}

// ---------------------------------------------------------------- what goes wrong

CcdSpec small_spec(Kind kind) {
  auto spec = spec_of(kind);
  spec.capacity = 24;
  spec.keep = 12;
  spec.recent = 1;
  spec.catalysts = {{7, 21, 3, 44, 2}, {5, 1}};
  return spec;
}

/// Runs passes until one is the `count`th (from 0), which is not run. Null if there are not that many.
const Pass* run_passes(Run& run, std::size_t count) {
  for (std::size_t i = 0;; ++i) {
    const Pass* const pass = run.reader.next();
    if (pass == nullptr || i == count) return pass;
    run.run_pass(*pass);
    run.reader.done();
  }
}

enum class Way { not_run, run_in_part, not_shown };

/// What `begin` starts goes wrong at every pass, as it does when the drivers' forward() throws there.
template <class F>
void expect_failures_as_of_drivers(const CcdSpec& spec, toy::Shows shows, std::size_t read_before,
                                   const F& begin) {
  SCOPED_TRACE(trace(spec));
  const toy::Model model;
  const auto text = toy::text(70, 10);
  for (std::size_t failing = 0;; ++failing)
    for (const Way way : {Way::not_run, Way::run_in_part, Way::not_shown}) {
      SCOPED_TRACE(testing::Message() << "pass " << failing << ", way " << static_cast<int>(way));
      const auto driver = make(model, spec, 5, shows), own = make(model, spec, 5, shows);
      if (!driver) return;  // the engine cannot show what the policy needs
      driver->reader.feed(std::span(text).first(read_before));
      own->reader.feed(std::span(text).first(read_before));
      driver->engine.quirks.fault = toy::Fault{driver->engine.calls() + failing, 1, 0};
      try {
        begin(driver->reader, true);
        EXPECT_GT(failing, 2U);
        return;  // there are no more passes
      } catch (const std::runtime_error&) {
      }
      driver->engine.quirks.fault.reset();

      begin(own->reader, false);
      const Pass* const pass = run_passes(*own, failing);
      ASSERT_NE(pass, nullptr);
      if (way == Way::run_in_part) {
        own->engine.quirks.fault = toy::Fault{own->engine.calls(), 1, 0};
        EXPECT_THROW(own->run_pass(*pass), std::runtime_error);
        own->engine.quirks.fault.reset();
      }
      if (way == Way::not_shown) {
        EXPECT_THROW(own->reader.done(), std::invalid_argument);
      } else {
        own->reader.failed();
      }
      EXPECT_EQ(own->reader.next(), nullptr) << "it was given up";
      expect_same(*own, *driver);
      for (const auto* each : {driver.get(), own.get()}) {
        each->reader.feed(std::span(text).subspan(each->reader.stats().tokens_read));
        each->reader.distil();
      }
      expect_same(*own, *driver, "afterwards");
    }
}

TEST(MachineFailure, AtEveryPassOfATextIsAsOfFeed) {
  const auto text = toy::text(70, 10);
  for (const Kind kind : all_kinds)
    for (const toy::Shows shows : {toy::Shows::queries, toy::Shows::attention})
      expect_failures_as_of_drivers(small_spec(kind), shows, 3, [&](AnyReader& reader, bool drive) {
        const auto rest = std::span(text).subspan(3);
        drive ? reader.feed(rest) : reader.start(rest);
      });
}

TEST(MachineFailure, AtEveryPassOfADistillationIsAsOfDistil) {
  for (const Kind kind : {Kind::snapkv, Kind::infinipot})  // that have passes then
    for (const toy::Shows shows : {toy::Shows::queries, toy::Shows::attention}) {
      auto spec = spec_of(kind);
      spec.window = 15;  // three chunks
      spec.catalysts = {{7, 21}, {3}, {44}};
      expect_failures_as_of_drivers(spec, shows, 27, [&](AnyReader& reader, bool drive) {
        drive ? reader.distil() : reader.start_distil();
      });
    }
}

TEST(MachineFailure, BetweenPassesGivesUpWhatIsLeft) {
  const toy::Model model;
  const auto text = toy::text(60, 3);
  auto spec = spec_of(Kind::snapkv);
  spec.window = 15;
  const auto run = make(model, spec, 5), undisturbed = make(model, spec, 5);
  run->reader.start(text);
  for (std::size_t i = 0; i < 5; ++i) {
    run->run_pass(*run->reader.next());
    run->reader.done();
  }
  run->reader.failed();
  EXPECT_EQ(run->reader.next(), nullptr);
  EXPECT_EQ(run->pot.size(), 25U);
  const Snapshot before = snapshot(*run);
  run->reader.start_distil();  // 15 are read anew
  run->run_pass(*run->reader.next());
  run->reader.done();
  EXPECT_EQ(run->pot.size(), 15U);
  run->reader.failed();
  EXPECT_EQ(snapshot(*run), before);
  run->reader.feed(std::span(text).subspan(25));
  undisturbed->reader.feed(text);
  EXPECT_EQ(snapshot(*run), snapshot(*undisturbed));
}

template <class F>
void expect_refused_in_flight(const F& f) {
  expect_invalid(f, {"in flight", "next() and done()", "failed()"});
}

TEST(MachineErrors, WhatIsInFlightIsNotDisturbed) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20), other = toy::make_pot(model, 40, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot), another(model, other);
  Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 20, .chunk = 8});
  reader.feed(toy::text(3, 1));
  const auto memory = reader.memory();
  const auto text = toy::text(30, 2);
  infinipot::MemoryArchive archive({.shape = model.shape, .limit = 1 << 18});
  for (const bool asked : {false, true}) {
    reader.start(text);
    const Pass* const pass = asked ? reader.next() : nullptr;
    expect_refused_in_flight([&] { reader.start(text); });
    expect_refused_in_flight([&] { reader.start_distil(); });
    expect_refused_in_flight([&] { reader.feed(1); });
    expect_refused_in_flight([&] { reader.distil(); });
    expect_refused_in_flight([&] { reader.generate(1, most_likely, [](Token) { return true; }); });
    expect_refused_in_flight([&] { reader.set_policy({}); });
    expect_refused_in_flight([&] { reader.fork(another, other); });
    expect_refused_in_flight([&] { reader.memory(); });
    expect_refused_in_flight([&] { reader.resume(memory); });
    expect_refused_in_flight([&] { reader.resume(); });
    expect_refused_in_flight([&] { reader.archive_to(archive); });
    expect_refused_in_flight([&] { infinipot::recall(reader, archive, std::vector<Token>{1}); });
    expect_refused_in_flight([&] { infinipot::replay(reader, archive); });
    EXPECT_TRUE(!asked || reader.next() == pass) << "still the same";
    reader.failed();
    reader.failed();  // of nothing
  }
  EXPECT_TRUE(reader.memory() == memory);
  expect_invalid([&] { reader.done(); }, {"nothing that could be done", "next()"});
  EXPECT_EQ(reader.next(), nullptr);
  reader.start({});
  EXPECT_EQ(reader.next(), nullptr);
  reader.start_distil();
  EXPECT_EQ(reader.next(), nullptr) << "3 entries are no more than are kept";
  expect_invalid([&] { reader.start(std::vector<Token>{50}); }, {"token 50", "0 .. 49"});
  expect_invalid([&] { reader.start(text, Retention::pinned); }, {"cannot pin 30"});
  EXPECT_EQ(reader.next(), nullptr);
  reader.start(text);
  while (const Pass* const pass = reader.next()) {
    infinipot::run_pass(engine, *pass);
    reader.done();
  }
  EXPECT_EQ(reader.stats().tokens_read, 33U);
}

TEST(MachineErrors, EntriesChangedMeanwhileAreLeftAlone) {
  const toy::Model model;
  for (const bool asked : {false, true}) {
    const auto run = make(model, spec_of(Kind::infinipot));
    const auto text = toy::text(30, 2);
    run->reader.start(text);
    run->run_pass(*run->reader.next());
    run->reader.done();
    const Pass* const pass = asked ? run->reader.next() : nullptr;
    const std::array<infinipot::Entry, 2> more{{{7, 1, 0, false}, {8, 2, 0, false}}};
    run->pot.append(more);
    if (pass != nullptr) run->run_pass(*pass);
    expect_invalid([&] { asked ? run->reader.done() : void(run->reader.next()); },
                   {"changed by something other", "resume()"});
    EXPECT_EQ(run->pot.size(), 9U);
    EXPECT_EQ(run->reader.next(), nullptr);
    run->reader.resume();
    EXPECT_EQ(run->reader.stats().tokens_read, 9U);
    run->reader.feed(text);
  }
}

TEST(MachineErrors, ObserversThatThrowDoSoFromNext) {
  const toy::Model model;
  const auto text = toy::text(60, 2);
  for (const bool choice : {true, false}) {
    const auto run = make(model, spec_of(Kind::streaming_llm), 16),
               undisturbed = make(model, spec_of(Kind::streaming_llm), 16);
    if (choice) run->reader.on_choice([](const auto&) { throw std::runtime_error("observer"); });
    if (!choice) run->reader.on_distillation([](const auto&) { throw std::runtime_error("observer"); });
    run->reader.start(text);
    EXPECT_NE(run_passes(*run, 2), nullptr);
    run->run_pass(*run->reader.next());
    run->reader.done();
    EXPECT_THROW(run->reader.next(), std::runtime_error);
    EXPECT_EQ(run->reader.next(), nullptr);
    EXPECT_EQ(run->pot.size(), choice ? 40U : 20U);
    run->reader.on_choice(nullptr);
    run->reader.on_distillation(nullptr);
    run->reader.feed(std::span(text).subspan(run->reader.stats().tokens_read));
    undisturbed->reader.feed(text);
    expect_same(*run, *undisturbed);
  }
}

// What generate() has accepted and could not read comes before what is started next.
TEST(Machine, ReadsWhatIsUnreadFirst) {
  const toy::Model model;
  const auto run = make(model, spec_of(Kind::sirllm)), undisturbed = make(model, spec_of(Kind::sirllm));
  const auto text = toy::text(10, 1);
  for (const auto* each : {run.get(), undisturbed.get()}) {
    each->reader.feed(text);
    if (each == run.get()) each->engine.quirks.fault = toy::Fault{each->engine.calls(), 0, 0};
    try {
      each->reader.generate(1, most_likely, [](Token) { return true; });
    } catch (const std::runtime_error&) {
    }
  }
  run->reader.start(text, Retention::pinned);
  const Pass* pass = run->reader.next();
  EXPECT_EQ(pass->tokens.size(), 1U);
  run->reader.failed();
  run->reader.start(text, Retention::pinned);
  while ((pass = run->reader.next()) != nullptr) {
    run->run_pass(*pass);
    run->reader.done();
  }
  undisturbed->reader.feed(text, Retention::pinned);
  expect_same(*run, *undisturbed);
  EXPECT_EQ(run->pot.entries().pinned(0)[10], 0) << "only what was started is pinned";
}

// A server keeps its readers in a vector, which moves them.
TEST(Machine, MovesBetweenPassesAndBeforeOneIsRun) {
  const toy::Model model;
  const auto text = toy::text(90, 1);
  const auto read = [&](const auto& policy) {
    auto pot = toy::make_pot(model, 40, 20), other = toy::make_pot(model, 40, 20);
    toy::QueryEngine<Pot<float>> engine(model, pot), another(model, other);
    const infinipot::CcdSettings settings{.keep = 20, .chunk = 8};
    Ccd undisturbed(another, other, policy, settings);
    undisturbed.feed(text);
    std::vector<decltype(undisturbed)> readers;
    readers.push_back(Ccd(engine, pot, policy, settings));
    readers[0].start(text);
    for (std::size_t n = 0; readers[0].next() != nullptr; ++n) {
      auto moved = std::move(readers[0]);
      const Pass* const pass = moved.next();
      ASSERT_NE(pass, nullptr);
      EXPECT_EQ(pass->logits->probe(), pass->logits->first_row() == pass->tokens.size());
      infinipot::run_pass(engine, *pass);
      moved.done();
      readers[0] = std::move(moved);
    }
    EXPECT_EQ(snapshot_of(pot, readers[0]), snapshot_of(other, undisturbed));
  };
  read(infinipot::Infinipot({.catalysts = {{7, 21}, {3}}}));
  read(infinipot::H2o());
  read(infinipot::SirLlm());
}

// ---------------------------------------------------------------- engines that are only described

/// Somebody else runs the passes.
template <infinipot::Shows what>
struct Described {
  static constexpr infinipot::Shows shows = what;
  infinipot::Shape shape() const { return model.shape; }
  std::size_t vocab_size() const { return toy::Model::vocabulary; }
  infinipot::AttentionForm attention_form(std::size_t layer) const {
    const toy::LayerForm& form = model.layers[layer].form;
    return {form.scale, form.soft_cap};
  }
  bool shows_queries() const { return by_queries; }

  const toy::Model& model;
  bool by_queries = true;
};

static_assert(infinipot::DescribedPass<Described<infinipot::Shows::queries>> &&
              !infinipot::ForwardPass<Described<infinipot::Shows::queries>>);

template <infinipot::Shows what, class P>
void expect_runs_described(const P& policy, bool by_queries) {
  toy::Model model;
  model.layers[1].form = {.scale = 0.7F, .soft_cap = 3};
  const auto text = toy::text(90, 1);
  auto pot = toy::make_pot(model, 40, 20), other = toy::make_pot(model, 40, 20);
  const infinipot::CcdSettings settings{.keep = 20, .chunk = 8};
  Described<what> described{model, by_queries};
  Ccd reader(described, pot, policy, settings);
  toy::QueryEngine<Pot<float>> queries(model, pot);
  toy::AttentionEngine<Pot<float>> attention(model, pot);
  reader.start(text);
  while (const Pass* const pass = reader.next()) {
    EXPECT_EQ(pass->attention != nullptr, !by_queries && pass->logits->probe());
    if (pass->attention != nullptr)
      infinipot::run_pass(attention, *pass);
    else
      infinipot::run_pass(queries, *pass);
    reader.done();
  }
  const auto compare = [&](auto& engine) {
    Ccd undisturbed(engine, other, policy, settings);
    undisturbed.feed(text);
    EXPECT_EQ(snapshot_of(pot, reader), snapshot_of(other, undisturbed));
    EXPECT_GE(undisturbed.stats().distillations, 3U);
  };
  toy::QueryEngine<Pot<float>> by_q(model, other);
  toy::AttentionEngine<Pot<float>> by_a(model, other);
  if (by_queries)
    compare(by_q);
  else
    compare(by_a);
}

TEST(DescribedEngine, IsReadByWhoRunsThePasses) {
  using infinipot::Shows;
  const infinipot::Infinipot catalyst({.catalysts = {{7, 21}, {3}}});
  expect_runs_described<Shows::queries>(catalyst, true);
  expect_runs_described<Shows::attention>(catalyst, false);
  expect_runs_described<Shows::either>(catalyst, true);
  expect_runs_described<Shows::either>(catalyst, false);
  expect_runs_described<Shows::logits>(infinipot::SirLlm(), true);
}

}  // namespace
