#include "infinipot/element.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "infinipot/detail/nan.hpp"
#include "reference/random.hpp"
#include "reference/reference_element.hpp"

namespace {

using infinipot::bf16;
using infinipot::f16;

static_assert(infinipot::Element<float> && infinipot::Element<f16> && infinipot::Element<bf16>);
static_assert(!infinipot::Element<double> && !infinipot::Element<const float> && !infinipot::Element<int>);
static_assert(sizeof(f16) == 2 && sizeof(bf16) == 2);

template <class T>
std::uint16_t bits_of(T value) {
  return std::bit_cast<std::uint16_t>(value);
}

template <class T>
std::vector<float> to_floats(const std::vector<T>& in) {
  std::vector<float> out(in.size());
  infinipot::detail::to_float(in.data(), in.size(), out.data());
  return out;
}

template <class T>
std::vector<T> from_floats(const std::vector<float>& in) {
  std::vector<T> out(in.size());
  infinipot::detail::from_float(in.data(), in.size(), out.data());
  return out;
}

template <class T>
bool is_nan(std::uint16_t bits) {
  return infinipot::detail::is_nan(reference::decode(reference::format<T>, bits));
}

/// All floats must round to what the reference says, alone and in a long row (which may be vectorised).
template <class T>
void expect_rounded(const std::vector<float>& values) {
  const reference::Rounder round(reference::format<T>);
  const std::vector<T> row = from_floats<T>(values);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < values.size() && wrong < 10; ++i) {
    T alone;
    infinipot::detail::from_float(&values[i], 1, &alone);
    const std::uint16_t expected = round(values[i]);
    if (bits_of(row[i]) == expected && bits_of(alone) == expected) continue;
    ++wrong;
    ADD_FAILURE() << std::hexfloat << values[i] << " should be " << std::hex << expected << ", is "
                  << bits_of(row[i]) << " in a row and " << bits_of(alone) << " alone";
  }
}

template <class T>
class SixteenBits : public testing::Test {};
using SixteenBitTypes = testing::Types<f16, bf16>;
TYPED_TEST_SUITE(SixteenBits, SixteenBitTypes);

TYPED_TEST(SixteenBits, EveryPatternHasItsValue) {
  std::vector<TypeParam> all;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    all.push_back(std::bit_cast<TypeParam>(static_cast<std::uint16_t>(bits)));
  const std::vector<float> row = to_floats(all);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double expected = reference::decode(reference::format<TypeParam>, static_cast<std::uint16_t>(bits));
    float alone = 0;
    infinipot::detail::to_float(&all[bits], 1, &alone);
    if (infinipot::detail::is_nan(expected)) {
      ASSERT_TRUE(infinipot::detail::is_nan(row[bits]) && infinipot::detail::is_nan(alone))
          << std::hex << bits;
    } else {
      ASSERT_EQ(reference::exact(row[bits]), expected) << std::hex << bits;
      ASSERT_EQ(reference::exact(alone), expected) << std::hex << bits;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(row[bits]) >> 31U, bits >> 15U) << std::hex << bits;
    }
  }
}

TYPED_TEST(SixteenBits, EveryPatternReturnsFromFloat) {
  std::vector<TypeParam> all;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    all.push_back(std::bit_cast<TypeParam>(static_cast<std::uint16_t>(bits)));
  const std::vector<TypeParam> back = from_floats<TypeParam>(to_floats(all));
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (is_nan<TypeParam>(bits_of(all[i])))
      ASSERT_TRUE(is_nan<TypeParam>(bits_of(back[i]))) << std::hex << bits_of(all[i]) << " became a number";
    else
      ASSERT_EQ(bits_of(back[i]), bits_of(all[i])) << std::hex << i;
  }
}

TYPED_TEST(SixteenBits, NanFloatsOfAnyPayloadStayNan) {
  std::vector<float> nans;
  for (const std::uint32_t payload :
       {1u, 0x1fffu, 0x2000u, 0xffffu, 0x10000u, 0x3fffffu, 0x400000u, 0x7fffffu})
    for (const std::uint32_t sign : {0u, 0x80000000u})
      nans.push_back(std::bit_cast<float>(sign | 0x7f800000u | payload));
  for (const TypeParam value : from_floats<TypeParam>(nans)) EXPECT_TRUE(is_nan<TypeParam>(bits_of(value)));
}

TYPED_TEST(SixteenBits, HalfwayGoesToEvenAndItsNeighboursToTheNearer) {
  // Exact in float: one bit more than the type has, subnormals and the border to infinity included.
  const std::vector<double> values = reference::Rounder(reference::format<TypeParam>).values();
  std::vector<float> floats;
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    const float half = reference::float_of((values[i] + values[i + 1]) / 2);
    ASSERT_EQ(reference::exact(half), (values[i] + values[i + 1]) / 2);
    const auto bits = std::bit_cast<std::uint32_t>(half);  // those beside it are the floats beside it
    for (const std::uint32_t magnitude : {bits - 1, bits, bits + 1})
      for (const std::uint32_t sign : {0U, 0x80000000U})
        floats.push_back(std::bit_cast<float>(magnitude | sign));
  }
  expect_rounded<TypeParam>(floats);
}

TYPED_TEST(SixteenBits, FloatsOfAllMagnitudesRoundToNearest) {
  std::vector<float> floats;
  for (std::uint32_t bits = 0; bits < 0x7f800000u; bits += 4099) {
    floats.push_back(std::bit_cast<float>(bits));
    floats.push_back(std::bit_cast<float>(bits | 0x80000000u));
  }
  expect_rounded<TypeParam>(floats);
}

TYPED_TEST(SixteenBits, OverflowBecomesInfinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float most = std::numeric_limits<float>::max();
  const std::vector<float> floats = to_floats(from_floats<TypeParam>({most, -most, infinity, -infinity}));
  EXPECT_EQ(floats, (std::vector<float>{infinity, -infinity, infinity, -infinity}));
}

TEST(HalfPrecision, KnownValues) {
  const std::vector<float> floats{1, -2, 65504, 65519, 65520, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0.1f};
  const std::vector<std::uint16_t> expected{0x3c00, 0xc000, 0x7bff, 0x7bff, 0x7c00, 1, 0, 1, 0x2e66};
  const auto halves = from_floats<f16>(floats);
  for (std::size_t i = 0; i < floats.size(); ++i) EXPECT_EQ(bits_of(halves[i]), expected[i]) << floats[i];
}

TEST(BrainFloat, KnownValues) {
  const std::vector<float> floats{1, -2, 0.1f, 0x1p-133f, 0x1p-134f, 0x1.8p-134f, 0x1.01p0f, 0x1.03p0f};
  const std::vector<std::uint16_t> expected{0x3f80, 0xc000, 0x3dcd, 1, 0, 1, 0x3f80, 0x3f82};
  const auto brains = from_floats<bf16>(floats);
  for (std::size_t i = 0; i < floats.size(); ++i) EXPECT_EQ(bits_of(brains[i]), expected[i]) << floats[i];
}

TEST(SinglePrecision, IsCopiedBitForBit) {
  std::vector<float> values;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 65537)
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  const auto out = to_floats(values), back = from_floats<float>(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]), std::bit_cast<std::uint32_t>(values[i]));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(back[i]), std::bit_cast<std::uint32_t>(values[i]));
  }
}

/// Every length around the widths of vector units, at every alignment, with nothing written beyond the end.
template <class T>
void expect_all_lengths() {
  reference::Random random(1);
  constexpr std::size_t most = 67, guard = 16;
  for (std::size_t offset = 0; offset < 4; ++offset)
    for (std::size_t n = 0; n <= most; ++n) {
      std::vector<float> floats(offset + most + guard);
      for (float& value : floats) value = static_cast<float>(random.uniform());
      std::vector<T> row(floats.size(), T(42.0f));
      infinipot::detail::from_float(floats.data() + offset, n, row.data() + offset);
      std::vector<float> back(floats.size(), 42.0f);
      infinipot::detail::to_float(row.data() + offset, n, back.data() + offset);
      for (std::size_t i = 0; i < row.size(); ++i) {
        const bool inside = i >= offset && i < offset + n;
        const T expected = inside ? static_cast<T>(floats[i]) : T(42.0f);
        ASSERT_EQ(static_cast<float>(row[i]), static_cast<float>(expected)) << "n " << n << " at " << i;
        ASSERT_EQ(back[i], static_cast<float>(expected)) << "n " << n << " at " << i;
      }
    }
}

TEST(SinglePrecision, AnyLengthAndAlignment) { expect_all_lengths<float>(); }
TEST(HalfPrecision, AnyLengthAndAlignment) { expect_all_lengths<f16>(); }
TEST(BrainFloat, AnyLengthAndAlignment) { expect_all_lengths<bf16>(); }

}  // namespace
