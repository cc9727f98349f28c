// Reads a golden file's stream through a pot and compares all that comes of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "engine.hpp"
#include "families.hpp"
#include "golden_model.hpp"
#include "golden_policy.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/pot.hpp"

namespace models {

/// Rows of the pot are rounded to 6e-8 of their numbers, and survivors' keys are turned by floats besides;
/// all else, transformers' side too, is in double precision. With queries and keys as long as here (up to
/// 10), an attention logit is off by up to some 1e-6, so is what an entry is paid, relatively, and so is a
/// layer's output; each layer behind, with random weights, multiplies that. Largest seen: 5e-6.
constexpr double tolerance = 2e-5;

/// The largest differences from what transformers found.
struct Differences {
  double logits = 0;     ///< in standard deviations of a row's logits
  double nuc = 0;        ///< nats
  double attention = 0;  ///< a catalyst's tokens pay 1 each in every query head
  std::size_t distillations = 0;
};

/// Relative to the standard deviation of `expected`.
inline double difference(std::span<const float> found, const std::vector<double>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double mean = 0, square = 0, worst = 0;
  const auto n = static_cast<double>(expected.size());
  for (const double logit : expected) mean += logit / n;
  for (const double logit : expected) square += (logit - mean) * (logit - mean) / n;
  for (std::size_t i = 0; i < expected.size(); ++i) worst = std::max(worst, std::abs(found[i] - expected[i]));
  return worst / std::sqrt(square);
}

/// What a distillation goes by and what it keeps.
inline void compare(const infinipot::Choice& choice, const infinipot::Shape& shape, const GoldenModel& golden,
                    Differences& differences) {
  const auto& expected = golden.at("distillations").at(choice.number - 1);
  const std::vector<double> nuc = golden.at("nuc");
  const std::vector<infinipot::Token> tokens = golden.at("tokens");
  const infinipot::EntryTable& entries = choice.entries;
  const std::size_t capacity = golden.at("capacity");
  ASSERT_EQ(expected.at("kept").size(), shape.heads());
  for (std::size_t lane = 0; lane < shape.heads(); ++lane) {
    const auto kept = choice.kept.lane(lane);
    EXPECT_EQ(std::vector<std::size_t>(kept.begin(), kept.end()),
              expected.at("kept").at(lane).get<std::vector<std::size_t>>());
    const std::vector<double> paid = expected.at("cap").at(lane);
    ASSERT_EQ(paid.size(), entries.size());
    for (std::size_t t = 0; t < paid.size(); ++t) {
      const auto at = static_cast<std::size_t>(entries.positions(lane)[t]);
      EXPECT_EQ(entries.tokens(lane)[t], tokens.at(at));
      differences.nuc = std::max(differences.nuc, std::abs(entries.nuc(lane)[t] - nuc.at(at)));
      differences.attention =
          std::max(differences.attention, std::abs(choice.attention[lane * capacity + t] - paid[t]));
    }
  }
  ++differences.distillations;
}

/// Reads the whole stream by a model that may differ from the file's.
template <class Pot>
Differences read(const GoldenModel& golden, Model& model, Pot& pot) {
  Differences differences;
  Engine<Pot> engine(model, pot);
  const infinipot::CcdSettings settings{.sinks = 0, .chunk = golden.at("chunk")};
  infinipot::Ccd reader(engine, pot, GoldenPolicy(golden), settings);
  reader.on_choice(
      [&](const infinipot::Choice& choice) { compare(choice, model.shape, golden, differences); });
  const std::vector<infinipot::Token> tokens = golden.at("tokens");
  std::size_t at = 0;
  for (const auto& [row, logits] : golden.logits()) {
    reader.feed(std::span(tokens).subspan(at, row + 1 - at));
    at = row + 1;
    differences.logits = std::max(differences.logits, difference(reader.logits(), logits));
  }
  EXPECT_EQ(at, tokens.size());
  return differences;
}

}  // namespace models
