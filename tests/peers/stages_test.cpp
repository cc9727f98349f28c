// The stages that are timed beside other libraries: their results, against slow references.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "distillation_stages.hpp"
#include "nuc_stages.hpp"
#include "reference/reference_rope.hpp"
#include "reference/reference_scores.hpp"
#include "stage.hpp"

namespace {

using infinipot::Index;

constexpr peers::Case small{{2, 4, 2, 16}, 60, 5, 20, 10000};

/// The result of a stage after one run.
template <class T>
std::vector<T> result(const peers::Stages& stages, const std::string& name) {
  const peers::Stage& stage = stages.at(name);
  EXPECT_EQ(peers::time(stage, 1).size(), 1U);
  std::ostringstream out;
  stage.write(out);
  const std::string bytes = out.str();
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<float> keys() {
  return peers::floats({}, "keys", small.shape.heads() * small.entries * small.shape.head_dim);
}

/// The best C of each head's scores, ascending, by a sort.
std::vector<Index> kept_by_sort() {
  const auto scores = peers::floats({}, "scores", small.shape.heads() * small.entries);
  std::vector<Index> kept;
  for (std::size_t head = 0; head < small.shape.heads(); ++head) {
    const float* const row = scores.data() + head * small.entries;
    std::vector<Index> order(small.read());
    for (std::size_t t = 0; t < order.size(); ++t) order[t] = static_cast<Index>(t);
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return row[a] > row[b]; });
    order.resize(small.keep);
    std::sort(order.begin(), order.end());
    kept.insert(kept.end(), order.begin(), order.end());
  }
  return kept;
}

TEST(PeerStages, CapIsThatOfTheReference) {
  const auto actual = result<float>(peers::distillation_stages<infinipot::f32>(small, {}), "cap");
  ASSERT_EQ(actual.size(), small.shape.heads() * small.read());
  const auto& s = small.shape;
  const std::size_t layer_queries = small.catalyst * s.query_heads * s.head_dim;
  const auto queries = peers::floats({}, "queries", s.layers * layer_queries), all_keys = keys();
  for (std::size_t head = 0; head < s.heads(); ++head) {
    const auto q = queries.begin() + static_cast<std::ptrdiff_t>(head / s.kv_heads * layer_queries);
    const auto k = all_keys.begin() + static_cast<std::ptrdiff_t>(head * small.entries * s.head_dim);
    reference::CapCase c;
    c.shape = s;
    c.kv_head = head % s.kv_heads;
    c.first = small.read();
    c.count = small.catalyst;
    c.queries.assign(q, q + static_cast<std::ptrdiff_t>(layer_queries));
    c.keys.assign(k, k + static_cast<std::ptrdiff_t>(small.entries * s.head_dim));
    const auto expected = reference::cap(c, infinipot::Reduce::sum, std::vector<float>(small.entries, 0.0F));
    for (std::size_t t = 0; t < small.read(); ++t)
      EXPECT_NEAR(actual[head * small.read() + t], expected.value[t], expected.tolerance[t]);
  }
}

TEST(PeerStages, BothSelectionsAreThatOfASort) {
  const auto stages = peers::distillation_stages<infinipot::f32>(small, {});
  EXPECT_EQ(result<Index>(stages, "select"), kept_by_sort());
  EXPECT_EQ(result<Index>(stages, "select_top_k"), kept_by_sort());
}

template <class T>
class PeerCompaction : public testing::Test {};
using Elements = testing::Types<infinipot::f32, infinipot::f16, infinipot::bf16>;
TYPED_TEST_SUITE(PeerCompaction, Elements);

TYPED_TEST(PeerCompaction, MovesValuesAndTurnsKeysBack) {
  const std::size_t d = small.shape.head_dim, half = small.shape.heads() * small.keep * d;
  const auto actual = result<float>(peers::distillation_stages<TypeParam>(small, {}), "compact");
  ASSERT_EQ(actual.size(), 2 * half);
  const auto rope = infinipot::plain_rope(d, small.theta);
  const auto rows = keys();  // the random values are the same
  const auto kept = kept_by_sort();
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const float* const from = rows.data() + (i / small.keep * small.entries + kept[i]) * d;
    std::vector<double> stored(d);
    std::transform(from, from + d, stored.begin(),
                   [](float x) { return static_cast<double>(static_cast<float>(TypeParam(x))); });
    const double shift = static_cast<double>(kept[i]) - static_cast<double>(i % small.keep);
    const auto turned = reference::rotated(stored, rope, -shift);
    const auto norms = reference::pair_norms(stored, rope);
    for (std::size_t k = 0; k < d; ++k) {
      EXPECT_EQ(static_cast<double>(actual[half + i * d + k]), stored[k]);
      EXPECT_NEAR(actual[i * d + k], turned[k], reference::stored_key_bound<TypeParam>(norms[k]));
    }
  }
}

TEST(PeerStages, NucIsThatOfTheReference) {
  constexpr std::size_t rows = 7, vocab = 1000;
  const auto actual = result<float>(peers::nuc_stages(rows, vocab, {}), "nuc");
  ASSERT_EQ(actual.size(), rows);
  const auto logits = peers::floats({}, "logits", rows * vocab);
  reference::Random random(1);
  for (std::size_t row = 0; row < rows; ++row) {
    const auto token = static_cast<infinipot::Token>(random.below(vocab));
    const double expected = reference::nuc(std::span<const float>(logits).subspan(row * vocab, vocab), token);
    EXPECT_NEAR(actual[row], expected, 1e-5);
  }
}

TEST(PeerStages, ThreadsGiveTheSameBits) {
  for (const std::size_t threads : {2U, 3U}) {
    const auto one = peers::distillation_stages<infinipot::f32>(small, {}),
               several = peers::distillation_stages<infinipot::f32>(small, {}, threads);
    for (const char* name : {"cap", "select", "select_top_k", "compact"})
      EXPECT_EQ(result<std::uint32_t>(several, name), result<std::uint32_t>(one, name)) << name;
    EXPECT_EQ(result<float>(peers::nuc_stages(7, 1000, {}, threads), "nuc"),
              result<float>(peers::nuc_stages(7, 1000, {}), "nuc"));
    for (const char* name : {"cap_limit", "select_limit", "compact_limit"}) peers::time(several.at(name), 1);
  }
}

TEST(PeerStages, LimitsRun) {
  const auto stages = peers::distillation_stages<infinipot::f16>(small, {});
  for (const char* name : {"cap_limit", "select_limit", "compact_limit"})
    for (const peers::Sample& sample : peers::time(stages.at(name), 3)) EXPECT_GE(sample.elapsed, 0);
  EXPECT_EQ(peers::time(peers::nuc_stages(2, 10, {}).at("nuc_limit"), 2).size(), 2U);
}

TEST(PeerStages, InputFilesMustHaveTheRightSize) {
  const auto folder = std::filesystem::temp_directory_path() / "infinipot-stages-test";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "logits.f32", std::ios::binary) << std::string(4 * 19, '\0');
  EXPECT_THROW(peers::nuc_stages(2, 10, {folder}), std::runtime_error);
  std::ofstream(folder / "logits.f32", std::ios::binary) << std::string(4 * 20, '\0');
  EXPECT_THROW(peers::nuc_stages(2, 10, {folder}), std::runtime_error);  // no tokens
  std::ofstream(folder / "tokens.i32", std::ios::binary) << std::string("\x03\0\0\0\x0a\0\0\0", 8);
  EXPECT_THROW(peers::nuc_stages(2, 10, {folder}), std::runtime_error);  // token 10 of 0 .. 9
  std::ofstream(folder / "tokens.i32", std::ios::binary) << std::string("\x03\0\0\0\x09\0\0\0", 8);
  for (const float nuc : result<float>(peers::nuc_stages(2, 10, {folder}), "nuc"))
    EXPECT_NEAR(nuc, std::log(10.0), 1e-6);
  std::filesystem::remove_all(folder);
}

}  // namespace
