// Models of today's families through llama.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model.hpp"
#include "tiny_families.hpp"

namespace llama_cpp {
namespace {

using test::TemporaryModel;
using test::TinyFamily;

class Families : public testing::TestWithParam<TinyFamily> {};

std::string name_of(const testing::TestParamInfo<TinyFamily>& info) {
  std::string name;
  for (const char letter : info.param.name)
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0) name += letter;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Families, testing::ValuesIn(test::tiny_families()), name_of);

std::vector<infinipot::Token> text(std::size_t tokens, const TinyFamily& family, std::size_t first = 0) {
  std::vector<infinipot::Token> text;
  for (std::size_t i = 0; i < tokens; ++i)
    text.push_back(
        static_cast<infinipot::Token>((i * i * 7 + i * 3 + (i == 0 ? first : 0)) % family.vocab_size));
  return text;
}

/// Logits after the last of the tokens.
std::vector<float> decode(llama_context& context, std::vector<infinipot::Token> tokens,
                          std::size_t vocab_size) {
  const llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<std::int32_t>(tokens.size()));
  EXPECT_EQ(llama_decode(&context, batch), 0);
  const float* const logits = llama_get_logits_ith(&context, -1);
  return {logits, logits + vocab_size};
}

TEST_P(Families, AreReadByLlamaCpp) {
  keep_quiet();
  const TemporaryModel file(GetParam().file);
  const llama_model_ptr model = load_model(file.path());
  for (const bool flash_attention : {true, false}) {
    std::vector<std::vector<float>> seen;
    for (const std::size_t first : {0U, 1U}) {
      const llama_context_ptr context(llama_init_from_model(
          model.get(), context_parameters({.cells = 64, .flash_attention = flash_attention})));
      ASSERT_NE(context, nullptr);
      seen.push_back(decode(*context, text(16, GetParam(), first), GetParam().vocab_size));
      for (const float logit : seen.back()) EXPECT_TRUE(std::isfinite(logit));
    }
    EXPECT_NE(seen[0], seen[1]) << "what was read first does not matter";
  }
}

}  // namespace
}  // namespace llama_cpp
