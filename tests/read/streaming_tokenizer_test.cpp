#include "streaming_tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "fake_text.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/test_files.hpp"
#include "smollm2/tiny_vocabulary.hpp"
#include "smollm2_text.hpp"

namespace reading {
namespace {

using Tokens = std::vector<Token>;
using test::GroupingText;
using test::SpaceText;

Smollm2Text tiny() {
  const std::vector<std::byte> bytes = smollm2::test::TinyVocabulary().build().build();
  return Smollm2Text(smollm2::GgufFile(bytes, "x.gguf"));
}

Tokens at_once(const TextModel& model, std::string_view text) {
  Tokens tokens;
  model.encode(text, tokens);
  return tokens;
}

Tokens after(const TextModel& model, std::string_view text) {
  Tokens tokens;
  encode_after(model, text, tokens);
  return tokens;
}

Tokens streamed(const TextModel& model, std::string_view text,
                const std::function<std::size_t()>& piece_size) {
  StreamingTokenizer stream(model);
  Tokens tokens;
  while (!text.empty()) {
    const std::size_t size = std::min(piece_size(), text.size());
    stream.push(text.substr(0, size), tokens);
    text.remove_prefix(size);
  }
  stream.finish(tokens);
  EXPECT_EQ(stream.forced_cuts(), 0U);
  return tokens;
}

/// Random texts of these parts, in pieces of a few bytes.
void expect_streaming_equals_the_whole(const TextModel& model, const std::vector<std::string>& parts) {
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 300; ++repeat) {
    std::string text;
    for (int i = 0; i < 60; ++i) text += parts[random() % parts.size()];
    EXPECT_EQ(streamed(model, text, [&] { return 1 + random() % 4; }), at_once(model, text)) << text;
  }
}

TEST(StreamingTokenizer, CutsALongWordAtACharacter) {
  const Smollm2Text model = tiny();
  StreamingTokenizer stream(model, 5);
  Tokens tokens;
  stream.push(
      "aaa\xEF\xBF\xBD"
      "aaa",
      tokens);  // cut after "aaa", then after U+FFFD and two more
  EXPECT_EQ(stream.forced_cuts(), 2U);
  stream.finish(tokens);
  std::string text;
  for (const Token token : tokens) text += model.decode(token);
  EXPECT_EQ(text,
            "aaa\xEF\xBF\xBD"
            "aaa");
  EXPECT_THROW(StreamingTokenizer(model, 3), std::invalid_argument);
}

TEST(StreamingTokenizer, HoldsInvalidUtf8Together) {
  const Smollm2Text model = tiny();
  const std::string text =
      "a\xE2\x82 b\xE2\x82"
      "1\xF0\x9F\x98\n\xED\xA0 \xC2 a\xFF";
  EXPECT_EQ(streamed(model, text, [] { return std::size_t{1}; }), at_once(model, text));
}

TEST(StreamingTokenizer, StartsAnewAfterFinish) {
  const Smollm2Text model = tiny();
  StreamingTokenizer stream(model);
  Tokens tokens;
  stream.finish(tokens);
  stream.push("a", tokens);
  stream.finish(tokens);
  stream.push("bc", tokens);
  stream.finish(tokens);
  EXPECT_EQ(tokens, (Tokens{3, 4, 5}));
}

TEST(StreamingTokenizer, GivesTokensAsSoonAsTheyAreCertain) {
  const GroupingText model;
  StreamingTokenizer stream(model);
  const auto after = [&](std::string_view piece) {
    Tokens tokens;
    stream.push(piece, tokens);
    return model.decoded(tokens);
  };
  EXPECT_EQ(after("One"), "");
  EXPECT_EQ(after(" two"), "One");
  EXPECT_EQ(after("\nthree"), " two");
  EXPECT_EQ(after(".\n\nfour"), "");  // ".\n\n" is one token
  EXPECT_EQ(after("123456"), "");     // and so is "123"
  EXPECT_EQ(after(" "), "\nthree.\n\nfour123456");
}

TEST(StreamingTokenizer, CutsNoGroupsOfDigitsOrPunctuation) {
  expect_streaming_equals_the_whole(
      GroupingText(), {"a", "Word", " ", "  ", "\n", "\n\n", "\t", "1", "23", "456", "!", ".", "?\n"});
}

TEST(StreamingTokenizer, EqualsTheWholeWhereEveryTextGetsASpace) {
  expect_streaming_equals_the_whole(
      SpaceText(), {"a", "Word", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t", "1", "23", "!"});
}

TEST(StreamingTokenizer, AnotherTextGetsASpaceAgain) {
  const SpaceText model;
  StreamingTokenizer stream(model);
  Tokens tokens;
  stream.push("one two", tokens);
  stream.finish(tokens);
  stream.push(" three", tokens);
  stream.finish(tokens);
  EXPECT_EQ(model.decoded(tokens), " one two  three");
}

TEST(StreamingTokenizer, AForcedCutWithinAWordPutsASpaceThereWhereEveryTextGetsOne) {
  const SpaceText model;
  StreamingTokenizer stream(model, 4);
  Tokens tokens;
  stream.push("abcdef", tokens);
  stream.finish(tokens);
  EXPECT_EQ(stream.forced_cuts(), 1U);
  EXPECT_EQ(model.decoded(tokens), " abcd ef");
}

TEST(StreamingTokenizer, AForcedCutBeforeWhiteSpaceIsNoHarmWhereEveryTextGetsASpace) {
  for (const char* text : {"abcd\n\nef", "a\n\n\n\n\nb", "a       b", "abcd ", "       "}) {
    const SpaceText model;
    StreamingTokenizer stream(model, 4);
    Tokens tokens;
    stream.push(text, tokens);
    stream.finish(tokens);
    EXPECT_EQ(model.decoded(tokens), " " + std::string(text));
    EXPECT_EQ(tokens, model.tokens(text)) << text;
  }
}

TEST(EncodeAfter, GoesOnWithAText) {
  const SpaceText model;
  const auto text = [&](std::string_view part) { return model.decoded(after(model, part)); };
  EXPECT_EQ(text(" one two"), " one two");
  EXPECT_EQ(text("  one"), "  one");
  EXPECT_EQ(text(" "), " ");
  EXPECT_EQ(text("\n\nOne two"), "\n\nOne two");
  EXPECT_EQ(text(""), "");
  EXPECT_EQ(text("one"), " one");  // as if it were a word of its own
}

TEST(EncodeAfter, IsEncodingWhereNoTextGetsASpace) {
  const GroupingText model;
  for (const char* text : {" one two", "  one", " ", "\n\nOne two", "", "one"})
    EXPECT_EQ(after(model, text), model.tokens(text)) << text;
}

/// The real model's vocabulary, loaded once.
class StreamingModelText : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (const auto path = smollm2::test::model_path())
      model_ = std::make_unique<Smollm2Text>(smollm2::GgufFile(*path));
  }
  static void TearDownTestSuite() { model_.reset(); }

  void SetUp() override {
    if (!model_) GTEST_SKIP() << smollm2::test::no_model;
  }

  static const Smollm2Text& model() { return *model_; }

 private:
  static std::unique_ptr<Smollm2Text> model_;
};

std::unique_ptr<Smollm2Text> StreamingModelText::model_;

TEST_F(StreamingModelText, InAnyPiecesEqualsTheWhole) {
  std::mt19937 random(1);
  std::string all;
  for (const auto& test_case : smollm2::test::golden("tokens.json", "cases"))
    all += test_case.at("text").get<std::string>();
  const Tokens whole = at_once(model(), all);
  for (const std::size_t longest : {1U, 2U, 3U, 7U, 40U, 500U, 100000U}) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      EXPECT_EQ(streamed(model(), all, [&] { return 1 + random() % longest; }), whole) << longest;
    }
  }
}

// Random texts of the characters whose neighbours matter most, broken UTF-8 among them.
TEST_F(StreamingModelText, OfRandomTextEqualsTheWhole) {
  expect_streaming_equals_the_whole(
      model(), {"a",    "don't",    "'s", " ",    "  ",      "\n",     "\t",       "\r\n",      "1",
                "٣",    "½",        "!",  "",     "。",      "中",     "\xC2\x85", "\xC2\xA0",  "　",
                "\xFF", "\xE2\x80", "👍",  "\x04", "e\u0301", "\u180e", "Word",     "<|im_end|>"});
}

}  // namespace
}  // namespace reading
