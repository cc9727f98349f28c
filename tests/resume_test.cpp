// A reader that stops, is saved with its pot to a file, and goes on elsewhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "ccd_trial.hpp"
#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;
using Bytes = std::vector<std::byte>;
using Reading = AnyRun<float>;

constexpr std::size_t chunk = 16;

std::unique_ptr<Reading> new_run(const toy::Model& model, const CcdSpec& spec) {
  return make_run<float>(model, spec, KeyStorage::rotated, chunk, toy::Shows::queries);
}

/// Pot and reader as a file.
std::string saved(const Reading& run) {
  std::ostringstream out;
  infinipot::save_pot(run.pot, out, run.reader.memory());
  return out.str();
}

std::span<const std::byte> bytes_of(const std::string& file) { return std::as_bytes(std::span(file)); }

void restore(const std::string& file, Reading& run) {
  infinipot::restore_pot(bytes_of(file), run.pot);
  run.reader.resume(infinipot::check_pot_file(bytes_of(file)).extra);
}

/// Reads, with some tokens pinned and some distillations asked for, as the position says.
void read_on(Reading& run, const std::vector<Token>& text, std::size_t to) {
  while (run.reader.stats().tokens_read < to) {
    const std::size_t at = run.reader.stats().tokens_read;
    run.reader.feed(text[at], at == 9 || at == 70 ? Retention::pinned : Retention::evictable);
    if (toy::hash(at) % 13 == 0) run.reader.distil();
  }
}

TEST(Resume, GoesOnAsIfNothingHadHappened) {
  const toy::Model model;
  const auto text = toy::text(220, 1);
  for (const Kind kind : all_kinds)
    for (const auto granularity : all_granularities) {
      auto spec = spec_of(kind, granularity);
      spec.recent = 0;  // the newest entry may go: a pot does not tell how far reading has come
      SCOPED_TRACE(trace(spec));
      const auto undisturbed = new_run(model, spec);
      read_on(*undisturbed, text, text.size());
      const std::string expected = saved(*undisturbed);
      EXPECT_GE(undisturbed->reader.stats().distillations, 5U);
      const auto used = new_run(model, spec);
      for (std::uint64_t seed = 0; seed < 5; ++seed) {
        const std::size_t stop = 1 + toy::hash(seed * 64 + static_cast<std::size_t>(kind)) % 200;
        SCOPED_TRACE(stop);
        const auto first = new_run(model, spec), fresh = new_run(model, spec);
        read_on(*first, text, stop);
        const std::string file = saved(*first);
        for (Reading* const run : {fresh.get(), used.get()}) {
          restore(file, *run);
          EXPECT_EQ(saved(*run), file);
          EXPECT_EQ(run->reader.stats().tokens_read, stop);
          read_on(*run, text, text.size());
          EXPECT_EQ(saved(*run), expected) << (run == used.get() ? "used" : "fresh");
        }
      }
    }
}

// Chunks watch the last queries from where the window begins: a stop inside must not lose those before.
TEST(Resume, GoesOnInsideAWindow) {
  const toy::Model model;
  const auto text = toy::text(90, 2);
  for (const Kind kind : {Kind::snapkv, Kind::tova})
    for (std::size_t stop = 30; stop <= 60; ++stop) {
      const auto first = new_run(model, spec_of(kind)), second = new_run(model, spec_of(kind));
      first->reader.feed(std::span(text).first(stop));
      restore(saved(*first), *second);
      for (Reading* const run : {first.get(), second.get()}) run->reader.feed(std::span(text).subspan(stop));
      EXPECT_EQ(saved(*second), saved(*first)) << "stopped at " << stop;
    }
}

TEST(Resume, FeedingAChangedStoreIsNoticed) {
  const toy::Model model;
  const auto text = toy::text(50, 3);
  for (const Kind kind : {Kind::infinipot, Kind::reread}) {
    const auto first = new_run(model, spec_of(kind)), second = new_run(model, spec_of(kind));
    first->reader.feed(text);
    second->reader.feed(text);
    const std::string file = saved(*first);
    infinipot::restore_pot(bytes_of(file), second->pot);
    const std::vector<std::string> parts{"restore_pot()", "resume()"};
    expect_invalid([&] { second->reader.feed(1); }, parts);
    expect_invalid([&] { second->reader.distil(); }, parts);
    expect_invalid([&] { second->reader.generate(1, most_likely, [](Token) { return true; }); }, parts);
    expect_invalid([&] { second->fork(); }, parts);
    expect_invalid([&] { second->reader.memory(); }, parts);
    second->reader.resume(infinipot::check_pot_file(bytes_of(file)).extra);
    second->reader.feed(1);

    first->pot.truncate(first->pot.size() - 1);
    expect_invalid([&] { first->reader.feed(1); }, parts);
  }
}

TEST(Resume, RefusesToForgetWhatAPolicyMustRemember) {
  const toy::Model model;
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind);
    SCOPED_TRACE(trace(spec));
    const bool remembers = kind == Kind::h2o || kind == Kind::expected_attention || kind == Kind::reread;
    const auto first = new_run(model, spec), second = new_run(model, spec);
    second->reader.resume();  // nothing is read: nothing to remember
    first->reader.feed(toy::text(60, 4));
    infinipot::restore_pot(bytes_of(saved(*first)), second->pot);
    if (remembers)
      expect_invalid([&] { second->reader.resume(); }, {"cannot go on without", "memory()"});
    else
      second->reader.resume();
    // Memory of another policy has logits and counts, which is enough for a policy that remembers nothing.
    const auto other = new_run(model, spec_of(Kind::sirllm));
    other->reader.feed(toy::text(second->pot.size(), 4));
    if (other->pot.size() != second->pot.size()) continue;
    if (remembers)
      expect_invalid([&] { second->reader.resume(other->reader.memory()); }, {"by sirllm", "cannot go on"});
  }
}

TEST(Resume, MemoryOfAnotherPolicyWillDoForOneThatRemembersNothing) {
  const toy::Model model;
  auto spec = spec_of(Kind::infinipot);
  const auto blind = new_run(model, spec_of(Kind::reread)), novel = new_run(model, spec);
  spec.alpha = 0;
  const auto asked = new_run(model, spec);
  blind->reader.feed(toy::text(75, 5));
  blind->reader.distil();
  restore(saved(*blind), *asked);
  EXPECT_TRUE(std::ranges::equal(asked->reader.logits(), blind->reader.logits()));
  EXPECT_EQ(asked->reader.stats().tokens_read, 75U);
  EXPECT_EQ(asked->reader.stats().distillations, blind->reader.stats().distillations);
  asked->reader.feed(toy::text(75, 6));
  expect_invalid([&] { restore(saved(*blind), *novel); }, {"infinipot needs NuC", "by reread"});
}

TEST(Resume, RereadBeforeItsFirstDistillationHasNothingToRemember) {
  const toy::Model model;
  const auto first = new_run(model, spec_of(Kind::reread)), second = new_run(model, spec_of(Kind::reread));
  first->reader.feed(toy::text(25, 7));
  infinipot::restore_pot(bytes_of(saved(*first)), second->pot);
  second->reader.resume();
}

TEST(Resume, DamagedMemoryIsRefusedAndChangesNothing) {
  const toy::Model model;
  const auto text = toy::text(70, 8);
  for (const Kind kind : {Kind::sirllm, Kind::h2o, Kind::expected_attention}) {
    const auto run = new_run(model, spec_of(kind));
    run->reader.feed(text);
    const Bytes memory = run->reader.memory();
    for (std::size_t size = 0; size < memory.size(); size += size < 120 ? 1 : 97)
      EXPECT_THROW(run->reader.resume(std::span(memory).first(size)), std::invalid_argument) << size;
    for (std::size_t at = 0; at < memory.size(); at += at < 120 ? 1 : 97) {
      Bytes damaged = memory;
      damaged[at] ^= std::byte{0x41};
      EXPECT_THROW(run->reader.resume(damaged), std::invalid_argument) << at;
    }
    EXPECT_EQ(run->reader.memory(), memory);
    run->reader.resume(memory);
    EXPECT_EQ(run->reader.memory(), memory);
  }
}

/// Numbers that no reader has written, under a checksum that is right.
TEST(Resume, HostileMemoryDoesNoHarm) {
  const toy::Model model;
  std::size_t taken = 0;
  for (const Kind kind : {Kind::sirllm, Kind::h2o, Kind::expected_attention}) {
    const auto run = new_run(model, spec_of(kind));
    run->reader.feed(toy::text(70, 8));
    const Bytes memory = run->reader.memory();
    for (std::size_t at = 8; at < 80; at += 4)
      for (const std::uint64_t number :
           {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{100}, std::uint64_t{1} << 31,
            std::uint64_t{1} << 61, std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
        Bytes hostile = memory;
        std::memcpy(hostile.data() + at, &number, sizeof number);
        infinipot::detail::Crc32 crc;
        crc.add(std::span(hostile).first(hostile.size() - 4));
        const std::uint32_t value = crc.value();
        std::memcpy(hostile.data() + hostile.size() - 4, &value, sizeof value);
        try {
          run->reader.resume(hostile);
          ++taken;
        } catch (const std::invalid_argument&) {
          EXPECT_EQ(run->reader.memory(), memory);
        }
        run->reader.resume(memory);
      }
    run->reader.feed(toy::text(70, 9));
  }
  EXPECT_GE(taken, 10U) << "all were refused at once, so nothing was tried";
}

/// Whole, but not of this reader.
TEST(Resume, ForeignMemoryIsRefusedWithTheReason) {
  const toy::Model model,
      deeper(infinipot::plain_rope(8, 100), {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  const auto spec = spec_of(Kind::h2o);
  const auto run = new_run(model, spec), other = new_run(deeper, spec);
  run->reader.feed(toy::text(30, 9));
  other->reader.feed(toy::text(29, 9));
  expect_invalid([&] { run->reader.resume(other->reader.memory()); }, {"29 entries", "holds 30"});
  other->reader.feed(1);
  expect_invalid([&] { run->reader.resume(other->reader.memory()); }, {"180 entries", "not 120"});
  const auto observing = new_run(model, spec_of(Kind::expected_attention)),
             deep = new_run(deeper, spec_of(Kind::expected_attention));
  observing->reader.feed(toy::text(30, 9));
  deep->reader.feed(toy::text(30, 9));
  expect_invalid([&] { observing->reader.resume(deep->reader.memory()); }, {"memory of queries has"});
  expect_invalid([&] { run->reader.resume(std::as_bytes(run->reader.logits())); }, {"not a reader's memory"});

  // A memory that says less than the store, or nothing possible.
  infinipot::detail::ReaderMemory memory = infinipot::detail::memory_from(run->reader.memory());
  memory.stats.tokens_read = 29;
  expect_invalid([&] { run->reader.resume(to_bytes(memory)); }, {"29 tokens"});
  memory.stats.tokens_read = 30;
  for (const Token token : {-2, 50}) {
    memory.unread = token;
    EXPECT_THROW(run->reader.resume(to_bytes(memory)), std::invalid_argument);
  }
  memory.unread = -1;
  memory.logits.pop_back();
  expect_invalid([&] { run->reader.resume(to_bytes(memory)); }, {"49 logits"});
}

/// A model's reader with its pot and engine.
struct Session {
  explicit Session(const toy::Model& model, Granularity granularity = Granularity::head)
      : pot(toy::make_pot(model, 40, 20, granularity)),
        engine(model, pot),
        reader(engine, pot, infinipot::Infinipot({.catalysts = {{7, 21, 3}}, .alpha = 0.5, .kernel = 3}),
               {.keep = 20, .sinks = 2, .chunk = 16}) {}

  void restore(const Session& from) {
    std::ostringstream out;
    infinipot::save_pot(from.pot, out);
    const std::string file = out.str();
    infinipot::restore_pot(bytes_of(file), pot);
  }

  Pot<float> pot;
  toy::Engine<Pot<float>> engine;
  infinipot::Ccd<toy::Engine<Pot<float>>, Pot<float>, infinipot::Infinipot> reader;
};

TEST(ResumeWithoutMemory, TheNextTokenIsNotNew) {
  const toy::Model model;
  Session first(model), second(model);
  first.reader.feed(toy::text(20, 2));
  second.restore(first);
  second.reader.resume();
  EXPECT_THROW(second.reader.logits(), std::invalid_argument);
  second.reader.feed(5);
  EXPECT_EQ(second.pot.entries().nuc(0).back(), 0);
  EXPECT_EQ(second.pot.entries().positions(0).back(), 20U);
  first.reader.feed(5);
  EXPECT_NE(first.pot.entries().nuc(0).back(), 0);
}

TEST(ResumeWithoutMemory, WithLogitsItIs) {
  const toy::Model model;
  Session first(model), second(model);
  first.reader.feed(toy::text(20, 2));
  second.restore(first);
  second.reader.resume(first.reader.logits());
  for (Session* const each : {&first, &second}) each->reader.feed(5);
  EXPECT_EQ(first.pot.entries().nuc(0).back(), second.pot.entries().nuc(0).back());
}

// Lanes drop different tokens, so that one lane's newest entry may be older than another's.
TEST(ResumeWithoutMemory, CountsTokensUpToTheNewestOfAnyLane) {
  const toy::Model model;
  bool differed = false;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Session first(model), second(model);
    first.reader.feed(toy::text(60, seed));
    first.reader.distil();
    second.restore(first);
    second.reader.resume();
    std::uint64_t newest = 0;
    for (std::size_t lane = 0; lane < 4; ++lane)
      newest = std::max(newest, first.pot.entries().positions(lane).back());
    EXPECT_EQ(second.reader.stats().tokens_read, newest + 1);
    differed = differed || first.pot.entries().positions(0).back() != newest;
  }
  EXPECT_TRUE(differed);
}

TEST(ResumeWithoutMemory, RemembersWhatIsPinned) {
  const toy::Model model;
  Session first(model, Granularity::layer), second(model, Granularity::layer);
  first.reader.feed(toy::text(10, 3));
  first.reader.feed(toy::text(17, 4), Retention::pinned);
  second.restore(first);
  second.reader.resume();
  EXPECT_THROW(second.reader.feed(toy::text(2, 5), Retention::pinned), std::invalid_argument);
  second.reader.feed(7, Retention::pinned);
}

TEST(ResumeWithoutMemory, RefusesWhatLeavesNoRoom) {
  const toy::Model model;
  const std::vector<infinipot::Entry> many(38), pinned(19, infinipot::Entry{.pinned = true});
  Session setup(model);
  EXPECT_THROW(setup.reader.resume(std::vector<float>(49)), std::invalid_argument) << "logits";
  setup.pot.append(many);
  EXPECT_THROW(setup.reader.resume(), std::invalid_argument) << "no room for the catalyst";
  setup.pot.truncate(5);
  setup.pot.append(pinned);
  EXPECT_THROW(setup.reader.resume(), std::invalid_argument) << "pinned";
  EXPECT_EQ(setup.reader.stats().tokens_read, 0U);
  setup.pot.truncate(10);
  setup.reader.resume();
}

/// A user's policy that observes queries but has no memory of them.
struct Forgetful : infinipot::ExpectedAttention {
  using infinipot::ExpectedAttention::ExpectedAttention;
  std::string_view name() const noexcept { return "forgetful"; }
  void memory() const = delete;
};
static_assert(infinipot::ObservesQueries<Forgetful> && !infinipot::RemembersQueries<Forgetful>);

TEST(Resume, PolicyThatObservesWithoutMemoryIsRefusedByName) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 20);
  toy::Engine<Pot<float>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, Forgetful({.rope = model.rope}), {.keep = 20});
  reader.feed(toy::text(30, 1));
  const Bytes memory = reader.memory();
  expect_invalid([&] { reader.resume(memory); }, {"forgetful", "no memory()"});
  pot.truncate(0);
  reader.resume();
  reader.feed(1);
}

// Queries that were observed count for a policy's life only.
TEST(SetPolicy, ObservedQueriesAreForgotten) {
  const toy::Model model;
  const auto text = toy::text(120, 6);
  const infinipot::ExpectedAttention expected({.rope = model.rope, .sinks = 2});
  std::vector<std::vector<std::vector<float>>> scores(2);
  for (const std::size_t how : {0U, 1U}) {
    auto pot = toy::make_pot(model, 40, 20);
    toy::Engine<Pot<float>> engine(model, pot);
    infinipot::Ccd reader(engine, pot, expected, {.keep = 20, .sinks = 2, .chunk = 16});
    reader.on_choice([&](const infinipot::Choice& choice) {
      scores[how].emplace_back(choice.attention.begin(), choice.attention.end());
    });
    reader.feed(std::span(text).first(30));
    if (how == 1) reader.set_policy(expected);
    reader.feed(std::span(text).subspan(30));
  }
  EXPECT_GE(scores[0].size(), 3U);
  EXPECT_NE(scores[1], scores[0]);
}

}  // namespace
