// NaN and infinity by their bits, which -ffast-math cannot take away.
#include "infinipot/detail/nan.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>

namespace {

using infinipot::detail::is_finite;
using infinipot::detail::is_nan;

float of_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(Nan, EveryExponentAndSignAtBothEndsOfTheMantissa) {
  for (const std::uint32_t sign : {0U, 0x80000000U})
    for (std::uint32_t exponent = 0; exponent <= 255; ++exponent)
      for (const std::uint32_t mantissa : {0U, 1U, 0x400000U, 0x7FFFFFU}) {
        const float x = of_bits(sign | exponent << 23U | mantissa);
        EXPECT_EQ(is_nan(x), exponent == 255 && mantissa != 0) << exponent << ", " << mantissa;
        EXPECT_EQ(is_finite(x), exponent != 255) << exponent << ", " << mantissa;
      }
}

}  // namespace
