#include "tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "test_files.hpp"
#include "tiny_vocabulary.hpp"

namespace smollm2 {
namespace {

using test::TinyVocabulary;
using Ids = std::vector<std::int32_t>;

Tokenizer tiny(const TinyVocabulary& vocabulary = {}) {
  const std::vector<std::byte> bytes = vocabulary.build().build();
  return Tokenizer(GgufFile(bytes, "x.gguf"));
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const GgufError& error) {
    return error.what();
  }
  return "no error";
}

std::string tiny_error(const std::function<void(TinyVocabulary&)>& change) {
  TinyVocabulary vocabulary;
  change(vocabulary);
  return error_of([&] { tiny(vocabulary); });
}

TEST(Tokenizer, MergesLowestRankFirst) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.encode("abc", Specials::as_text), (Ids{12}));
  EXPECT_EQ(tokenizer.encode(" abc", Specials::as_text), (Ids{6, 12}));  // "ab c" before "Ġ ab"
  EXPECT_EQ(tokenizer.encode("aaaaaaa", Specials::as_text), (Ids{15, 14, 3}));
  EXPECT_EQ(tokenizer.encode("ab ab", Specials::as_text), (Ids{10, 13}));
  EXPECT_EQ(tokenizer.encode("a12b", Specials::as_text), (Ids{3, 8, 9, 4}));
  EXPECT_TRUE(tokenizer.encode("", Specials::parse).empty());
}

TEST(Tokenizer, ControlTokensAreTextUnlessParsed) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.encode("a<|im_end|>b", Specials::parse), (Ids{3, 2, 4}));
  EXPECT_EQ(tokenizer.encode("<|im_", Specials::parse), (Ids{16, 17, 19, 20}));  // "_" has no token
  const Ids text = tokenizer.encode("<|im_end|>", Specials::as_text);
  EXPECT_EQ(std::find(text.begin(), text.end(), 2), text.end());
}

TEST(Tokenizer, DecodesAndHidesControlTokens) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.decode(Ids{1, 12, 7, 13, 2}), "abc\n ab");
  EXPECT_EQ(tokenizer.decode(Ids{1, 12, 2}, ControlTokens::show), "<|im_start|>abc<|im_end|>");
  EXPECT_EQ(tokenizer.decode(21), "\xEF");
  EXPECT_EQ(tokenizer.decode(27), "\xE4\xB8\xAD");  // not written in the byte alphabet
  EXPECT_THROW((void)tokenizer.decode(28), std::out_of_range);
  EXPECT_THROW((void)tokenizer.decode(-1), std::out_of_range);
}

TEST(Tokenizer, KnowsItsSpecialIds) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.vocab_size(), 28U);
  EXPECT_TRUE(tokenizer.is_end(0));
  EXPECT_TRUE(tokenizer.is_end(2));
  EXPECT_FALSE(tokenizer.is_end(1));
  EXPECT_EQ(tokenizer.control_token("<|im_start|>"), 1);
  EXPECT_FALSE(tokenizer.control_token("abc").has_value());
}

TEST(Tokenizer, InvalidUtf8BecomesReplacementCharacters) {
  const Tokenizer tokenizer = tiny();
  const std::int32_t replaced = 24;
  EXPECT_EQ(tokenizer.encode("a\xFF"
                             "b",
                             Specials::as_text),
            (Ids{3, replaced, 4}));
  EXPECT_EQ(tokenizer.encode("\xE2\x82", Specials::as_text), (Ids{replaced}));  // cut short: one
  EXPECT_EQ(tokenizer.encode("\xC0\x80", Specials::as_text),
            (Ids{replaced, replaced}));  // overlong: each byte
  EXPECT_EQ(tokenizer.encode("\xED\xA0\x80", Specials::as_text),
            (Ids{replaced, replaced, replaced}));                                          // surrogate
  EXPECT_EQ(tokenizer.encode("\xF4\x90\x80\x80", Specials::as_text), (Ids(4, replaced)));  // > U+10FFFF
  EXPECT_EQ(tokenizer.encode("\xF0\x9F\x98"
                             "a",
                             Specials::as_text),
            (Ids{replaced, 3}));
  EXPECT_EQ(tokenizer.encode("<|im_end|>\x80", Specials::parse), (Ids{2, replaced}));
}

TEST(Tokenizer, RefusesOtherTokenizers) {
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.model = "llama"; }),
            "x.gguf: metadata key 'tokenizer.ggml.model': found 'llama', but only 'gpt2' is supported; "
            "infinipot-llama runs what llama.cpp can");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.pre = "qwen2"; }),
            "x.gguf: metadata key 'tokenizer.ggml.pre': found 'qwen2', but only 'smollm' is supported; "
            "infinipot-llama runs what llama.cpp can");
}

TEST(Tokenizer, RefusesInconsistentVocabularies) {
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.types.pop_back(); }),
            "x.gguf: metadata key 'tokenizer.ggml.token_type': 27 types for 28 tokens");
  EXPECT_EQ(
      tiny_error([](TinyVocabulary& v) { v.types[4] = 4; }),
      "x.gguf: metadata key 'tokenizer.ggml.token_type': token 'b' is of type 4, but only 1, 3 and 5 are "
      "supported");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.tokens[4] = "a"; }),
            "x.gguf: metadata key 'tokenizer.ggml.tokens': token 'a' occurs twice");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.tokens[0] = ""; }),
            "x.gguf: metadata key 'tokenizer.ggml.tokens': control token 0 is empty");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.merges[0] = "ab"; }),
            "x.gguf: metadata key 'tokenizer.ggml.merges': merge 0 'ab' has no space");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.merges[1] = "b b"; }),
            "x.gguf: metadata key 'tokenizer.ggml.merges': merge 1 'b b' names a token that is not in the "
            "vocabulary");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.types[10] = 3; }),
            "x.gguf: metadata key 'tokenizer.ggml.merges': merge 0 'a b' makes a control token");
  EXPECT_EQ(tiny_error([](TinyVocabulary& v) { v.eos = 28; }),
            "x.gguf: metadata key 'tokenizer.ggml.eos_token_id': 28 is no token: the vocabulary has 28");
}

TEST(Tokenizer, CorruptionOfAnyByteLoadsOrIsAnError) {
  std::vector<std::byte> bytes = TinyVocabulary().build().build();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::byte original = bytes[i];
    for (const int value : {0x00, 0x20, 0xff}) {
      bytes[i] = static_cast<std::byte>(value);
      error_of([&] {
        const Tokenizer tokenizer{GgufFile(bytes, "x.gguf")};
        (void)tokenizer.decode(tokenizer.encode("<|im_end|> abc \xEF 12", Specials::parse));
      });
    }
    bytes[i] = original;
  }
}

/// The real model's vocabulary, loaded once.
class ModelTokenizer : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (const auto path = test::model_path()) tokenizer_ = std::make_unique<Tokenizer>(GgufFile(*path));
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }

  void SetUp() override {
    if (!tokenizer_) GTEST_SKIP() << test::no_model;
  }

  static const Tokenizer& tokenizer() { return *tokenizer_; }

 private:
  static std::unique_ptr<Tokenizer> tokenizer_;
};

std::unique_ptr<Tokenizer> ModelTokenizer::tokenizer_;

TEST_F(ModelTokenizer, GivesTheReferenceIds) {
  for (const auto& test_case : test::golden("tokens.json", "cases")) {
    const auto specials = test_case.at("specials") == "parse" ? Specials::parse : Specials::as_text;
    EXPECT_EQ(tokenizer().encode(test_case.at("text").get<std::string>(), specials),
              test_case.at("ids").get<Ids>())
        << test_case.at("name");
  }
}

TEST_F(ModelTokenizer, DecodesWhatItEncoded) {
  for (const auto& test_case : test::golden("tokens.json", "cases")) {
    if (test_case.at("name").get<std::string>().find("without a token") != std::string::npos) continue;
    const auto text = test_case.at("text").get<std::string>();
    const Ids ids = tokenizer().encode(text, Specials::parse);
    EXPECT_EQ(tokenizer().decode(ids, ControlTokens::show), text) << test_case.at("name");
  }
}

TEST_F(ModelTokenizer, LongWordsTakeAboutLinearTime) {
  const auto seconds = [](const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(tokenizer().encode(text, Specials::as_text).empty());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::string mixed(1 << 20, 'a');
  std::mt19937 random(3);
  for (char& letter : mixed) letter = static_cast<char>('a' + random() % 26);
  // Quadratic merging would take minutes for any of these.
  EXPECT_LT(seconds(mixed), 20.0);
  EXPECT_LT(seconds(std::string(1 << 20, 'a')), 20.0);
  EXPECT_LT(seconds(std::string(1 << 20, ' ')), 20.0);
  EXPECT_LT(seconds(std::string(1 << 20, '<')), 20.0);
}

TEST_F(ModelTokenizer, ServesSeveralThreads) {
  const std::string text = "Two threads share one tokenizer, but not its workspace. 12345";
  const Ids expected = tokenizer().encode(text, Specials::as_text);
  std::vector<Ids> found(2);
  std::vector<std::thread> threads;
  for (Ids& ids : found) threads.emplace_back([&] { ids = tokenizer().encode(text, Specials::as_text); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(found, std::vector<Ids>(2, expected));
}

}  // namespace
}  // namespace smollm2
