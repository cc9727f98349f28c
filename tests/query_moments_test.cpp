// Mean and covariance of un-rotated queries against the sums of their definition, in double precision.
#include "infinipot/policy/query_moments.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::QueryMoments;
using infinipot::Rope;
using infinipot::Shape;
using Vector = std::vector<double>;

constexpr double unit = 0x1p-24;

/// Raw queries of a model, [layer][query head][token], and the rotated ones that an engine would show.
struct Case {
  Shape shape;
  Rope rope;
  std::size_t tokens = 0;
  std::vector<std::vector<std::vector<Vector>>> raw;

  /// Channel 0 has a mean far larger than its deviation.
  Case(const Shape& dimensions, Rope positions, std::size_t count, double offset)
      : shape(dimensions), rope(std::move(positions)), tokens(count) {
    reference::Random random(count);
    raw.resize(shape.layers);
    for (auto& layer : raw) {
      layer.resize(shape.query_heads);
      for (auto& head : layer)
        for (std::size_t i = 0; i < tokens; ++i) {
          head.push_back(random.uniforms(shape.head_dim));
          head.back()[0] += offset;
        }
    }
  }

  /// (count, query_heads, head_dim) of one layer, tokens from `from` on, at positions from `first` on.
  std::vector<float> shown(std::size_t layer, std::size_t from, std::size_t count, std::size_t first) const {
    std::vector<float> out;
    for (std::size_t i = 0; i < count; ++i)
      for (const auto& head : raw[layer])
        for (const double x : reference::rotated(head[from + i], rope, static_cast<double>(first + i)))
          out.push_back(static_cast<float>(x));
    return out;
  }

  void stage(QueryMoments& moments, std::size_t from, std::size_t count, std::size_t first) const {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const auto queries = shown(layer, from, count, first);
      moments.stage(layer, first, infinipot::contiguous_queries(queries.data(), count, shape));
    }
  }

  void commit(QueryMoments& moments) const {
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.kv_heads; ++head) moments.commit(layer, head);
  }
};

/// All means and covariances, in a row.
std::vector<float> all(const QueryMoments& moments, const Shape& shape) {
  const std::size_t d = shape.head_dim;
  std::vector<float> result;
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.query_heads; ++head) {
      std::vector<float> mean(d), covariance(d * d);
      moments.read(layer, head, mean, covariance);
      result.insert(result.end(), mean.begin(), mean.end());
      result.insert(result.end(), covariance.begin(), covariance.end());
    }
  return result;
}

/// A query turned back is off by its rounding when shown (1 unit of the length of its pair) and by turning it
/// (rotation_error), 4 units and a little: e, for a pair of length `norm`. A mean is off by e, and a
/// covariance, which is mean(x y) - mean(x) mean(y), by 2 (|x| e_y + |y| e_x) with the largest |x| and |y|.
/// Sums in double precision add n 2^-53 of what they sum, which is far less, and the result is rounded once.
void expect_moments(const QueryMoments& moments, const Case& c, std::size_t from) {
  const std::size_t d = c.shape.head_dim;
  const auto count = static_cast<double>(c.tokens - from);
  for (std::size_t layer = 0; layer < c.shape.layers; ++layer)
    for (std::size_t head = 0; head < c.shape.query_heads; ++head) {
      ASSERT_EQ(moments.count(layer, head), c.tokens - from);
      const auto& raw = c.raw[layer][head];
      Vector mean(d), largest(d), error(d);
      for (std::size_t i = from; i < c.tokens; ++i) {
        const Vector norms = reference::pair_norms(raw[i], c.rope);
        for (std::size_t k = 0; k < d; ++k) {
          const double x = c.rope.attention_factor * raw[i][k];
          const bool turns = k < c.rope.rotary_dim();
          mean[k] += (turns ? x : raw[i][k]) / count;
          largest[k] = std::max(largest[k], std::abs(x));
          error[k] = std::max(error[k], 4.01 * unit * (turns ? norms[k] : std::abs(x)));
        }
      }
      std::vector<float> read_mean(d), covariance(d * d);
      moments.read(layer, head, read_mean, covariance);
      for (std::size_t k = 0; k < d; ++k) {
        EXPECT_NEAR(static_cast<double>(read_mean[k]), mean[k], error[k] + unit * std::abs(mean[k]));
        for (std::size_t j = 0; j < d; ++j) {
          double expected = 0;
          for (std::size_t i = from; i < c.tokens; ++i) {
            const auto value = [&](std::size_t channel) {
              return raw[i][channel] * (channel < c.rope.rotary_dim() ? c.rope.attention_factor : 1);
            };
            expected += (value(k) - mean[k]) * (value(j) - mean[j]) / count;
          }
          const double tolerance = 2 * (largest[k] * error[j] + largest[j] * error[k] + error[j] * error[k]) +
                                   4 * count * 0x1p-53 * largest[k] * largest[j] + unit * std::abs(expected);
          EXPECT_NEAR(static_cast<double>(covariance[k * d + j]), expected, tolerance) << k << ", " << j;
          EXPECT_EQ(covariance[k * d + j], covariance[j * d + k]);
        }
      }
    }
}

TEST(QueryMoments, AreThoseOfTheDefinition) {
  Rope scaled = infinipot::plain_rope(8, 100);
  scaled.attention_factor = 1.25;
  for (const Rope& rope :
       {infinipot::plain_rope(8, 100), infinipot::plain_rope(8, 10000, infinipot::Pairing::interleaved),
        infinipot::plain_rope(4, 100), infinipot::plain_rope(0), scaled})
    for (const Shape& shape : {Shape{2, 4, 2, 8}, Shape{1, 1, 1, 9}, Shape{3, 6, 1, 24}})
      for (const std::size_t tokens : {1U, 2U, 5U, 67U})
        for (const double offset : {0.0, 1000.0}) {
          const Case c(shape, rope, tokens, offset);
          QueryMoments moments(shape, rope, 100, 67, 0);
          c.stage(moments, 0, tokens, 0);
          c.commit(moments);
          expect_moments(moments, c, 0);
        }
}

TEST(QueryMoments, ThoseOfTheFirstPositionsDoNotCount) {
  const Case c({2, 4, 2, 8}, infinipot::plain_rope(8, 100), 20, 0);
  QueryMoments moments(c.shape, c.rope, 100, 20, 6);
  for (std::size_t from = 0; from < 20; from += 4) {
    c.stage(moments, from, 4, from);
    c.commit(moments);
  }
  expect_moments(moments, c, 6);
}

TEST(QueryMoments, ChunksAndPlacesDoNotMatterToTheBit) {
  const Case c({2, 4, 2, 8}, infinipot::plain_rope(0), 60, 3);
  std::vector<float> expected;
  for (const std::size_t chunk : {60U, 1U, 3U, 7U}) {
    QueryMoments moments(c.shape, c.rope, 100, 60, 0);
    for (std::size_t from = 0; from < 60; from += chunk) {
      c.stage(moments, from, std::min(chunk, 60 - from), from % 30);
      c.commit(moments);
    }
    if (expected.empty()) expected = all(moments, c.shape);
    EXPECT_EQ(all(moments, c.shape), expected) << chunk;
  }
}

TEST(QueryMoments, WhatIsNotCommittedLeavesNoTrace) {
  const Case c({2, 4, 2, 8}, infinipot::plain_rope(8, 100), 30, 0);
  QueryMoments moments(c.shape, c.rope, 100, 20, 0);
  c.stage(moments, 0, 10, 0);
  c.commit(moments);
  QueryMoments copy = moments;
  const auto before = all(moments, c.shape);
  c.stage(moments, 10, 20, 10);
  c.stage(moments, 10, 20, 10);  // twice, as if layers shared their keys
  EXPECT_EQ(all(moments, c.shape), before);
  moments.drop();
  c.stage(moments, 10, 5, 10);
  c.commit(moments);
  c.stage(copy, 10, 5, 10);
  EXPECT_EQ(all(copy, c.shape), before) << "a copy is its own";
  c.commit(copy);
  EXPECT_EQ(all(copy, c.shape), all(moments, c.shape));
  EXPECT_NE(all(copy, c.shape), before);
  copy.clear();
  EXPECT_EQ(all(copy, c.shape), std::vector<float>(before.size(), 0.0F)) << "none is known";
  EXPECT_EQ(copy.count(0, 0), 0U);
}

/// Three of the model's layers read each layer of the store.
TEST(QueryMoments, OfLayersThatReadTheSameKeysAdd) {
  const Case c({2, 4, 2, 8}, infinipot::plain_rope(8, 100), 60, 3);
  for (const std::size_t skip : {0U, 6U})
    for (const std::size_t chunk : {20U, 1U, 7U}) {
      QueryMoments moments(c.shape, c.rope, 30, chunk, skip);
      // Tokens from `third` * 20 on are those of that layer of the model, at positions 0 .. 19 of the store.
      for (std::size_t from = 0; from < 20; from += chunk) {
        for (const std::size_t third : {0U, 1U, 2U})
          c.stage(moments, 20 * third + from, std::min(chunk, 20 - from), from);
        c.commit(moments);
      }
      Case counted = c;
      for (auto& layer : counted.raw)
        for (auto& head : layer) {
          std::vector<Vector> rows;
          for (const std::size_t third : {0U, 1U, 2U})
            rows.insert(rows.end(), head.begin() + static_cast<std::ptrdiff_t>(20 * third + skip),
                        head.begin() + static_cast<std::ptrdiff_t>(20 * third + 20));
          head = rows;
        }
      counted.tokens = 3 * (20 - skip);
      expect_moments(moments, counted, 0);
    }
}

TEST(QueryMoments, OfOneLayerMayBeSharedAndOfAnotherNot) {
  const Case c({2, 4, 2, 8}, infinipot::plain_rope(0), 20, 0);
  QueryMoments shared(c.shape, c.rope, 30, 10, 0), plain(c.shape, c.rope, 30, 10, 0);
  c.stage(shared, 0, 10, 0);
  const auto again = c.shown(0, 10, 10, 0);
  shared.stage(0, 0, infinipot::contiguous_queries(again.data(), 10, c.shape));
  c.commit(shared);
  c.stage(plain, 0, 10, 0);
  c.commit(plain);
  EXPECT_EQ(shared.count(0, 1), 20U);
  EXPECT_EQ(shared.count(1, 1), 10U);
  std::vector<float> mean(8), covariance(64), expected_mean(8), expected_covariance(64);
  shared.read(1, 2, mean, covariance);
  plain.read(1, 2, expected_mean, expected_covariance);
  EXPECT_EQ(mean, expected_mean);
  EXPECT_EQ(covariance, expected_covariance);
}

TEST(QueryMoments, QueriesThatAreNotFiniteDoNotCount) {
  const Case c({1, 2, 1, 8}, infinipot::plain_rope(8, 100), 9, 0);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    QueryMoments expected(c.shape, c.rope, 10, 9, 0), moments(c.shape, c.rope, 10, 9, 0);
    for (std::size_t i = 0; i < 9; ++i) {
      auto queries = c.shown(0, i, 1, i);
      if (i == 4) queries[3] = bad;  // of query head 0
      moments.stage(0, i, infinipot::contiguous_queries(queries.data(), 1, c.shape));
      moments.commit(0, 0);
      if (i == 4) continue;
      expected.stage(0, i, infinipot::contiguous_queries(queries.data(), 1, c.shape));
      expected.commit(0, 0);
    }
    EXPECT_EQ(moments.count(0, 0), 8U);
    EXPECT_EQ(moments.count(0, 1), 9U) << "the other head's is sound";
    std::vector<float> mean(8), covariance(64), expected_mean(8), expected_covariance(64);
    moments.read(0, 0, mean, covariance);
    expected.read(0, 0, expected_mean, expected_covariance);
    EXPECT_EQ(mean, expected_mean);
    EXPECT_EQ(covariance, expected_covariance);
  }
}

TEST(QueryMoments, RefuseARopeThatDoesNotFit) {
  EXPECT_THROW(QueryMoments({1, 2, 1, 8}, infinipot::plain_rope(10), 10, 5, 0), std::invalid_argument);
  EXPECT_THROW(QueryMoments({1, 3, 2, 8}, infinipot::plain_rope(8), 10, 5, 0), std::invalid_argument);
  EXPECT_THROW(QueryMoments({1, 2, 1, 8}, infinipot::plain_rope(8), 10, ~std::size_t{0} / 4, 0),
               std::invalid_argument);
}

}  // namespace
