// The engine over a pot without CR-RoPE, for comparisons: what is kept stays at its position in the text.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <set>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "gguf.hpp"
#include "infinipot/infinipot.hpp"
#include "kept_logits.hpp"
#include "llama_engine.hpp"
#include "read/any_pot.hpp"
#include "tiny_llama.hpp"

namespace smollm2 {
namespace {

using infinipot::Granularity;
using infinipot::Index;
using infinipot::Selection;
using infinipot::Token;
using reading::AnyPot;
using test::KeptLogits;
using test::largest_error;
using Rows = std::vector<std::vector<float>>;

class KeptQueries final : public infinipot::QuerySink {
 public:
  KeptQueries(std::size_t head, std::size_t head_dim) : head_(head), head_dim_(head_dim) {}
  void layer(std::size_t /*layer*/, const infinipot::Queries& queries) noexcept override {
    Rows& rows = layers.emplace_back();
    for (std::size_t token = 0; token < queries.count; ++token)
      rows.emplace_back(queries.at(token, head_), queries.at(token, head_) + head_dim_);
  }
  std::vector<Rows> layers;

 private:
  std::size_t head_, head_dim_;
};

class GrowingPositions : public testing::Test {
 protected:
  static constexpr std::size_t capacity = 60, keep = 24, length = 200;

  GrowingPositions() {
    for (std::size_t i = 0; i < length; ++i) tokens_.push_back(static_cast<Token>(i * i % 53));
  }

  infinipot::PotSettings settings(std::size_t entries, Granularity granularity) const {
    return {.shape = weights_.config().shape(),
            .capacity = entries,
            .max_keep = keep,
            .granularity = granularity,
            .rope = weights_.config().rope(entries)};
  }

  AnyPot growing_pot(std::size_t entries, Granularity granularity = Granularity::head) const {
    return reading::make_growing_pot("f32", settings(entries, granularity));
  }

  AnyPot reindexed_pot(std::size_t entries) const {
    return reading::make_pot("f32", settings(entries, Granularity::head),
                             [] { return infinipot::KeyChannels{}; });
  }

  /// Reads tokens first .. first + count - 1 of the text behind what the pot holds.
  Rows read(AnyPot& pot, std::size_t first, std::size_t count) {
    LlamaEngine<AnyPot> engine(weights_, pot, pool_, 16);
    KeptLogits logits(count);
    engine.forward(std::span(tokens_).subspan(first, count), pot.entries().size(), logits);
    std::vector<infinipot::Entry> entries;
    for (std::size_t i = first; i < first + count; ++i) entries.push_back({i, tokens_[i], 0, false});
    pot.append(entries);
    return logits.rows;
  }

  /// Keeps other entries in every lane, of which the newest is none.
  void distil(AnyPot& pot) {
    const std::size_t lanes = pot.entries().lanes(), size = pot.entries().size();
    Selection kept(lanes, keep);
    for (std::size_t lane = 0; lane < lanes; ++lane)
      for (std::size_t i = 0; i < keep; ++i)
        kept.lane(lane)[i] = static_cast<Index>(i * (size - 8) / keep + lane);
    pot.keep(kept);
    std::vector<std::set<std::size_t>>& held = held_.emplace_back();
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const auto positions = pot.entries().positions(lane);
      held.emplace_back(positions.begin(), positions.end());
    }
    distilled_at_.push_back(newest_);
  }

  /// Fills the pot and distils, again and again, until the text ends. Returns all logits.
  Rows read_all(AnyPot& pot) {
    Rows logits;
    while (newest_ < length) {
      if (pot.entries().size() == capacity) distil(pot);
      const std::size_t count = std::min(capacity - pot.entries().size(), length - newest_);
      const Rows more = read(pot, newest_, count);
      logits.insert(logits.end(), more.begin(), more.end());
      newest_ += count;
    }
    return logits;
  }

  /// Whether the pot still held an entry when a token was read.
  bool was_held(std::size_t lane, std::size_t row, std::size_t entry) const {
    for (std::size_t i = 0; i < held_.size(); ++i)
      if (entry < distilled_at_[i] && row >= distilled_at_[i] && !held_[i][lane].contains(entry))
        return false;
    return true;
  }

  test::Visible visible(std::size_t lanes) const {
    const std::size_t heads = model_.kv_heads, all = model_.layers * heads;
    return
        [this, lanes, heads, all](std::size_t layer, std::size_t head, std::size_t row, std::size_t entry) {
          return was_held((layer * heads + head) * lanes / all, row, entry);
        };
  }

  test::TinyLlama model_;
  std::vector<std::byte> bytes_ = model_.file().build();
  ThreadPool pool_{2};
  LlamaWeights weights_{GgufFile(bytes_, "tiny.gguf"), pool_};
  std::vector<Token> tokens_;
  std::size_t newest_ = 0;
  std::vector<std::size_t> distilled_at_;                 // tokens read at each distillation
  std::vector<std::vector<std::set<std::size_t>>> held_;  // after each, by lane
};

TEST_F(GrowingPositions, AreTheSameBitsWhereNothingIsDropped) {
  AnyPot growing = growing_pot(length), reindexed = reindexed_pot(length);
  EXPECT_EQ(read(growing, 0, length), read(reindexed, 0, length));
}

TEST_F(GrowingPositions, AreThoseOfADensePassThatSeesWhatWasKept) {
  for (const Granularity granularity : {Granularity::head, Granularity::layer, Granularity::shared}) {
    newest_ = 0;
    distilled_at_.clear();
    held_.clear();
    AnyPot pot = growing_pot(capacity, granularity);
    const Rows logits = read_all(pot);
    ASSERT_EQ(held_.size(), 4U);
    const test::SlowForward slow(model_, tokens_, visible(pot.entries().lanes()));
    EXPECT_LT(largest_error(slow.logits, logits), 1e-4);
  }
}

TEST_F(GrowingPositions, AreNotThoseOfCrRope) {
  AnyPot growing = growing_pot(capacity), reindexed = reindexed_pot(capacity);
  const Rows expected = read_all(growing);
  newest_ = 0;
  EXPECT_GT(largest_error(expected, read_all(reindexed)), 0.01);
}

TEST_F(GrowingPositions, AreThoseOfACatalystToo) {
  AnyPot pot = growing_pot(capacity);
  read_all(pot);
  const std::vector<Token> catalyst{5, 6, 7};
  std::vector<Token> all = tokens_;
  all.insert(all.end(), catalyst.begin(), catalyst.end());
  const test::SlowForward slow(model_, all, visible(pot.entries().lanes()));

  LlamaEngine<AnyPot> engine(weights_, pot, pool_, 16);
  const std::size_t d = model_.head_dim();
  for (std::size_t head = 0; head < model_.query_heads; ++head) {
    KeptLogits logits(catalyst.size());
    KeptQueries queries(head, d);
    engine.forward(catalyst, pot.entries().size(), logits, queries);
    for (std::size_t layer = 0; layer < model_.layers; ++layer)
      for (std::size_t i = 0; i < catalyst.size(); ++i)
        for (std::size_t c = 0; c < d; ++c)
          ASSERT_NEAR(static_cast<double>(queries.layers.at(layer)[i][c]),
                      slow.queries[layer][length + i][head * d + c], 1e-4);
  }
}

TEST_F(GrowingPositions, GoOnInAFork) {
  AnyPot pot = growing_pot(capacity);
  EXPECT_EQ(pot.position(pot.entries().size()), 0U);
  read_all(pot);
  AnyPot fork = pot.fork();
  EXPECT_EQ(fork.position(3), pot.position(3));
  EXPECT_EQ(pot.position(pot.entries().size()), length);
  EXPECT_EQ(read(fork, 7, 3), read(pot, 7, 3));
}

TEST_F(GrowingPositions, RefuseCodes) {
  for (const char* type : {"int8", "int4"}) {
    try {
      reading::make_growing_pot(type, settings(capacity, Granularity::head));
      ADD_FAILURE() << type << " was accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()),
                std::string("positions can grow with the element types f32, f16 and bf16, not with ") + type);
    }
  }
}

}  // namespace
}  // namespace smollm2
