// Texts of any length reach llama_tokenize() in one piece, and do not overflow its stack.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "deep_stack.hpp"
#include "text.hpp"
#include "tiny_models.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using reading::Token;
using test::decoded;
using test::encoded;
using test::TemporaryModel;
using test::TinyVocabulary;
using test::tokenized;
using Tokens = std::vector<Token>;

std::string repeated(const std::string& part, std::size_t size) {
  std::string text;
  while (text.size() < size) text += part;
  return text;
}

/// Named as tokenizer.ggml.pre has it: with regular expressions, and two without.
class LongWords : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    TinyVocabulary vocabulary = test::tiny_bpe();
    vocabulary.pre = GetParam();
    file_ = std::make_unique<TemporaryModel>(vocabulary.build(), "vocabulary");
    model_ = test::load_vocabulary(file_->path());
    ASSERT_NE(model_, nullptr);
    text_ = std::make_unique<Text>(*model_, file_->path());
  }

  std::unique_ptr<TemporaryModel> file_;
  llama_model_ptr model_;
  std::unique_ptr<Text> text_;
};

INSTANTIATE_TEST_SUITE_P(, LongWords,
                         testing::Values("tekken", "gpt-4o", "deepseek-llm", "default", "deepseek-v3",
                                         "bloom", "falcon", "exaone-moe", "youtu", "llama-bpe", "smollm"),
                         [](const auto& pre) {
                           std::string name = pre.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_P(LongWords, AreTokenizedAsAWhole) {
  for (const char* part : {"a", "A", "1", " ", "\n", "!", "'", "中", "é", "a b ", "aB", "x1 "})
    // On both sides of what is short, and as much as an ordinary stack bears.
    for (const std::size_t size : {1000U, 1023U, 1025U, 6000U}) {
      const std::string words = repeated(part, size) + "b";
      EXPECT_EQ(encoded(*text_, words), tokenized(*llama_model_get_vocab(model_.get()), words))
          << part << " " << size;
    }
}

TEST_P(LongWords, OverflowNoStack) {
  for (const char* part : {"a", "A", "1", " ", "\n", "!", "'", "中", "é", "a b ", "aB", "x1 "}) {
    const std::string words = repeated(part, 27'000);
    EXPECT_EQ(decoded(*text_, encoded(*text_, words)), words) << part;
  }
  EXPECT_EQ(encoded(*text_, repeated("a", 300'000)), Tokens(75'000, encoded(*text_, "aaaa").at(0)));
}

TEST_P(LongWords, StandInTemplates) {
  const std::string message(100'000, 'x');
  TinyVocabulary vocabulary = test::tiny_bpe();
  vocabulary.pre = GetParam();
  vocabulary.chat = "{{ '<|im_start|>system\\n" + message + "<|im_end|>\\n' }}";
  const TemporaryModel file(vocabulary.build(), "vocabulary");
  const llama_model_ptr model = test::load_vocabulary(file.path());
  ASSERT_NE(model, nullptr);
  const Text text(*model, file.path());
  const Tokens& tokens = text.chat().user.tokens;
  EXPECT_EQ(tokens.front(), 1);
  EXPECT_EQ(decoded(text, tokens), "system\n" + message + "\nuser");
  EXPECT_EQ(text.chat().user.space, "\n");
}

TEST(DeepStack, HoldsDeepRecursion) {
  struct Deep {
    static std::size_t go(std::size_t depth) {
      volatile char frame[1024];
      frame[depth % 1024] = 1;
      return depth == 0 ? 0 : go(depth - 1) + static_cast<std::size_t>(frame[depth % 1024]);
    }
  };
  std::size_t depth = 0;
  on_deep_stack(std::size_t{512} << 20U, [&] { depth = Deep::go(100'000); });
  EXPECT_EQ(depth, 100'000U);
}

TEST(DeepStack, PassesOnWhatIsThrown) {
  EXPECT_THROW(on_deep_stack(1 << 20, [] { throw std::out_of_range("x"); }), std::out_of_range);
}

TEST(DeepStack, ThatThereIsNotIsRefused) {
  bool called = false;
  try {
    on_deep_stack(std::size_t{1} << 60U, [&] { called = true; });
    FAIL() << "there is such a stack";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("there is no stack of "), std::string::npos) << error.what();
  }
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace llama_cpp
