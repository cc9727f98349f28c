#include "infinipot/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/detail/nan.hpp"
#include "reference/random.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::AngleTable;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Rope;
using infinipot::Turn;
using infinipot::detail::is_nan;

/// An AngleTable with its memory.
struct Table {
  Table(const Rope& rope, std::size_t shifts)
      : memory(AngleTable::floats(rope, shifts)), angles(rope, shifts, memory) {}
  std::vector<float> memory;
  AngleTable angles;
};

struct Size {
  std::size_t head_dim, rotary_dim;
};

constexpr Size sizes[] = {{2, 2},   {2, 0},   {6, 4},     {64, 64},   {64, 32},   {80, 80},  {80, 20},
                          {96, 96}, {96, 66}, {128, 128}, {128, 126}, {256, 256}, {256, 64}, {257, 130}};
constexpr Pairing pairings[] = {Pairing::half_split, Pairing::interleaved};
constexpr std::size_t shifts[] = {0, 1, 2, 3, 62, 63, 64, 127};

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

template <class Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

void expect_error(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
}

TEST(PlainRope, FrequenciesFallGeometrically) {
  for (const double theta : {1.0, 10000.0, 500000.0, 1e6})
    for (const auto& [head_dim, rotary_dim] : sizes) {
      const Rope rope = plain_rope(rotary_dim, theta, Pairing::interleaved);
      ASSERT_EQ(rope.rotary_dim(), rotary_dim);
      ASSERT_EQ(rope.frequencies.size(), rotary_dim / 2);
      EXPECT_EQ(rope.pairing, Pairing::interleaved);
      EXPECT_EQ(rope.attention_factor, 1.0);
      for (std::size_t i = 0; i < rope.frequencies.size(); ++i) {
        const double exponent = 2 * static_cast<double>(i) / static_cast<double>(rotary_dim);
        EXPECT_NEAR(rope.frequencies[i] * std::pow(theta, exponent), 1, 1e-14);
      }
    }
  EXPECT_EQ(plain_rope(4).pairing, Pairing::half_split);
  EXPECT_NEAR(plain_rope(4).frequencies[1], 0.01, 1e-16);
}

TEST(PlainRope, RejectsOddDimensionsAndBadTheta) {
  expect_error(error_of([] { plain_rope(63); }), "63");
  expect_error(error_of([] { plain_rope(64, 0); }), "theta 0 ");
  expect_error(error_of([] { plain_rope(64, -10000); }), "-10000");
  expect_error(error_of([] { plain_rope(64, std::nan("")); }), "nan");
  expect_error(error_of([] { plain_rope(64, INFINITY); }), "inf");
}

TEST(Rope, ValidatesItsNumbers) {
  EXPECT_NO_THROW(plain_rope(64).validate(64));
  EXPECT_NO_THROW(plain_rope(64).validate(80));
  EXPECT_NO_THROW(Rope{}.validate(64));
  expect_error(error_of([] { plain_rope(66).validate(64); }), "66");
  expect_error(error_of([] { plain_rope(66).validate(64); }), "64");
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    Rope rope = plain_rope(8);
    rope.frequencies.back() = bad;
    expect_error(error_of([&] { rope.validate(8); }), is_nan(bad) ? "nan" : "inf");
  }
  for (const auto& [bad, text] :
       {std::pair{0.0, "factor 0 "}, {-0.5, "-0.5"}, {HUGE_VAL, "inf"}, {std::nan(""), "nan"}}) {
    Rope rope = plain_rope(8);
    rope.attention_factor = bad;
    expect_error(error_of([&] { rope.validate(8); }), text);
  }
}

TEST(AngleTable, HoldsCosinesAndSinesRoundedOnce) {
  for (const std::size_t rotary_dim : {0u, 2u, 64u, 80u, 130u}) {
    const Rope rope = plain_rope(rotary_dim);
    ASSERT_EQ(AngleTable::floats(rope, 300), 300 * rotary_dim);
    const Table table(rope, 300);
    for (std::size_t shift = 0; shift < 300; ++shift) {
      const auto angles = table.angles[shift];
      ASSERT_EQ(angles.pairs, rotary_dim / 2);
      for (std::size_t i = 0; i < angles.pairs; ++i) {
        const double angle = static_cast<double>(shift) * rope.frequencies[i];
        // Half a unit in the last place of values up to 1; the double computation adds far less.
        ASSERT_NEAR(angles.cos[i], std::cos(angle), 0x1p-25 + 1e-12);
        ASSERT_NEAR(angles.sin[i], std::sin(angle), 0x1p-25 + 1e-12);
      }
    }
  }
}

TEST(AngleTable, StaysInItsMemory) {
  const Rope rope = plain_rope(6);
  std::vector<float> memory(AngleTable::floats(rope, 5) + 8, 42.0f);
  const AngleTable table(rope, 5, std::span(memory).first(AngleTable::floats(rope, 5)));
  EXPECT_EQ(table[0].cos, memory.data());
  for (std::size_t i = memory.size() - 8; i < memory.size(); ++i) EXPECT_EQ(memory[i], 42.0f);
}

TEST(Rotate, EqualsDoublePrecisionWithinItsRoundings) {
  reference::Random random(5);
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings) {
      Rope rope = plain_rope(rotary_dim, 10000, pairing);
      rope.first_channel = random.below(head_dim - rotary_dim + 1);
      const Table table(rope, 128);
      for (const std::size_t shift : shifts)
        for (const auto& [turn, sign] : {std::pair{Turn::forward, 1.0}, {Turn::backward, -1.0}}) {
          const std::vector<double> raw = random.uniforms(head_dim);
          std::vector<float> out(head_dim + 4, 42.0f);
          infinipot::rotate(floats(raw).data(), table.angles[shift], pairing, turn, head_dim, out.data());
          const auto expected = reference::rotated(raw, rope, sign * static_cast<double>(shift));
          const auto norms = reference::pair_norms(raw, rope);
          for (std::size_t c = 0; c < head_dim; ++c)
            ASSERT_NEAR(out[c], expected[c], reference::rotation_error * norms[c])
                << "d " << head_dim << " r " << rotary_dim << " from " << rope.first_channel << " shift "
                << shift << " channel " << c;
          for (std::size_t c = head_dim; c < out.size(); ++c) ASSERT_EQ(out[c], 42.0f);
        }
    }
}

TEST(Rotate, TurnsTheFirstChannelTowardsTheSecond) {
  // A quarter turn of (1, 0) is (0, 1): the sign convention.
  const std::vector<float> cos{0}, sin{1};
  const infinipot::Angles quarter{cos.data(), sin.data(), 1};
  for (const Pairing pairing : pairings) {
    std::vector<float> key{1, 0};
    infinipot::rotate(key.data(), quarter, pairing, Turn::forward, 2, key.data());
    EXPECT_EQ(key, (std::vector<float>{0, 1}));
    infinipot::rotate(key.data(), quarter, pairing, Turn::backward, 2, key.data());
    EXPECT_EQ(key, (std::vector<float>{1, 0}));
  }
}

TEST(Rotate, PairsChannelsAsNamed) {
  const std::vector<float> cos{0, 1}, sin{1, 0};  // turns pair 0 only
  const infinipot::Angles angles{cos.data(), sin.data(), 2};
  std::vector<float> half{1, 2, 3, 4, 5}, interleaved = half;
  infinipot::rotate(half.data(), angles, Pairing::half_split, Turn::forward, 5, half.data());
  EXPECT_EQ(half, (std::vector<float>{-3, 2, 1, 4, 5}));
  infinipot::rotate(interleaved.data(), angles, Pairing::interleaved, Turn::forward, 5, interleaved.data());
  EXPECT_EQ(interleaved, (std::vector<float>{-2, 1, 3, 4, 5}));
}

TEST(Rotate, InPlaceEqualsOutOfPlace) {
  reference::Random random(6);
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings) {
      const Rope rope = plain_rope(rotary_dim, 500000, pairing);
      const Table table(rope, 128);
      for (const std::size_t shift : shifts) {
        const std::vector<double> raw = random.uniforms(head_dim);
        std::vector<float> in = floats(raw), out(head_dim), key = in;
        infinipot::rotate(in.data(), table.angles[shift], pairing, Turn::forward, head_dim, out.data());
        infinipot::rotate(key.data(), table.angles[shift], pairing, Turn::forward, head_dim, key.data());
        ASSERT_EQ(in, floats(raw));
        const auto norms = reference::pair_norms(raw, rope);
        // Contraction to fused operations may differ between the two: each is within its own bound.
        for (std::size_t c = 0; c < head_dim; ++c)
          ASSERT_NEAR(key[c], out[c], 2 * reference::rotation_error * norms[c]);
      }
    }
}

TEST(Rotate, ThereAndBackIsNearIdentity) {
  reference::Random random(7);
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings) {
      const Rope rope = plain_rope(rotary_dim, 10000, pairing);
      const Table table(rope, 128);
      for (const std::size_t shift : shifts) {
        const std::vector<double> raw = random.uniforms(head_dim);
        std::vector<float> key = floats(raw);
        infinipot::rotate(key.data(), table.angles[shift], pairing, Turn::forward, head_dim, key.data());
        infinipot::rotate(key.data(), table.angles[shift], pairing, Turn::backward, head_dim, key.data());
        const auto norms = reference::pair_norms(raw, rope);
        // The first error, a vector of up to sqrt(2) bounds, turns with the pair; the second adds one.
        for (std::size_t c = 0; c < head_dim; ++c)
          ASSERT_NEAR(key[c], raw[c], (1 + std::sqrt(2.0)) * reference::rotation_error * norms[c]);
      }
    }
}

TEST(Rotate, ChannelsBeyondThePairsAreCopied) {
  reference::Random random(8);
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings) {
      const Table table(plain_rope(rotary_dim, 10000, pairing), 8);
      std::vector<float> in = floats(random.uniforms(head_dim)), out(head_dim, 42.0f);
      infinipot::rotate(in.data(), table.angles[7], pairing, Turn::forward, head_dim, out.data());
      for (std::size_t c = rotary_dim; c < head_dim; ++c) ASSERT_EQ(out[c], in[c]);
      for (std::size_t c = 0; c < rotary_dim; ++c) ASSERT_NE(out[c], 42.0f);
    }
}

TEST(Rotate, ShiftOfZeroIsIdentity) {
  reference::Random random(9);
  for (const auto& [head_dim, rotary_dim] : sizes)
    for (const Pairing pairing : pairings) {
      const Table table(plain_rope(rotary_dim, 10000, pairing), 1);
      const std::vector<float> in = floats(random.uniforms(head_dim));
      for (const Turn turn : {Turn::forward, Turn::backward}) {
        std::vector<float> out(head_dim);
        infinipot::rotate(in.data(), table.angles[0], pairing, turn, head_dim, out.data());
        ASSERT_EQ(out, in);
      }
    }
}

}  // namespace
