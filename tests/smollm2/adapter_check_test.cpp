// The example engine passes the library's check, and has the RoPE that its file states.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "infinipot/check_adapter.hpp"
#include "infinipot/infinipot.hpp"
#include "infinipot/measure_rope.hpp"
#include "llama_engine.hpp"
#include "llama_weights.hpp"
#include "rope_error.hpp"
#include "test_files.hpp"
#include "thread_pool.hpp"
#include "tiny_llama.hpp"

namespace smollm2 {
namespace {

using infinipot::AdapterReport;
using infinipot::Flaw;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Rope;
using infinipot::Token;
using trial::rope_error;
using trial::slope_error;

std::vector<Token> text(std::size_t count, std::size_t vocab_size) {
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<Token>((i * i * 31 + 7 * i + 3) % vocab_size));
  return tokens;
}

template <class T>
Pot<T> pot_of(const LlamaConfig& config, const Rope& rope, KeyStorage storage = KeyStorage::rotated) {
  return Pot<T>({.shape = config.shape(), .capacity = 160, .key_storage = storage, .rope = rope});
}

template <class T>
AdapterReport checked(const LlamaWeights& weights, ThreadPool& pool, const Rope& rope,
                      KeyStorage storage = KeyStorage::rotated) {
  auto pot = pot_of<T>(weights.config(), rope, storage);
  LlamaEngine<Pot<T>> engine(weights, pot, pool, 64);
  return infinipot::check_adapter(engine, pot, text(64, weights.config().vocab_size));
}

/// In a pot that does not know it.
template <class T>
Rope measured(const LlamaWeights& weights, ThreadPool& pool) {
  auto pot = pot_of<T>(weights.config(), {});
  LlamaEngine<Pot<T>> engine(weights, pot, pool, 64);
  return infinipot::measure_rope(engine, pot);
}

class AdapterCheck : public testing::Test {
 protected:
  void expect_right(const LlamaWeights& weights) {
    const Rope rope = weights.config().rope(160);
    for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated}) {
      SCOPED_TRACE(storage == KeyStorage::rotated ? "rotated" : "unrotated");
      const auto expect = [](const AdapterReport& report) { EXPECT_TRUE(report) << report; };
      expect(checked<float>(weights, pool_, rope, storage));
      expect(checked<infinipot::f16>(weights, pool_, rope, storage));
      expect(checked<infinipot::bf16>(weights, pool_, rope, storage));
      expect(checked<infinipot::int8>(weights, pool_, rope, storage));
      expect(checked<infinipot::int4>(weights, pool_, rope, storage));
    }
  }

  ThreadPool pool_{2};
};

TEST_F(AdapterCheck, TinyModelsPassInEveryElementType) {
  for (const std::size_t rotary_dim : {2U, 4U, 6U}) {
    test::TinyLlama model;
    model.rotary_dim = rotary_dim;
    const auto bytes = model.file().build();
    expect_right(LlamaWeights(GgufFile(bytes, "tiny.gguf"), pool_));
  }
}

TEST_F(AdapterCheck, TinyModelsHaveTheRopeOfTheirFile) {
  for (const std::size_t rotary_dim : {2U, 4U, 6U}) {
    test::TinyLlama model;
    model.rotary_dim = rotary_dim;
    const auto bytes = model.file().build();
    const LlamaWeights weights(GgufFile(bytes, "tiny.gguf"), pool_);
    const Rope right = weights.config().rope(160), found = measured<float>(weights, pool_);
    EXPECT_EQ(found.frequencies.size(), right.frequencies.size());
    EXPECT_TRUE(found.pairing == right.pairing || rotary_dim == 2);
    EXPECT_LT(rope_error(found, right), 1e-6);
    EXPECT_LT(rope_error(measured<infinipot::f16>(weights, pool_), right), slope_error(0x1p-11) + 1e-6);
  }
}

TEST_F(AdapterCheck, QuantisedPotsAreCheckedMoreLooselyAndSaySo) {
  const auto bytes = test::TinyLlama().file().build();
  const LlamaWeights weights(GgufFile(bytes, "tiny.gguf"), pool_);
  const AdapterReport report = checked<infinipot::int8>(weights, pool_, weights.config().rope(160));
  EXPECT_NE(report.what().find("more loosely"), std::string::npos) << report;
}

TEST_F(AdapterCheck, AWrongRopeIsNamedInEveryElementType) {
  const auto bytes = test::TinyLlama().file().build();  // theta 100, interleaved, 4 of 6 channels
  const LlamaWeights weights(GgufFile(bytes, "tiny.gguf"), pool_);
  const auto expect = [&](const Rope& claim, Flaw flaw, const std::string& words) {
    for (const AdapterReport& report :
         {checked<float>(weights, pool_, claim), checked<infinipot::f16>(weights, pool_, claim),
          checked<infinipot::bf16>(weights, pool_, claim), checked<infinipot::int8>(weights, pool_, claim)}) {
      EXPECT_TRUE(report.has(flaw)) << report;
      EXPECT_NE(report.what().find(words), std::string::npos) << report;
    }
  };
  using infinipot::Pairing;
  using infinipot::plain_rope;
  expect(plain_rope(4, 1000, Pairing::interleaved), Flaw::frequencies,
         "plain_rope(4, 100, Pairing::interleaved)");
  expect(plain_rope(4, 100, Pairing::half_split), Flaw::pairing, "the pairing is Pairing::interleaved");
  expect(plain_rope(6, 100, Pairing::interleaved), Flaw::rotary_dim, "4 channels turn");
  expect({}, Flaw::rope_unclaimed, "plain_rope(4, 100, Pairing::interleaved)");
}

class AdapterCheckOnRealModel : public AdapterCheck {
 protected:
  void SetUp() override {
    const auto path = test::model_path();
    if (!path) GTEST_SKIP() << test::no_model;
    weights_ = std::make_unique<LlamaWeights>(GgufFile(*path), pool_);
  }
  std::unique_ptr<LlamaWeights> weights_;
};

TEST_F(AdapterCheckOnRealModel, Passes) {
  const Rope rope = weights_->config().rope(160);
  for (const AdapterReport& report :
       {checked<float>(*weights_, pool_, rope), checked<infinipot::f16>(*weights_, pool_, rope),
        checked<infinipot::bf16>(*weights_, pool_, rope), checked<infinipot::int8>(*weights_, pool_, rope),
        checked<infinipot::int4>(*weights_, pool_, rope),
        checked<infinipot::int8>(*weights_, pool_, rope, KeyStorage::unrotated)})
    EXPECT_TRUE(report) << report;
}

/// A pot that does not say which RoPE its keys have.
template <class T>
struct Unstated : Pot<T> {
  using Pot<T>::Pot;
  void rope() const = delete;
};

/// Rounding to 4 bits promises nothing of most pairs, but the keys that are read back turn exactly.
TEST_F(AdapterCheckOnRealModel, CoarseKeysOfAStoreThatStatesNoRopeAreMeasured) {
  Unstated<infinipot::int4> pot(
      {.shape = weights_->config().shape(), .capacity = 160, .rope = weights_->config().rope(160)});
  LlamaEngine<Unstated<infinipot::int4>> engine(*weights_, pot, pool_, 64);
  const AdapterReport report = infinipot::check_adapter(engine, pot, text(64, weights_->config().vocab_size));
  EXPECT_TRUE(report) << report;
  EXPECT_NE(report.what().find("In all layers it is plain_rope(64, 100000, Pairing::interleaved)"),
            std::string::npos)
      << report;
}

/// Its 30 layers' keys were found to be rotations up to 4e-6 of their length: so is an angle at most, and a
/// slope over 100 of them at most 3 / 100 of it.
TEST_F(AdapterCheckOnRealModel, HasTheRopeOfItsFile) {
  const Rope right = weights_->config().rope(160), found = measured<float>(*weights_, pool_);
  EXPECT_EQ(found.frequencies.size(), 32U);
  EXPECT_EQ(found.pairing, infinipot::Pairing::interleaved);
  RecordProperty("error", std::to_string(1e9 * rope_error(found, right)) + "e-9");
  EXPECT_LT(rope_error(found, right), slope_error(4e-6));
  EXPECT_LT(rope_error(measured<infinipot::f16>(*weights_, pool_), right), slope_error(0x1p-11));
}

TEST_F(AdapterCheckOnRealModel, AWrongThetaIsNamed) {
  const AdapterReport report =
      checked<float>(*weights_, pool_, infinipot::plain_rope(64, 10000, infinipot::Pairing::interleaved));
  EXPECT_TRUE(report.has(Flaw::frequencies)) << report;
  EXPECT_NE(report.what().find("plain_rope(64, 100000, Pairing::interleaved)"), std::string::npos) << report;
}

}  // namespace
}  // namespace smollm2
