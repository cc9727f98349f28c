// The engine against Hugging Face transformers in double precision: every scaling of RoPE, biases, and the
// norms of heads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "infinipot/pot.hpp"
#include "kept_logits.hpp"
#include "llama_engine.hpp"
#include "tiny_architectures.hpp"

namespace smollm2 {
namespace {

using infinipot::KeyStorage;
using infinipot::Pot;

class Architectures : public testing::TestWithParam<const char*> {
 protected:
  std::vector<std::vector<float>> run(KeyStorage storage, std::size_t threads, std::size_t batch) const {
    const std::vector<infinipot::Token> tokens = model_.tokens();
    ThreadPool pool(threads);
    const std::vector<std::byte> bytes = model_.file();
    const LlamaWeights weights(GgufFile(bytes, GetParam()), pool);
    Pot<float> pot({.shape = weights.config().shape(),
                    .capacity = tokens.size(),
                    .key_storage = storage,
                    .rope = weights.config().rope(tokens.size())});
    LlamaEngine<Pot<float>> engine(weights, pot, pool, batch);
    test::KeptLogits sink(tokens.size());
    engine.forward(tokens, 0, sink);
    return sink.rows;
  }

  /// Of the rows that the golden file has.
  double error(KeyStorage storage) const {
    const std::vector<std::vector<float>> all = run(storage, 2, 20);
    std::vector<std::vector<float>> found;
    std::vector<std::vector<double>> wanted;
    for (const auto& [row, logits] : model_.logits()) {
      found.push_back(all.at(row));
      wanted.push_back(logits);
    }
    return test::largest_error(wanted, found);
  }

  const test::TinyArchitecture model_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Of, Architectures,
                         testing::Values("plain", "linear", "llama3", "yarn", "longrope_short",
                                         "longrope_long", "biases", "biases_yarn", "qwen2", "qwen3",
                                         "qwen3_yarn_biases"),
                         [](const auto& name) { return std::string(name.param); });

/// Single precision is good for 6e-8 of each number, sums of 48 for some 5 times that, and every layer adds
/// as much again: 1e-6 of logits of up to 7. transformers' angles are single precision too, 2e-6 of a radian
/// at position 47, and random layers multiply errors.
constexpr double tolerance = 5e-5;

TEST_P(Architectures, AgreeWithTransformers) {
  const double rotated = error(KeyStorage::rotated), unrotated = error(KeyStorage::unrotated);
  RecordProperty("rotated", std::to_string(rotated));
  RecordProperty("unrotated", std::to_string(unrotated));
  EXPECT_LT(rotated, tolerance);
  EXPECT_LT(unrotated, tolerance);
}

TEST_P(Architectures, GiveTheSameBitsHoweverTheyAreRun) {
  const std::vector<std::vector<float>> expected = run(KeyStorage::rotated, 1, 48);
  for (const std::size_t threads : {1U, 3U})
    for (const std::size_t batch : {1U, 7U}) EXPECT_EQ(run(KeyStorage::rotated, threads, batch), expected);
}

/// Where the first tensor's numbers begin.
std::size_t header_bytes(const std::vector<std::byte>& bytes) {
  const GgufFile file(bytes, "whole");
  std::ptrdiff_t first = std::ssize(bytes);
  for (const std::string_view name : file.tensor_names())
    first = std::min(first, file.tensor(name).data.data() - bytes.data());
  return static_cast<std::size_t>(first);
}

/// Every byte of the metadata and of the tensors' names and shapes.
TEST_P(Architectures, LoadOrAreAnErrorWithAnyByteDamaged) {
  std::vector<std::byte> bytes = model_.file();
  const std::size_t end = header_bytes(bytes);
  ThreadPool alone(1);
  std::size_t loaded = 0, refused = 0;
  for (std::size_t i = 0; i < end; ++i) {
    const std::byte intact = bytes[i];
    bytes[i] ^= std::byte{0x21};
    try {
      const LlamaWeights weights(GgufFile(bytes, "damaged"), alone);
      ++loaded;
    } catch (const GgufError&) {
      ++refused;
    }
    bytes[i] = intact;
  }
  EXPECT_GT(refused, loaded);
}

}  // namespace
}  // namespace smollm2
