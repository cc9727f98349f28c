// A reader that stops, is saved with its pot to a file, and goes on elsewhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::Granularity;
using infinipot::Infinipot;
using infinipot::Pot;
using infinipot::Retention;
using infinipot::Token;

constexpr infinipot::CcdSettings settings{.keep = 20, .sinks = 2, .chunk = 16};

Infinipot policy() { return Infinipot({.catalysts = {{7, 21, 3}}, .alpha = 0.5, .kernel = 3}); }

/// A model's reader with its pot and engine.
struct Session {
  explicit Session(const toy::Model& model, Granularity granularity)
      : pot(toy::make_pot(model, 40, 20, granularity)),
        engine(model, pot),
        reader(engine, pot, policy(), settings) {}

  Pot<float> pot;
  toy::Engine<Pot<float>> engine;
  infinipot::Ccd<toy::Engine<Pot<float>>, Pot<float>, Infinipot> reader;
};

std::string saved(const Session& setup, bool with_logits = true) {
  std::ostringstream out;
  const auto logits = with_logits ? setup.reader.logits() : std::span<const float>();
  infinipot::save_pot(setup.pot, out, std::as_bytes(logits));
  return out.str();
}

void restore(const std::string& file, Session& setup) {
  const auto bytes = std::as_bytes(std::span(file));
  infinipot::restore_pot(bytes, setup.pot);
  const auto extra = infinipot::check_pot_file(bytes).extra;
  std::vector<float> logits(extra.size() / sizeof(float));
  std::ranges::copy(extra, std::as_writable_bytes(std::span(logits)).begin());
  setup.reader.resume(logits);
}

TEST(Resume, GoesOnAsIfNothingHadHappened) {
  const toy::Model model;
  const auto text = toy::text(300, 1);
  for (const auto granularity : {Granularity::head, Granularity::layer, Granularity::shared})
    for (const std::size_t stop : {3U, 37U, 38U, 160U}) {
      Session first(model, granularity), second(model, granularity);
      first.reader.feed(std::span(text).first(2));
      first.reader.feed(std::span(text).subspan(2, 1), Retention::pinned);
      first.reader.feed(std::span(text).subspan(3, stop - 3));
      restore(saved(first), second);
      EXPECT_EQ(second.reader.stats().tokens_read, stop);
      EXPECT_EQ(saved(second), saved(first));
      for (Session* const each : {&first, &second}) each->reader.feed(std::span(text).subspan(stop));
      EXPECT_EQ(saved(second), saved(first)) << "stopped at " << stop;
    }
}

TEST(Resume, WithoutLogitsTheNextTokenIsNotNew) {
  const toy::Model model;
  const auto text = toy::text(20, 2);
  Session first(model, Granularity::head), second(model, Granularity::head);
  first.reader.feed(text);
  restore(saved(first, false), second);
  EXPECT_THROW(second.reader.logits(), std::invalid_argument);
  second.reader.feed(5);
  EXPECT_EQ(second.pot.entries().nuc(0).back(), 0);
  EXPECT_EQ(second.pot.entries().positions(0).back(), 20U);
  first.reader.feed(5);
  EXPECT_NE(first.pot.entries().nuc(0).back(), 0);
}

TEST(Resume, RemembersWhatIsPinned) {
  const toy::Model model;
  Session first(model, Granularity::layer), second(model, Granularity::layer);
  first.reader.feed(toy::text(10, 3));
  first.reader.feed(toy::text(17, 4), Retention::pinned);
  restore(saved(first), second);
  EXPECT_THROW(second.reader.feed(toy::text(2, 5), Retention::pinned), std::invalid_argument);
  second.reader.feed(7, Retention::pinned);
}

TEST(Resume, RefusesWhatLeavesNoRoom) {
  const toy::Model model;
  const std::vector<infinipot::Entry> many(38), pinned(19, infinipot::Entry{.pinned = true});
  Session setup(model, Granularity::head);
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

// A file does not hold the queries that a policy has observed: they count from resume() on, as for a new
// policy.
TEST(Resume, ObservedQueriesAreForgotten) {
  const toy::Model model;
  const auto text = toy::text(120, 6);
  const infinipot::ExpectedAttention expected({.rope = model.rope, .sinks = 2});
  std::vector<std::vector<std::vector<float>>> scores(3);
  for (const std::size_t how : {0U, 1U, 2U}) {
    auto pot = toy::make_pot(model, 40, 20);
    toy::Engine<Pot<float>> engine(model, pot);
    infinipot::Ccd reader(engine, pot, expected, settings);
    reader.on_choice([&](const infinipot::Choice& choice) {
      scores[how].emplace_back(choice.attention.begin(), choice.attention.end());
    });
    reader.feed(std::span(text).first(30));
    if (how == 1) reader.resume(std::vector<float>(reader.logits().begin(), reader.logits().end()));
    if (how == 2) reader.set_policy(expected);
    reader.feed(std::span(text).subspan(30));
  }
  EXPECT_GE(scores[0].size(), 3U);
  EXPECT_NE(scores[1], scores[0]);
  EXPECT_EQ(scores[1], scores[2]);
}

}  // namespace
