#include "infinipot/measure_rope.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "rope_error.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::bf16;
using infinipot::f16;
using infinipot::KeyStorage;
using infinipot::measure_rope;
using infinipot::MeasureOptions;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Pot;
using infinipot::Rope;
using infinipot::Shape;
using infinipot::Token;
using trial::rope_error;
using trial::slope_error;

constexpr Shape shape{.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 64};

/// What is measured from the engine of a model, in a pot without a Rope.
template <class T = float>
Rope measured(const toy::Model& model, std::size_t capacity = 128, const MeasureOptions& options = {}) {
  Pot<T> pot({.shape = model.shape, .capacity = capacity});
  toy::QueryEngine<Pot<T>> engine(model, pot);
  const Rope rope = measure_rope(engine, pot, options);
  EXPECT_TRUE(pot.entries().empty());
  return rope;
}

/// The toy engine computes in float. A raw key is made of sums of up to 64 rounded products through 3 layers,
/// the same at all positions but for the sums of attention over up to 100 equal values, wrong by 100 units in
/// the last place at most; three layers of it, and what an angle of up to 99 radians is rounded by (none: the
/// toy takes cosines in double).
constexpr double float_error = slope_error(3 * 100 * 0x1p-24);

struct Case {
  const char* name;
  std::function<Rope(Pairing)> make;
};

const std::vector<Case> cases{
    {"plain", [](Pairing p) { return plain_rope(64, 10000, p); }},
    {"plain, large theta", [](Pairing p) { return plain_rope(64, 1e6, p); }},
    {"partial", [](Pairing p) { return plain_rope(16, 10000, p); }},
    {"two channels", [](Pairing p) { return plain_rope(2, 10000, p); }},
    {"linear", [](Pairing p) { return infinipot::linear_rope(64, 10000, {4}, p); }},
    {"NTK", [](Pairing p) { return infinipot::ntk_rope(64, 10000, {8}, p); }},
    {"YaRN",
     [](Pairing p) { return infinipot::yarn_rope(64, 10000, {.factor = 8, .original_context = 2048}, p); }},
    {"YaRN, partial",
     [](Pairing p) { return infinipot::yarn_rope(32, 500000, {.factor = 4, .original_context = 8192}, p); }},
    {"Llama 3", [](Pairing p) { return infinipot::llama3_rope(64, 500000, {}, p); }},
    {"LongRoPE", [](Pairing p) {
       infinipot::LongRopeScaling scaling;
       scaling.factor = 16;
       for (int i = 0; i < 32; ++i) scaling.factors.push_back(1 + 0.7 * i);
       return infinipot::long_rope(64, 10000, scaling, p);
     }}};

TEST(MeasureRope, FindsEveryScalingInBothPairings) {
  for (const Case& one : cases)
    for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
      SCOPED_TRACE(one.name);
      const Rope right = one.make(pairing), found = measured(toy::Model(right, shape));
      EXPECT_EQ(found.frequencies.size(), right.frequencies.size());
      EXPECT_TRUE(found.pairing == pairing || right.frequencies.size() < 2);
      EXPECT_LT(rope_error(found, right), float_error);
      EXPECT_EQ(found.attention_factor, 1) << "it is not to be seen";
      EXPECT_NO_THROW(found.validate(64));
    }
}

template <class T>
void expect_within(double u) {
  for (const Case& one : cases)
    for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
      SCOPED_TRACE(one.name);
      const Rope right = one.make(pairing);
      // Each channel of a pair is wrong by u of itself, so its angle by no more than u.
      EXPECT_LT(rope_error(measured<T>(toy::Model(right, shape)), right), slope_error(u) + float_error);
    }
}

TEST(MeasureRope, IsAsExactAsWhatIsStored) {
  expect_within<f16>(0x1p-11);
  expect_within<bf16>(0x1p-9);
}

TEST(MeasureRope, MoreRepetitionsMeasureBetter) {
  const Rope right = plain_rope(64, 1e6);
  const toy::Model model(right, shape);
  const double few = rope_error(measured<f16>(model, 1024, {.repeats = 32}), right);
  const double many = rope_error(measured<f16>(model, 1024, {.repeats = 1000}), right);
  EXPECT_LT(many, few / 10);
}

TEST(MeasureRope, FindsThatThereIsNone) {
  EXPECT_TRUE(measured(toy::Model(plain_rope(0), shape)).frequencies.empty());
  EXPECT_TRUE(measured<f16>(toy::Model(plain_rope(0), shape)).frequencies.empty());
}

TEST(MeasureRope, TakesQueriesWhereKeysAreNotRotated) {
  const Rope right = plain_rope(16, 500, Pairing::interleaved);
  const toy::Model model(right, shape);
  Pot<f16> pot({.shape = shape, .capacity = 128, .key_storage = KeyStorage::unrotated, .rope = right});
  toy::QueryEngine<Pot<f16>> engine(model, pot);
  const Rope found = measure_rope(engine, pot);
  EXPECT_EQ(found.pairing, Pairing::interleaved);
  // Queries are not rounded, but the values that they are made of are, perhaps to either side.
  EXPECT_LT(rope_error(found, right), slope_error(0x1p-11) + float_error);
}

TEST(MeasureRope, ATemporaryPotWillDo) {
  const toy::Model model(plain_rope(8, 300));
  auto pot = toy::make_pot(model, 64, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  const infinipot::KvLayout<float> memory{{pot.keys(0), pot.keys(1)}, {pot.values(0), pot.values(1)}};
  EXPECT_LT(rope_error(measure_rope(engine, Pot<float>({.shape = model.shape, .capacity = 64}, memory)),
                       model.rope),
            slope_error(2 * 64 * 0x1p-24, 64));
}

TEST(MeasureRope, AStoreOfSixteenIsEnough) {
  const Rope right = plain_rope(8, 100);
  EXPECT_LT(rope_error(measured(toy::Model(right), 16), right), slope_error(2 * 16 * 0x1p-24, 16));
}

TEST(MeasureRope, APairThatIsSmallInOneHeadIsTakenFromOthers) {
  const Rope right = plain_rope(64, 10000);
  toy::Model model(right, shape);
  // Channels 5 and 37 of all heads but one hardly exist.
  for (toy::Layer& layer : model.layers)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (const std::size_t channel : {5U, 37U})
        for (std::size_t k = 0; k < toy::Model::width; ++k)
          if (&layer != &model.layers[1] || head != 0)
            layer.key.values[(head * 64 + channel) * toy::Model::width + k] *= 1e-7F;
  EXPECT_LT(rope_error(measured<f16>(model), right), slope_error(0x1p-11) + float_error);
}

template <class F>
std::string refusal(const F& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "accepted";
}

void expect_words(const std::string& found, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(found.find(part), std::string::npos) << part << "\n" << found;
}

TEST(MeasureRope, LayersWithoutRopeAreFoundAndSaid) {
  toy::Model model(plain_rope(8, 100), {.layers = 4, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  model.layers[1].rotates = model.layers[3].rotates = false;
  Pot<float> pot({.shape = model.shape, .capacity = 128});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  const std::vector<Rope> ropes = infinipot::measure_rope_by_layer(engine, pot);
  ASSERT_EQ(ropes.size(), 4U);
  for (const std::size_t layer : {0U, 2U}) EXPECT_LT(rope_error(ropes[layer], model.rope), float_error);
  for (const std::size_t layer : {1U, 3U}) EXPECT_TRUE(ropes[layer].frequencies.empty());
  EXPECT_THROW(measure_rope(engine, pot), std::runtime_error);
  expect_words(refusal([&] { measure_rope(engine, pot); }),
               {"layers 0, 2: 8 channels", "layers 1, 3: no rotation"});
}

TEST(MeasureRope, LearnedPositionsAreSaid) {
  toy::Model model(plain_rope(8, 100));
  model.learned_positions = 0.3F;
  EXPECT_THROW(measured(model), std::runtime_error);
  expect_words(refusal([&] { measured(model); }), {"no rotation explains", "learned positions"});
}

/// An engine that throws, or whose keys are NaN.
struct Failing {
  toy::QueryEngine<Pot<float>>& engine;
  Pot<float>& pot;
  bool nan = false;

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    engine.forward(tokens, first, logits);
    if (first < 64) return;
    if (!nan) throw std::runtime_error("the engine failed");
    pot.keys(1).row(0, first)[3] = std::numeric_limits<float>::quiet_NaN();
  }
};

TEST(MeasureRope, LeavesTheStoreEmptyWhateverHappens) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 128, 20);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  Failing failing{engine, pot};
  expect_words(refusal([&] { measure_rope(failing, pot); }), {"the engine failed"});
  EXPECT_TRUE(pot.entries().empty());
  failing.nan = true;
  expect_words(refusal([&] { measure_rope(failing, pot); }), {"a key of layer 1 is NaN"});
  EXPECT_TRUE(pot.entries().empty());
}

TEST(MeasureRope, RefusesWhatCannotBeMeasured) {
  const toy::Model model;
  const auto message = [&](std::size_t capacity, const MeasureOptions& options, KeyStorage storage) {
    return refusal([&] {
      Pot<float> pot({.shape = model.shape, .capacity = capacity, .key_storage = storage});
      toy::PlainEngine<Pot<float>> engine(model, pot);
      if (capacity == 99) pot.append(std::vector<infinipot::Entry>(1));
      measure_rope(engine, pot, options);
    });
  };
  expect_words(message(15, {}, KeyStorage::rotated), {"capacity 15", "16 is the least"});
  expect_words(message(99, {}, KeyStorage::rotated), {"holds 1 entries"});
  expect_words(message(64, {.repeats = 15}, KeyStorage::rotated), {"repeats 15", "at least 16"});
  expect_words(message(64, {.chunk = 0}, KeyStorage::rotated), {"chunk 0"});
  expect_words(message(64, {.token = 50}, KeyStorage::rotated), {"token 50", "0 .. 49"});
  expect_words(message(64, {.token = -1}, KeyStorage::rotated), {"token -1", "0 .. 49"});
  expect_words(message(64, {}, KeyStorage::unrotated), {"unrotated", "no queries"});
}

}  // namespace
