#include "infinipot/shape.hpp"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using infinipot::Granularity;
using infinipot::Shape;

std::string error_of(const Shape& shape) {
  try {
    shape.validate();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(Shape, GroupsQueryHeads) {
  EXPECT_EQ((Shape{1, 8, 8, 64}.group()), 1u);  // MHA
  EXPECT_EQ((Shape{1, 9, 3, 64}.group()), 3u);  // GQA
  EXPECT_EQ((Shape{1, 8, 1, 64}.group()), 8u);  // MQA
}

TEST(Shape, NumbersHeadsLayerByLayer) {
  for (const std::size_t layers : {1u, 2u, 30u})
    for (const std::size_t kv_heads : {1u, 3u, 8u}) {
      const Shape shape{layers, kv_heads * 2, kv_heads, 64};
      EXPECT_EQ(shape.heads(), layers * kv_heads);
      std::size_t expected = 0;
      for (std::size_t layer = 0; layer < layers; ++layer)
        for (std::size_t head = 0; head < kv_heads; ++head) EXPECT_EQ(shape.head_of(layer, head), expected++);
    }
}

TEST(Shape, LanesByGranularity) {
  const Shape shape{5, 6, 3, 64};
  EXPECT_EQ(shape.lanes(Granularity::head), 15u);
  EXPECT_EQ(shape.lanes(Granularity::layer), 5u);
  EXPECT_EQ(shape.lanes(Granularity::shared), 1u);
  EXPECT_EQ(shape.heads_per_lane(Granularity::head), 1u);
  EXPECT_EQ(shape.heads_per_lane(Granularity::layer), 3u);
  EXPECT_EQ(shape.heads_per_lane(Granularity::shared), 15u);
}

TEST(Shape, LaneOfAPair) {
  for (const std::size_t layers : {1u, 2u, 7u})
    for (const std::size_t kv_heads : {1u, 2u, 5u}) {
      const Shape shape{layers, kv_heads, kv_heads, 2};
      for (std::size_t layer = 0; layer < layers; ++layer)
        for (std::size_t head = 0; head < kv_heads; ++head) {
          EXPECT_EQ(shape.lane_of(layer, head, Granularity::head), layer * kv_heads + head);
          EXPECT_EQ(shape.lane_of(layer, head, Granularity::layer), layer);
          EXPECT_EQ(shape.lane_of(layer, head, Granularity::shared), 0u);
        }
    }
}

TEST(Shape, LaneIHoldsTheDocumentedPairs) {
  const Shape shape{4, 6, 6, 2};
  for (const auto granularity : {Granularity::head, Granularity::layer, Granularity::shared}) {
    const std::size_t n = shape.heads_per_lane(granularity);
    std::set<std::size_t> seen;
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.kv_heads; ++head) {
        const std::size_t lane = shape.lane_of(layer, head, granularity), pair = shape.head_of(layer, head);
        EXPECT_GE(pair, lane * n);
        EXPECT_LT(pair, (lane + 1) * n);
        seen.insert(lane);
      }
    EXPECT_EQ(seen.size(), shape.lanes(granularity));
  }
}

TEST(Shape, ComparesAllDimensions) {
  const Shape shape{2, 4, 2, 8};
  EXPECT_EQ(shape, (Shape{2, 4, 2, 8}));
  for (const Shape& other : {Shape{3, 4, 2, 8}, Shape{2, 6, 2, 8}, Shape{2, 4, 4, 8}, Shape{2, 4, 2, 16}})
    EXPECT_NE(shape, other);
}

TEST(Shape, AcceptsDividingHeads) {
  for (const Shape& shape :
       {Shape{1, 1, 1, 1}, Shape{30, 9, 3, 64}, Shape{32, 32, 8, 128}, Shape{1, 71, 1, 64}})
    EXPECT_EQ(error_of(shape), "");
}

TEST(Shape, RejectsADimensionOfZero) {
  for (const Shape& shape : {Shape{0, 4, 2, 8}, Shape{2, 0, 2, 8}, Shape{2, 4, 0, 8}, Shape{2, 4, 2, 0}}) {
    const std::string message = error_of(shape);
    EXPECT_NE(message.find("dimension of 0"), std::string::npos) << message;
    for (const auto& [name, value] : {std::pair{"layers ", shape.layers},
                                      {"query_heads ", shape.query_heads},
                                      {"kv_heads ", shape.kv_heads},
                                      {"head_dim ", shape.head_dim}})
      EXPECT_NE(message.find(name + std::to_string(value)), std::string::npos) << message;
  }
}

TEST(Shape, RejectsHeadCountsThatDoNotDivide) {
  for (const Shape& shape : {Shape{2, 9, 4, 8}, Shape{2, 2, 4, 8}, Shape{2, 33, 8, 8}}) {
    const std::string message = error_of(shape);
    EXPECT_NE(message.find("query_heads " + std::to_string(shape.query_heads)), std::string::npos) << message;
    EXPECT_NE(message.find("kv_heads " + std::to_string(shape.kv_heads)), std::string::npos) << message;
  }
}

}  // namespace
