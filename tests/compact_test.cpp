#include "infinipot/pot/compact.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "infinipot/element.hpp"
#include "reference/random.hpp"

namespace {

using infinipot::Index;

/// A ramp that restarts after 251 values: every T holds them exactly, and no stride here is a multiple.
template <class T>
std::vector<T> numbered(std::size_t count) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(static_cast<float>(i % 251));
  return values;
}

/// Compacts in place and by copying to a fresh array: kept rows and gaps must agree with the copy.
template <class T>
void expect_compacted(std::size_t rows, std::size_t width, std::size_t stride,
                      const std::vector<Index>& kept) {
  const std::size_t guard = 3;
  const std::vector<T> before = numbered<T>(guard + rows * stride + guard);
  std::vector<T> expected = before;
  for (std::size_t j = 0; j < kept.size(); ++j)
    for (std::size_t c = 0; c < width; ++c)
      expected[guard + j * stride + c] = before[guard + kept[j] * stride + c];
  std::vector<T> actual = before;
  infinipot::compact_rows(actual.data() + guard, static_cast<std::ptrdiff_t>(stride), width,
                          std::span<const Index>(kept));
  ASSERT_EQ(actual, expected) << rows << " rows of " << width << ", stride " << stride << ", " << kept.size()
                              << " kept";
}

template <class T>
class CompactRows : public testing::Test {};
using Values = testing::Types<float, infinipot::f16, infinipot::bf16, std::uint64_t>;
TYPED_TEST_SUITE(CompactRows, Values);

TYPED_TEST(CompactRows, EqualsCopyingIntoAFreshArray) {
  reference::Random random(2);
  for (const std::size_t rows : {1u, 2u, 3u, 7u, 63u, 64u, 65u, 127u})
    for (const std::size_t width : {1u, 2u, 64u, 80u, 257u})
      for (const std::size_t gap : {0u, 1u, 5u, 64u})
        for (const std::size_t kept : {rows / 3, rows / 2, rows - 1, 1 + random.below(rows)})
          expect_compacted<TypeParam>(rows, width, width + gap, random.subset<Index>(kept, rows));
}

TYPED_TEST(CompactRows, AllKeptAndNoneKeptChangeNothing) {
  for (const std::size_t rows : {1u, 2u, 64u}) {
    reference::Random random(3);
    expect_compacted<TypeParam>(rows, 8, 9, random.subset<Index>(rows, rows));
    expect_compacted<TypeParam>(rows, 8, 9, {});
  }
}

TYPED_TEST(CompactRows, FirstLastAndEveryOther) {
  expect_compacted<TypeParam>(10, 4, 6, {0});
  expect_compacted<TypeParam>(10, 4, 6, {9});
  expect_compacted<TypeParam>(10, 4, 6, {0, 9});
  expect_compacted<TypeParam>(10, 4, 6, {0, 2, 4, 6, 8});
  expect_compacted<TypeParam>(10, 4, 6, {5, 6, 7, 8, 9});
}

TEST(CompactRows, StrideMayBeNegative) {
  // Row i of a matrix stored backwards.
  std::vector<int> values{50, 51, 40, 41, 30, 31, 20, 21, 10, 11, 0, 1};
  infinipot::compact_rows(values.data() + 10, -2, 2, std::span<const Index>(std::vector<Index>{1, 4}));
  EXPECT_EQ(values, (std::vector<int>{50, 51, 40, 41, 30, 31, 20, 21, 40, 41, 10, 11}));
}

TEST(CompactValues, EqualsCopyingIntoAFreshArray) {
  reference::Random random(4);
  for (const std::size_t rows : {1u, 2u, 3u, 7u, 63u, 64u, 65u})
    for (std::size_t count = 0; count <= rows; ++count) {
      const auto kept = random.subset<Index>(count, rows);
      const auto before = numbered<std::int64_t>(rows + 2);
      auto expected = before, actual = before;
      for (std::size_t j = 0; j < count; ++j) expected[1 + j] = before[1 + kept[j]];
      infinipot::compact(std::span(actual).subspan(1, rows), std::span<const Index>(kept));
      ASSERT_EQ(actual, expected);
    }
}

}  // namespace
