// NaN and infinity by their bits, which -ffast-math cannot take away.
#include "infinipot/detail/nan.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>

namespace {

using namespace infinipot::detail;

/// Every exponent and sign, at both ends of the mantissa.
template <class Float>
void expect_kinds(int mantissa_bits, Bits<Float> exponents) {
  const Bits<Float> one = 1, top = one << (mantissa_bits - 1), all = (one << mantissa_bits) - 1;
  for (const Bits<Float> sign : {Bits<Float>{0}, sign_bit<Float>})
    for (Bits<Float> exponent = 0; exponent <= exponents; ++exponent)
      for (const Bits<Float> mantissa : {Bits<Float>{0}, one, top, all}) {
        const auto x = std::bit_cast<Float>(sign | exponent << mantissa_bits | mantissa);
        const bool last = exponent == exponents;
        EXPECT_EQ(is_nan(x), last && mantissa != 0) << exponent << ", " << mantissa;
        EXPECT_EQ(is_finite(x), !last) << exponent << ", " << mantissa;
        EXPECT_EQ(is_minus_infinity(x), last && mantissa == 0 && sign != 0) << exponent << ", " << mantissa;
        if constexpr (sizeof(Float) == sizeof(float)) {
          EXPECT_EQ(spoils(x), is_nan(x) || (last && mantissa == 0 && sign == 0))
              << exponent << ", " << mantissa;
        }
      }
}

TEST(Nan, EveryKindOfFloat) { expect_kinds<float>(23, 255); }
TEST(Nan, EveryKindOfDouble) { expect_kinds<double>(52, 2047); }

TEST(Nan, MadeOnesAreWhatTheyAreCalled) {
  EXPECT_EQ(std::bit_cast<std::uint32_t>(quiet_nan<float>()), 0x7FC00000U);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(quiet_nan<double>()), 0x7FF8000000000000U);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(minus_infinity()), 0xFF800000U);
}

TEST(Nan, RaisedScoresKeepIt) {
  const auto raised = [](float score, float to) {
    raise_score(score, to);
    return score;
  };
  EXPECT_EQ(raised(1, 2), 2.0F);
  EXPECT_EQ(raised(2, 1), 2.0F);
  EXPECT_EQ(raised(minus_infinity(), -1), -1.0F);
  EXPECT_TRUE(is_nan(raised(1, quiet_nan<float>())));
  EXPECT_TRUE(is_nan(raised(quiet_nan<float>(), 1)));
  EXPECT_TRUE(is_nan(raised(quiet_nan<float>(), -1)));
}

}  // namespace
