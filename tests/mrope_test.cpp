#include "infinipot/rope/mrope.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/pot.hpp"
#include "reference/golden.hpp"
#include "reference/random.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::Axis;
using infinipot::Index;
using infinipot::Mrope;
using infinipot::MropePosition;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Rope;

Mrope random_map(reference::Random& random, Rope rope) {
  Mrope mrope{std::move(rope), {}};
  for (std::size_t i = 0; i < mrope.rope.frequencies.size(); ++i)
    mrope.axes.push_back(static_cast<Axis>(random.below(3)));
  return mrope;
}

/// A raw key rotated in double precision.
std::vector<double> reference_rotated(const std::vector<double>& raw, const Mrope& mrope, double text,
                                      double height, double width) {
  std::vector<double> angles = mrope.rope.frequencies;
  for (std::size_t i = 0; i < angles.size(); ++i)
    angles[i] *= mrope.axes[i] == Axis::text ? text : mrope.axes[i] == Axis::height ? height : width;
  return reference::rotated_by(raw, mrope.rope, angles);
}

std::vector<float> rotated(const std::vector<double>& raw, const Mrope& mrope,
                           const MropePosition& position) {
  std::vector<float> key(raw.begin(), raw.end()), memory(mrope.rope.rotary_dim());
  infinipot::rotate(key.data(), mrope, position, key.size(), memory, key.data());
  return key;
}

TEST(Mrope, EqualsHuggingFace) {
  const nlohmann::json golden = reference::golden("rope.json");
  ASSERT_GE(golden.at("mrope").size(), 9u);
  for (const nlohmann::json& line : golden.at("mrope")) {
    const std::array<std::size_t, 3> sections = line.at("sections");
    const std::array<std::int64_t, 3> position = line.at("position");
    const Rope rope = plain_rope(line.at("head_dim"), line.at("theta"));
    const Mrope mrope = line.at("model") == "qwen2_vl"
                            ? infinipot::mrope_sections(rope, sections[0], sections[1], sections[2])
                            : infinipot::mrope_interleaved(rope, sections[0], sections[1], sections[2]);
    EXPECT_NO_THROW(mrope.validate(line.at("head_dim")));
    const std::vector<double> raw = line.at("key"), expected = line.at("rotated");
    const auto key = rotated(raw, mrope, {position[0], position[1], position[2]});
    const auto norms = reference::pair_norms(raw, rope);
    // Theirs are float products of float frequencies: an error of up to 3u of the angle.
    const auto farthest = static_cast<double>(*std::ranges::max_element(position));
    const double bound = 2 * reference::rotation_error + 3 * 0x1p-24 * farthest;
    for (std::size_t c = 0; c < raw.size(); ++c)
      ASSERT_NEAR(key[c], expected[c], bound * norms[c]) << line.at("model") << " channel " << c;
  }
}

TEST(Mrope, AnyMapEqualsDoublePrecision) {
  reference::Random random(10);
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved})
    for (const std::size_t rotary_dim : {0u, 2u, 64u, 80u, 128u}) {
      const Mrope mrope = random_map(random, plain_rope(rotary_dim, 1e6, pairing));
      for (const MropePosition& position :
           {MropePosition{0, 0, 0}, {5, 6, 9}, {4000, 12, 3999}, {-7, 3, -100}}) {
        const std::vector<double> raw = random.uniforms(rotary_dim + 6);
        const auto key = rotated(raw, mrope, position);
        const auto expected =
            reference_rotated(raw, mrope, static_cast<double>(position.text),
                              static_cast<double>(position.height), static_cast<double>(position.width));
        const auto norms = reference::pair_norms(raw, mrope.rope);
        for (std::size_t c = 0; c < raw.size(); ++c)
          ASSERT_NEAR(key[c], expected[c], reference::rotation_error * norms[c]);
      }
    }
}

TEST(Mrope, SectionsAreContiguous) {
  const Mrope mrope = infinipot::mrope_sections(plain_rope(12), 1, 2, 3);
  EXPECT_EQ(mrope.axes, (std::vector<Axis>{Axis::text, Axis::height, Axis::height, Axis::width, Axis::width,
                                           Axis::width}));
  EXPECT_EQ(mrope.rope.frequencies, plain_rope(12).frequencies);
}

TEST(Mrope, SectionsTakeTurnsWhileTheyLast) {
  constexpr Axis t = Axis::text, h = Axis::height, w = Axis::width;
  const auto axes = [](std::size_t text, std::size_t height, std::size_t width) {
    return infinipot::mrope_interleaved(plain_rope(2 * (text + height + width)), text, height, width).axes;
  };
  using Axes = std::vector<Axis>;
  EXPECT_EQ(axes(4, 2, 2), (Axes{t, h, w, t, h, w, t, t}));
  EXPECT_EQ(axes(2, 2, 1), (Axes{t, h, w, t, h}));
  EXPECT_EQ(axes(3, 1, 2), (Axes{t, h, w, t, t, w}));
  EXPECT_EQ(axes(3, 0, 0), (Axes{t, t, t}));
}

TEST(Mrope, ThreeEqualPositionsArePlainRope) {
  reference::Random random(11);
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
    const Rope rope = plain_rope(64, 10000, pairing);
    const Mrope mrope = random_map(random, rope);
    std::vector<float> memory(infinipot::AngleTable::floats(rope, 100)), own(64);
    const infinipot::AngleTable table(rope, 100, memory);
    for (std::int64_t p = 0; p < 100; ++p) {
      const auto angles = infinipot::mrope_angles(mrope, {p, p, p}, own);
      const auto plain = table[static_cast<std::size_t>(p)];
      ASSERT_EQ(angles.pairs, plain.pairs);
      ASSERT_TRUE(std::equal(angles.cos, angles.cos + 32, plain.cos));
      ASSERT_TRUE(std::equal(angles.sin, angles.sin + 32, plain.sin));
    }
  }
}

/// Keys of a text with an image in it (a grid), written into a pot and distilled: each kept key must be that
/// of its position with the same shift subtracted from all three axes, within the bound for plain RoPE.
template <class T>
void expect_pot_shifts_all_axes(Pairing pairing) {
  const std::size_t d = 40, capacity = 60, rotary = 32;
  reference::Random random(12);
  const Mrope mrope = random_map(random, plain_rope(rotary, 10000, pairing));
  infinipot::Pot<T> pot({.shape = {1, 1, 1, d}, .capacity = capacity, .rope = mrope.rope});
  std::vector<std::vector<double>> raw;
  std::vector<std::vector<double>> positions;
  for (std::size_t i = 0; i < capacity; ++i) {
    const auto at = static_cast<double>(i);
    // Entries 10 .. 33 are a picture of 4 rows of 6.
    const bool image = i >= 10 && i < 34;
    positions.push_back(
        image ? std::vector<double>{10, 10 + std::floor((at - 10) / 6), 10 + std::fmod(at - 10, 6)}
              : std::vector<double>{at, at, at});
    raw.push_back(random.uniforms(d));
    const auto exact = reference_rotated(raw[i], mrope, positions[i][0], positions[i][1], positions[i][2]);
    std::ranges::transform(exact, pot.keys(0).row(0, i), reference::stored<T>);
  }
  pot.append(std::vector<infinipot::Entry>(capacity));
  std::vector<std::size_t> original(capacity);
  for (std::size_t i = 0; i < capacity; ++i) original[i] = i;
  for (const std::size_t keep : {30u, 21u, 8u}) {
    const auto kept = random.subset<Index>(keep, pot.size());
    infinipot::Selection selection(1, keep);
    std::ranges::copy(kept, selection.lane(0).begin());
    pot.keep(selection);
    for (std::size_t j = 0; j < keep; ++j) {
      original[j] = original[kept[j]];
      const double shift = static_cast<double>(original[j]) - static_cast<double>(j);
      const auto& p = positions[original[j]];
      const auto exact = reference_rotated(raw[original[j]], mrope, p[0] - shift, p[1] - shift, p[2] - shift);
      ASSERT_LE(reference::stored_error(pot.keys(0).row(0, j), exact, raw[original[j]], mrope.rope), 1)
          << "entry " << original[j] << " at " << j;
    }
  }
}

TEST(Mrope, APotShiftsAllThreePositions) {
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
    expect_pot_shifts_all_axes<float>(pairing);
    expect_pot_shifts_all_axes<infinipot::f16>(pairing);
    expect_pot_shifts_all_axes<infinipot::bf16>(pairing);
  }
}

TEST(Mrope, AnglesStayInTheirMemory) {
  const Mrope mrope = infinipot::mrope_sections(plain_rope(8), 1, 1, 2);
  std::vector<float> memory(12, 42.0f);
  infinipot::mrope_angles(mrope, {1, 2, 3}, std::span(memory).first(8));
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(memory[i] == 42.0f, i >= 8);
}

TEST(Mrope, RejectsMapsThatDoNotFit) {
  const auto message = [](auto function) -> std::string {
    try {
      function();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "nothing thrown";
  };
  constexpr std::size_t huge = ~std::size_t{0};
  using Sections = std::array<std::size_t, 3>;
  for (const Sections& n : {Sections{16, 24, 25},
                            {16, 24, 23},
                            {65, 0, 0},
                            {0, 65, 0},
                            {huge, 2, 63},
                            {60, huge, 5},
                            {1, 2, huge}}) {
    const std::string error = message([&] { infinipot::mrope_sections(plain_rope(128), n[0], n[1], n[2]); });
    for (const std::size_t value : {n[0], n[1], n[2], std::size_t{64}})
      EXPECT_NE(error.find(std::to_string(value)), std::string::npos) << error;
  }
  EXPECT_NE(message([] { infinipot::mrope_interleaved(plain_rope(128), 24, 20, 21); }).find("do not sum"),
            std::string::npos);
  for (const Sections& n : {Sections{1, 2, 0}, {1, 0, 1}, {1, 2, 2}, {0, 1, 0}}) {
    const Rope rope = plain_rope(2 * (n[0] + n[1] + n[2]));
    const std::string error = message([&] { infinipot::mrope_interleaved(rope, n[0], n[1], n[2]); });
    EXPECT_NE(error.find("do not interleave"), std::string::npos) << n[0] << ' ' << n[1] << ' ' << n[2];
  }
  const Mrope shorter{plain_rope(8), std::vector<Axis>(3)};
  EXPECT_NE(message([&] { shorter.validate(8); }).find("maps 3 pairs"), std::string::npos);
  const Mrope wide{plain_rope(8), std::vector<Axis>(4)};
  EXPECT_NE(message([&] { wide.validate(6); }).find("turns 8 channels"), std::string::npos);
}

}  // namespace
