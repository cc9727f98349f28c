#include "infinipot/pot/quantize.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "infinipot/detail/nan.hpp"
#include "reference/random.hpp"

namespace {

using infinipot::int4;
using infinipot::int8;
using infinipot::detail::is_nan;

constexpr std::size_t group = 32;

template <class T>
class Codes : public testing::Test {};
using Types = testing::Types<int8, int4>;
TYPED_TEST_SUITE(Codes, Types);

/// The error of a group of 32 channels: half a step, of a scale rounded to f16 (2^-11 of it, by up to 127 or
/// 15 codes, or the subnormal spacing), and for 4 bits the rounding of the smallest value to f16.
template <class T>
double bound(const std::vector<float>& row, std::size_t channel) {
  const auto first = row.begin() + static_cast<std::ptrdiff_t>(channel / group * group);
  const auto last =
      row.begin() + static_cast<std::ptrdiff_t>(std::min(row.size(), (channel / group + 1) * group));
  const auto [least, most] = std::minmax_element(first, last);
  const double low = static_cast<double>(*least), high = static_cast<double>(*most);
  const double largest = std::max(std::fabs(low), std::fabs(high));
  constexpr double f16 = 0x1p-11, subnormal = 0x1p-25, single = 0x1p-22;
  if (std::same_as<T, int8>) return 0.5 * largest / 127 + largest * f16 + 127 * subnormal + largest * single;
  return 0.5 * (high - low) / 15 + (high - low) * f16 + 2 * std::fabs(low) * f16 + 16 * subnormal +
         largest * single;
}

template <class T>
std::vector<float> round_trip(const std::vector<float>& row) {
  const std::size_t guard = 8, bytes = infinipot::detail::row_bytes<T>(row.size());
  std::vector<std::byte> codes(bytes + guard, std::byte{77});
  std::vector<float> out(row.size() + guard, 42.0F);
  infinipot::detail::quantize_row<T>(row.data(), row.size(), codes.data());
  infinipot::detail::dequantize_row<T>(codes.data(), row.size(), out.data());
  for (std::size_t i = bytes; i < codes.size(); ++i) EXPECT_EQ(codes[i], std::byte{77});
  for (std::size_t i = row.size(); i < out.size(); ++i) EXPECT_EQ(out[i], 42.0F);
  out.resize(row.size());
  return out;
}

template <class T>
void expect_close(const std::vector<float>& row) {
  const auto out = round_trip<T>(row);
  for (std::size_t c = 0; c < row.size(); ++c)
    ASSERT_LE(std::fabs(static_cast<double>(out[c]) - static_cast<double>(row[c])), bound<T>(row, c))
        << "channel " << c << " of " << row.size() << ": " << out[c] << " for " << row[c];
}

TYPED_TEST(Codes, AreWithinHalfAStep) {
  reference::Random random(1);
  for (const std::size_t width : {1U, 2U, 3U, 31U, 32U, 33U, 63U, 64U, 80U, 96U, 128U, 131U, 576U})
    for (const double size : {1e-6, 1e-3, 1.0, 300.0, 1e4})
      for (const double shift : {0.0, 0.5, 4.0}) {
        std::vector<float> row(width);
        for (float& x : row) x = static_cast<float>(size * (random.uniforms(1)[0] + shift));
        ASSERT_NO_FATAL_FAILURE(expect_close<TypeParam>(row));
      }
}

TYPED_TEST(Codes, ReachBothEndsOfTheRange) {
  // The extremes of a group lose no more than the rest, whichever sign is the larger.
  for (const float high : {1.0F, 0.1F})
    for (const float low : {-1.0F, -0.1F}) {
      std::vector<float> row(64);
      for (std::size_t i = 0; i < row.size(); ++i) row[i] = i % 2 == 0 ? high : low;
      expect_close<TypeParam>(row);
    }
}

TYPED_TEST(Codes, KeepZerosAndConstants) {
  for (const float x : {0.0F, 1.0F, -0.75F, 2048.0F}) {
    const std::vector<float> row(70, x);
    const auto out = round_trip<TypeParam>(row);
    for (const float y : out) EXPECT_NEAR(y, x, std::fabs(x) * 0x1p-8F);
    if (x == 0) {
      EXPECT_EQ(out, row);
    }
  }
}

TYPED_TEST(Codes, EachGroupHasItsOwnScale) {
  std::vector<float> row(96, 0.001F);
  for (std::size_t i = 32; i < 64; ++i) row[i] = i % 2 == 0 ? 1000.0F : -900.0F;
  expect_close<TypeParam>(row);
}

TYPED_TEST(Codes, AreTheSameForTheSameGroupWhereverItStands) {
  reference::Random random(2);
  std::vector<float> row;
  for (std::size_t i = 0; i < group; ++i) row.push_back(static_cast<float>(random.uniforms(1)[0]));
  auto twice = row;
  twice.insert(twice.end(), row.begin(), row.end());
  const auto out = round_trip<TypeParam>(twice);
  EXPECT_TRUE(std::equal(out.begin(), out.begin() + group, out.begin() + group));
}

TYPED_TEST(Codes, WhatIsNotFiniteMakesItsGroupNanAndNoOther) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, 3e38F})
    for (const std::size_t at : {0U, 33U, 63U, 64U, 69U}) {
      std::vector<float> row(70, 0.5F);
      row[at] = bad;
      const auto out = round_trip<TypeParam>(row);
      for (std::size_t c = 0; c < row.size(); ++c) {
        if (c / group == at / group) {
          EXPECT_TRUE(is_nan(out[c])) << bad << " at " << at << ", channel " << c;
        } else {
          EXPECT_NEAR(out[c], 0.5F, 0.002F) << bad << " at " << at << ", channel " << c;
        }
      }
    }
}

TEST(Codes, TakeSoManyBytes) {
  using infinipot::detail::row_bytes;
  EXPECT_EQ(row_bytes<int8>(64), 2U * (2 + 32));
  EXPECT_EQ(row_bytes<int4>(64), 2U * (4 + 16));
  EXPECT_EQ(row_bytes<int8>(33), 2U + 32 + 2 + 1);
  EXPECT_EQ(row_bytes<int4>(33), 4U + 16 + 4 + 1);
  EXPECT_EQ(row_bytes<int4>(35), 4U + 16 + 4 + 2);
}

}  // namespace
