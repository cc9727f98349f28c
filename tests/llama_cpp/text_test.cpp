// llama.cpp's vocabularies and chat templates, as the reading programs see them.
#include "text.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "smollm2/test_files.hpp"
#include "streaming_tokenizer.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using reading::Token;
using test::decoded;
using test::encoded;
using test::tokenized;
using Tokens = std::vector<Token>;

const llama_vocab& vocabulary_of(const llama_model& model) { return *llama_model_get_vocab(&model); }

/// All kinds of texts.
std::vector<std::string> many_texts() {
  std::vector<std::string> texts;
  for (const auto& text : smollm2::test::golden("tokens.json", "cases"))
    texts.push_back(text.at("text").get<std::string>());
  return texts;
}

/// The vocabulary of Llama 2 or 3.
class Vocabulary : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto path = test::installed_vocabulary(GetParam());
    if (!path) GTEST_SKIP() << test::no_llama_cpp;
    model_ = test::load_vocabulary(*path);
    ASSERT_NE(model_, nullptr) << *path;
    text_ = std::make_unique<Text>(*model_, *path);
  }

  const Text& text() const { return *text_; }
  const llama_vocab& vocabulary() const { return vocabulary_of(*model_); }
  bool is_sentence_piece() const { return std::string_view(GetParam()) == "llama-spm"; }

  Tokens control_tokens() const {
    Tokens tokens;
    for (Token token = 0; token < llama_vocab_n_tokens(&vocabulary()); ++token)
      if (llama_vocab_is_control(&vocabulary(), token)) tokens.push_back(token);
    return tokens;
  }

  Tokens streamed(std::string_view words, std::mt19937& random, std::size_t longest) const {
    reading::StreamingTokenizer stream(text());
    Tokens tokens;
    while (!words.empty()) {
      const std::size_t size = std::min<std::size_t>(1 + random() % longest, words.size());
      stream.push(words.substr(0, size), tokens);
      words.remove_prefix(size);
    }
    stream.finish(tokens);
    EXPECT_EQ(stream.forced_cuts(), 0U);
    return tokens;
  }

 private:
  llama_model_ptr model_;
  std::unique_ptr<Text> text_;
};

INSTANTIATE_TEST_SUITE_P(, Vocabulary, testing::Values("llama-spm", "llama-bpe"), [](const auto& vocabulary) {
  return std::string(vocabulary.param) == "llama-spm" ? "SentencePiece" : "Bpe";
});

TEST_P(Vocabulary, EncodesAsLlamaCppDoes) {
  for (const std::string& words : many_texts()) {
    Tokens tokens{7}, expected{7};
    text().encode(words, tokens);
    std::ranges::copy(tokenized(vocabulary(), words), std::back_inserter(expected));
    EXPECT_EQ(tokens, expected);
  }
}

TEST_P(Vocabulary, DecodesWhatItEncoded) {
  EXPECT_EQ(text().space_prefix(), is_sentence_piece());
  const std::string space = text().space_prefix() ? " " : "";
  for (const std::string& words : many_texts())
    EXPECT_EQ(decoded(text(), encoded(text(), words)), words.empty() ? "" : space + words);
}

TEST_P(Vocabulary, AnyBytesHaveTokens) {
  std::string bytes;
  for (int i = 0; i < 2000; ++i) bytes += static_cast<char>(i * 37 % 251 + i % 5);
  for (const std::string& words :
       {bytes, std::string("a\xE2\x82"), std::string("\xFF"), std::string(1, '\0')})
    EXPECT_FALSE(encoded(text(), words).empty());
}

TEST_P(Vocabulary, ControlTokensWrittenOutAreText) {
  const std::string before = text().space_prefix() ? " a" : "a";
  const Tokens controls = control_tokens();
  ASSERT_GE(controls.size(), 2U);
  for (const Token control : controls) {
    const std::string name = llama_vocab_get_text(&vocabulary(), control);
    const Tokens tokens = encoded(text(), "a" + name + "b");
    for (const Token token : tokens) EXPECT_FALSE(llama_vocab_is_control(&vocabulary(), token)) << name;
    EXPECT_EQ(decoded(text(), tokens), before + name + "b");
    EXPECT_EQ(text().decode(control), "") << name;
  }
}

TEST_P(Vocabulary, KnowsWhatEndsAnAnswer) {
  EXPECT_TRUE(text().is_end(llama_vocab_eos(&vocabulary())));
  if (const Token end_of_turn = llama_vocab_eot(&vocabulary()); end_of_turn != LLAMA_TOKEN_NULL) {
    EXPECT_TRUE(text().is_end(end_of_turn));
  }
  EXPECT_FALSE(text().is_end(llama_vocab_bos(&vocabulary())));
  for (const Token token : encoded(text(), "An answer.\n\n</s><|eot_id|>"))
    EXPECT_FALSE(text().is_end(token));
}

TEST_P(Vocabulary, WithoutATemplateTextsFollowEachOther) {
  const reading::ChatTemplate& chat = text().chat();
  EXPECT_EQ(chat.user.tokens, Tokens{llama_vocab_bos(&vocabulary())});
  EXPECT_EQ(chat.user.space, "");
  EXPECT_TRUE(chat.assistant.tokens.empty());
  EXPECT_EQ(chat.assistant.space, "\n");
  EXPECT_TRUE(chat.next_user.tokens.empty());
  EXPECT_EQ(chat.next_user.space, "\n\n");
}

TEST_P(Vocabulary, StreamInAnyPiecesEqualsTheWhole) {
  std::mt19937 random(1);
  std::string all;
  for (const std::string& words : many_texts()) all += words;
  const Tokens whole = tokenized(vocabulary(), all);
  for (const std::size_t longest : {1U, 3U, 40U, 500U, 100000U})
    EXPECT_EQ(streamed(all, random, longest), whole) << longest;
}

// Random texts of what matters most at places to cut.
TEST_P(Vocabulary, StreamOfRandomTextEqualsTheWhole) {
  const std::vector<std::string> parts{"a",    "don't", "'s", " ",  "  ",       "\n",     "\n\n", "\t",
                                       "\r\n", "1",     "23", "٣",  "½",        "!",      "...",  "?\n",
                                       "。",   "中",    "👍",  "　", "\xC2\xA0", "\u180e", "Word", "<s>"};
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 300; ++repeat) {
    std::string words;
    for (int i = 0; i < 60; ++i) words += parts[random() % parts.size()];
    ASSERT_EQ(streamed(words, random, 4), tokenized(vocabulary(), words)) << words;
  }
}

}  // namespace
}  // namespace llama_cpp
