// A pot whose keys carry YaRN's attention factor re-indexes them again and again, and the model goes on as if
// they had been rotated for their new places from the start.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "gguf.hpp"
#include "infinipot/pot.hpp"
#include "kept_logits.hpp"
#include "llama_engine.hpp"
#include "tiny_llama.hpp"

namespace smollm2 {
namespace {

using infinipot::Granularity;
using infinipot::Index;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Token;

constexpr std::size_t capacity = 40, keep = 16, length = 160;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float factor = 4, attention_factor = 1.25F;

/// YaRN by its paper's formulas, for a trained context of 64 and theta 100: the ramp goes from pair 0, since
/// 12 ln(64 / (32 * 2 pi)) / (2 ln 100) is below it, to pair ceil(12 ln(64 / (2 pi)) / (2 ln 100)) = 4.
test::TinyLlama yarn_model() {
  test::TinyLlama model;
  model.query_heads = 2;
  model.kv_heads = 1;
  model.rotary_dim = 12;
  for (std::size_t layer = 0; layer < model.layers; ++layer)
    for (const char* name : {"attn_k.weight", "attn_v.weight"}) {
      model.tensors.erase(model.prefix(layer) + name);
      model.add(model.prefix(layer) + name, 12, model.embedding);
    }
  for (std::size_t pair = 0; pair < 6; ++pair) {
    const double divided = std::min(static_cast<double>(pair) / 4, 1.0);
    model.frequencies.push_back(std::pow(100, -static_cast<double>(pair) / 6) *
                                (1 - divided + divided / static_cast<double>(factor)));
  }
  model.attention_factor =
      (0.1 * std::log(static_cast<double>(factor)) + 1) * static_cast<double>(attention_factor);
  return model;
}

std::vector<std::byte> file_of(const test::TinyLlama& model) {
  return model.file({{"rope.scaling.original_context_length", 64}})
      .string("llama.rope.scaling.type", "yarn")
      .f32("llama.rope.scaling.factor", factor)
      .f32("llama.rope.scaling.attn_factor", attention_factor)
      .build();
}

/// Which tokens of the text stood where, in every lane, while a part of it was read.
struct Part {
  std::size_t first, end;                         // of its tokens
  std::vector<std::vector<std::size_t>> earlier;  // (lanes), entries before them, by position
};

/// Every weight moved by one unit in the last place, up or down.
test::TinyLlama nudged(test::TinyLlama model) {
  std::mt19937 random(5);
  for (auto& [name, numbers] : model.tensors)
    for (float& number : numbers) number = std::nextafter(number, random() % 2 == 0 ? infinity : -infinity);
  return model;
}

class ScaledRope : public testing::Test {
 protected:
  ScaledRope() {
    for (std::size_t i = 0; i < length; ++i) tokens_.push_back(static_cast<Token>((i * i + 2 * i) % 53));
  }

  /// Reads all tokens, with a distillation whenever the pot is full. Every lane keeps other entries.
  std::vector<std::vector<float>> read(KeyStorage storage) {
    Pot<float> pot({.shape = weights_.config().shape(),
                    .capacity = capacity,
                    .max_keep = keep,
                    .key_storage = storage,
                    .rope = weights_.config().rope(capacity)});
    LlamaEngine<Pot<float>> engine(weights_, pot, pool_, 16);
    std::vector<std::vector<float>> logits;
    parts_.clear();
    for (std::size_t read = 0; read < length;) {
      if (pot.entries().size() == capacity) distil(pot);
      const std::size_t first = pot.entries().size(), count = std::min(capacity - first, length - read);
      parts_.push_back({read, read + count, {}});
      for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane) {
        const auto positions = pot.entries().positions(lane);
        parts_.back().earlier.emplace_back(positions.begin(), positions.end());
      }
      test::KeptLogits sink(count);
      engine.forward(std::span(tokens_).subspan(read, count), first, sink);
      logits.insert(logits.end(), sink.rows.begin(), sink.rows.end());
      std::vector<infinipot::Entry> entries;
      for (std::size_t i = read; i < read + count; ++i) entries.push_back({i, tokens_[i], 0, false});
      pot.append(entries);
      read += count;
    }
    return logits;
  }

  static void distil(Pot<float>& pot) {
    const std::size_t lanes = pot.entries().lanes();
    infinipot::Selection kept(lanes, keep);
    for (std::size_t lane = 0; lane < lanes; ++lane)
      for (std::size_t i = 0; i < keep; ++i) kept.lane(lane)[i] = static_cast<Index>(i * 2 + i / 3 + lane);
    pot.keep(kept);
  }

  const Part& part_of(std::size_t row) const {
    return *std::ranges::find_if(parts_, [row](const Part& part) { return row < part.end; });
  }

  /// Where `entry` stood among what came before the part of the text that `row` is in; the end if nowhere.
  std::size_t place(std::size_t layer, std::size_t row, std::size_t entry) const {
    const std::vector<std::size_t>& earlier = part_of(row).earlier[layer];  // one kv head, so a lane a layer
    return static_cast<std::size_t>(std::ranges::find(earlier, entry) - earlier.begin());
  }

  /// The same in double precision, with all keys rotated anew for their places.
  std::vector<test::Vector> expected(const test::TinyLlama& model) const {
    const auto visible = [this](std::size_t layer, std::size_t /*head*/, std::size_t row, std::size_t entry) {
      return entry >= part_of(row).first || place(layer, row, entry) < part_of(row).earlier[layer].size();
    };
    const auto position = [this](std::size_t layer, std::size_t /*head*/, std::size_t row,
                                 std::size_t entry) {
      const Part& part = part_of(row);
      return entry >= part.first ? part.earlier[layer].size() + entry - part.first : place(layer, row, entry);
    };
    return test::SlowForward(model, tokens_, visible, position).logits;
  }

  const test::TinyLlama model_ = yarn_model();
  std::vector<std::byte> bytes_ = file_of(model_);
  ThreadPool pool_{2};
  LlamaWeights weights_{GgufFile(bytes_, "yarn.gguf"), pool_};
  std::vector<Token> tokens_;
  std::vector<Part> parts_;
};

TEST_F(ScaledRope, SurvivesManyDistillations) {
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated}) {
    const std::vector<std::vector<float>> found = read(storage);
    const std::vector<test::Vector> wanted = expected(model_);
    const double error = test::largest_error(wanted, found);
    ASSERT_EQ(parts_.size(), 6U);  // five distillations
    RecordProperty(storage == KeyStorage::rotated ? "rotated" : "unrotated", std::to_string(error));
    // The engine rounds what it multiplies with each weight, and sums of that, no more often than this.
    EXPECT_LT(error, 4 * test::largest_error(wanted, expected(nudged(model_))));
  }
}

TEST_F(ScaledRope, IsThatOfTheFile) {
  const infinipot::Rope& rope = weights_.config().rope(capacity);
  EXPECT_NEAR(rope.attention_factor, model_.attention_factor, 1e-12);
  for (std::size_t pair = 0; pair < 6; ++pair)
    EXPECT_NEAR(rope.frequencies[pair], model_.frequencies[pair], 1e-12);
}

}  // namespace
}  // namespace smollm2
