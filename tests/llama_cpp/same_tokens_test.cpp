// Both reading programs feed the same tokens. All of it needs the real model and skips without it.
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "document.hpp"
#include "prompt.hpp"
#include "read/long_text.hpp"
#include "read/temporary_file.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/test_files.hpp"
#include "smollm2_text.hpp"
#include "text.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using reading::Token;
using reading::test::TemporaryFile;
using test::decoded;
using test::encoded;
using Tokens = std::vector<Token>;

/// The real model's texts, by llama.cpp and by the example engine.
class SameTokens : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    model_ = test::load_vocabulary(path->string());
    ASSERT_NE(model_, nullptr);
    text_ = std::make_unique<Text>(*model_, path->string());
    expected_ = std::make_unique<reading::Smollm2Text>(smollm2::GgufFile(*path));
  }

  const Text& text() const { return *text_; }
  const reading::Smollm2Text& expected() const { return *expected_; }
  llama_model* model() const { return model_.get(); }

 private:
  llama_model_ptr model_;
  std::unique_ptr<Text> text_;
  std::unique_ptr<reading::Smollm2Text> expected_;
};

void expect_same(const reading::ChatPiece& found, const reading::ChatPiece& expected) {
  EXPECT_EQ(found.tokens, expected.tokens);
  EXPECT_EQ(found.space, expected.space);
}

TEST_F(SameTokens, OfTheChatTemplate) {
  expect_same(text().chat().user, expected().chat().user);
  expect_same(text().chat().assistant, expected().chat().assistant);
  expect_same(text().chat().next_user, expected().chat().next_user);
}

TEST_F(SameTokens, OfTexts) {
  std::size_t left_out = 0;
  for (const auto& sample : smollm2::test::golden("tokens.json", "cases")) {
    const auto words = sample.at("text").get<std::string>();
    const Tokens tokens = encoded(expected(), words);
    // Where a text has bytes that no token spells, llama.cpp tokenizes what is left in another way.
    if (decoded(expected(), tokens) != words) {
      ++left_out;
      continue;
    }
    EXPECT_EQ(encoded(text(), words), tokens) << sample.at("name");
    EXPECT_EQ(decoded(text(), tokens), words) << sample.at("name");
  }
  EXPECT_LE(left_out, 3U);
}

TEST_F(SameTokens, EndAnswers) {
  const llama_vocab* const vocabulary = llama_model_get_vocab(model());
  for (Token token = 0; token < llama_vocab_n_tokens(vocabulary); ++token) {
    if (expected().is_end(token)) {
      EXPECT_TRUE(text().is_end(token)) << token;
    } else if (text().is_end(token)) {
      // What separates files in code, which llama.cpp takes for an end as well.
      EXPECT_TRUE(llama_vocab_is_control(vocabulary, token)) << token;
    }
  }
}

/// All that is fed for a conversation, with what each token belongs to.
std::vector<std::pair<Token, reading::Part>> conversation(const reading::TextModel& text,
                                                          const reading::Options& options) {
  std::vector<std::pair<Token, reading::Part>> fed;
  for (reading::Prompt& prompt : reading::prompts_of(text, options, reading::open_documents(options)))
    prompt.feed_to([&](std::span<const Token> tokens, reading::Part part) {
      for (const Token token : tokens) fed.emplace_back(token, part);
    });
  return fed;
}

TEST_F(SameTokens, OfAConversation) {
  const TemporaryFile first(reading::test::long_text()), second("\n  Indented: <|im_end|> – café\r\n\n");
  reading::Options options;
  options.chunk = 16;
  options.turns = {{.document = first.path(), .question = "What is the password?", .answer_prefix = "It is"},
                   {.document = second.path(), .question = " And now? "},
                   {.question = "Why?", .answer_prefix = " Because\n"}};
  const auto found = conversation(text(), options);
  EXPECT_GT(found.size(), 500U);
  EXPECT_TRUE(found == conversation(expected(), options));
  options.max_tokens = 100;
  EXPECT_TRUE(conversation(text(), options) == conversation(expected(), options));
}

}  // namespace
}  // namespace llama_cpp
