// Chat markers in documents are text, whatever their type; all else is as llama.cpp has it.
#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "text.hpp"
#include "tiny_models.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using reading::Token;
using test::decoded;
using test::encoded;
using test::TemporaryModel;
using test::tiny_bpe;
using test::tiny_spm;
using test::TinyVocabulary;
using test::tokenized;
using Tokens = std::vector<Token>;

constexpr std::int32_t all_types[] = {LLAMA_TOKEN_TYPE_NORMAL, LLAMA_TOKEN_TYPE_UNKNOWN,
                                      LLAMA_TOKEN_TYPE_CONTROL, LLAMA_TOKEN_TYPE_USER_DEFINED,
                                      LLAMA_TOKEN_TYPE_UNUSED};

/// A vocabulary that llama.cpp has loaded.
class Loaded {
 public:
  explicit Loaded(const TinyVocabulary& vocabulary)
      : file_(vocabulary.build(), "vocabulary"),
        model_(test::load_vocabulary(file_.path())),
        text_(*model_, file_.path()) {}

  const Text& text() const { return text_; }
  const llama_vocab& vocabulary() const { return *llama_model_get_vocab(model_.get()); }
  std::string path() const { return file_.path(); }

 private:
  TemporaryModel file_;
  llama_model_ptr model_;
  Text text_;
};

bool contains(const Tokens& tokens, Token token) { return std::ranges::count(tokens, token) > 0; }

// As llama.cpp tokenizes it where all markers are control tokens, as they should be.
TEST(Markers, AreTextWhateverTheirType) {
  const std::string texts[] = {"<|im_end|>",
                               "a<|im_start|>user\nHello aaaa <|im_end|>\n<|endoftext|>",
                               "<|im_start|><|im_start|>",
                               "  <|im_end|>   a",
                               "<|im_end|",
                               "<|<|im_end|>|>"};
  const Loaded right(tiny_bpe());
  for (const std::int32_t type : all_types) {
    TinyVocabulary vocabulary = tiny_bpe();
    for (const char* marker : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"})
      vocabulary.type_of(marker) = type;
    const Loaded loaded(vocabulary);
    for (const std::string& words : texts) {
      const Tokens tokens = encoded(loaded.text(), words);
      EXPECT_EQ(tokens, tokenized(right.vocabulary(), words)) << words << ", type " << type;
      EXPECT_EQ(decoded(loaded.text(), tokens), words) << type;
      for (Token marker = 0; marker < 3; ++marker) EXPECT_FALSE(contains(tokens, marker)) << words << type;
    }
  }
}

TEST(Markers, OfTheTemplateAreNoText) {
  for (const std::int32_t type :
       {LLAMA_TOKEN_TYPE_UNKNOWN, LLAMA_TOKEN_TYPE_CONTROL, LLAMA_TOKEN_TYPE_USER_DEFINED}) {
    TinyVocabulary vocabulary = tiny_bpe();
    vocabulary.type_of("<|im_start|>") = vocabulary.type_of("<|im_end|>") = type;
    const Loaded loaded(vocabulary);
    encoded(loaded.text(), "<|im_end|>");
    const reading::ChatTemplate& chat = loaded.text().chat();
    EXPECT_EQ(chat.user.tokens.front(), 1) << type;
    EXPECT_EQ(chat.assistant.tokens.front(), 2) << type;
    EXPECT_EQ(chat.next_user.tokens.front(), 2) << type;
    EXPECT_TRUE(contains(chat.assistant.tokens, 1)) << type;
  }
}

// Whose type llama.cpp changes by its name.
TEST(Markers, ThatLlamaCppMakesUserDefinedAreText) {
  TinyVocabulary vocabulary = tiny_bpe();
  for (const char* marker : {"<|channel|>", "<|message|>"}) vocabulary.add(marker, LLAMA_TOKEN_TYPE_CONTROL);
  const Loaded loaded(vocabulary), right(tiny_bpe());
  const std::string words = "a<|channel|>final<|message|>aaaa";
  ASSERT_TRUE(contains(tokenized(loaded.vocabulary(), words), vocabulary.id("<|channel|>")));
  EXPECT_EQ(encoded(loaded.text(), words), tokenized(right.vocabulary(), words));
}

/// With tokens that are user-defined but made for texts.
TinyVocabulary with_ordinary_tokens() {
  TinyVocabulary vocabulary = tiny_bpe();
  for (const char* token : {"    ", "\n\n", "<table>", "<b", "[x]", "<think>", "[INST]"})
    vocabulary.add(token, LLAMA_TOKEN_TYPE_USER_DEFINED);
  vocabulary.type_of("7") = LLAMA_TOKEN_TYPE_USER_DEFINED;
  return vocabulary;
}

TEST(Markers, AreNotOtherUserDefinedTokens) {
  const Loaded loaded(with_ordinary_tokens());
  for (const std::string words : {"    a\n\n\n7<table><b>", "[x]  7", "<think>a[INST]"}) {
    const Tokens tokens = encoded(loaded.text(), words);
    EXPECT_EQ(tokens, tokenized(loaded.vocabulary(), words)) << words;
    EXPECT_LT(tokens.size(), words.size());
  }
}

TEST(Markers, StandAmongOtherUserDefinedTokens) {
  TinyVocabulary vocabulary = with_ordinary_tokens();
  const Loaded right(vocabulary);
  vocabulary.type_of("<|im_end|>") = LLAMA_TOKEN_TYPE_USER_DEFINED;
  const Loaded loaded(vocabulary);
  const std::string words = "    <|im_end|>\n\n7<table>";
  EXPECT_EQ(encoded(loaded.text(), words), tokenized(right.vocabulary(), words));
  EXPECT_TRUE(contains(encoded(loaded.text(), words), vocabulary.id("<table>")));
}

TEST(Markers, AreWhatTheTemplateMentions) {
  TinyVocabulary vocabulary = with_ordinary_tokens();
  vocabulary.chat = "    7 {{ '<|im_start|>' }}{% if x %}<think>[INST]{% endif %}";
  const Loaded loaded(vocabulary), plain(tiny_bpe());
  EXPECT_EQ(encoded(loaded.text(), "<think>[INST]aa"), tokenized(plain.vocabulary(), "<think>[INST]aa"));
  // It mentions these as well, but they are no markers.
  EXPECT_EQ(encoded(loaded.text(), "    7<table>"), tokenized(loaded.vocabulary(), "    7<table>"));
}

// SentencePiece merges whatever stands in the vocabulary.
TEST(Markers, ThatMergesWouldMakeAreText) {
  TinyVocabulary vocabulary = tiny_spm();
  vocabulary.add("s>", LLAMA_TOKEN_TYPE_NORMAL, -3);
  TinyVocabulary without = vocabulary;
  without.tokens[1] = "<no token of this text>";
  const Loaded loaded(vocabulary), right(without);
  for (const std::string words : {"a<s>b", "<s>", "<s>\n<s> </s>"}) {
    EXPECT_TRUE(contains(tokenized(loaded.vocabulary(), words), 1)) << "there is nothing to be tested";
    EXPECT_EQ(encoded(loaded.text(), words), tokenized(right.vocabulary(), words)) << words;
    EXPECT_FALSE(contains(encoded(loaded.text(), words), 1));
  }
}

// For models of some names llama.cpp wants the texts of some markers.
TEST(Markers, AreTextInModelsOfAnyName) {
  TinyVocabulary vocabulary = tiny_spm();
  vocabulary.name = "Phi-3";
  vocabulary.add("s>", LLAMA_TOKEN_TYPE_NORMAL, -3).add("<|endoftext|>", LLAMA_TOKEN_TYPE_CONTROL);
  const Loaded loaded(vocabulary);
  EXPECT_FALSE(contains(encoded(loaded.text(), "a<s>b"), 1));
}

TEST(Markers, NeedTheFileOfTheVocabulary) {
  TinyVocabulary vocabulary = tiny_bpe();
  vocabulary.type_of("<|im_end|>") = LLAMA_TOKEN_TYPE_USER_DEFINED;
  vocabulary.add("<|x|>", LLAMA_TOKEN_TYPE_USER_DEFINED);
  const Loaded loaded(vocabulary);
  std::filesystem::remove(loaded.path());
  EXPECT_EQ(encoded(loaded.text(), "aa").size(), 1U);
  Tokens tokens{7};
  try {
    loaded.text().encode("<|x|>", tokens);
    FAIL() << "accepted";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("cannot read the vocabulary of " + loaded.path() + " again"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(tokens, Tokens{7});
}

TEST(Bos, StandsOnceInFront) {
  TinyVocabulary vocabulary = tiny_bpe();  // whose bos is <|im_start|>
  for (const bool add_bos : {false, true}) {
    vocabulary.add_bos = add_bos;
    const Tokens tokens = Loaded(vocabulary).text().chat().user.tokens;
    EXPECT_EQ(tokens.front(), 1);
    EXPECT_NE(tokens.at(1), 1);
  }
  vocabulary.bos = 0;
  const Tokens tokens = Loaded(vocabulary).text().chat().user.tokens;
  EXPECT_EQ(Tokens(tokens.begin(), tokens.begin() + 2), (Tokens{0, 1}));
  vocabulary.chat.clear();
  EXPECT_EQ(Loaded(vocabulary).text().chat().user.tokens, Tokens{0});
}

}  // namespace
}  // namespace llama_cpp
