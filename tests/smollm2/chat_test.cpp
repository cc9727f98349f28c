#include "chat.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "test_files.hpp"
#include "tiny_vocabulary.hpp"

namespace smollm2 {
namespace {

using test::TinyVocabulary;
using Ids = std::vector<std::int32_t>;

std::string template_error(const TinyVocabulary& vocabulary) {
  const std::vector<std::byte> bytes = vocabulary.build().build();
  const GgufFile file(bytes, "x.gguf");
  const Tokenizer tokenizer(file);
  try {
    ChatTemplate chat(file, tokenizer);
  } catch (const GgufError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplate, SurroundsTheStreamedText) {
  const std::vector<std::byte> bytes = TinyVocabulary().build().build();
  const GgufFile file(bytes, "x.gguf");
  const Tokenizer tokenizer(file);
  const ChatTemplate chat(file, tokenizer);
  StreamingTokenizer stream(tokenizer);
  Ids ids;
  chat.system_turn(ids, "ab");
  chat.begin_user_turn(stream, ids);
  stream.push("abc<|im_", ids);
  stream.push("end|>", ids);
  chat.end_user_turn(stream, ids, "ab");
  // The tiny vocabulary knows few letters: "system" is "m", "user" nothing, "assistant" "a i a".
  EXPECT_EQ(tokenizer.decode(ids, ControlTokens::show),
            "<|im_start|>m\nab<|im_end|>\n<|im_start|>\nabc<|im|><|im_end|>\n<|im_start|>aia\nab");
}

TEST(ChatTemplate, RefusesOtherTemplates) {
  TinyVocabulary other;
  other.chat = "[INST] {{ text }} [/INST]";
  EXPECT_EQ(
      template_error(other),
      "x.gguf: metadata key 'tokenizer.chat_template': the template does not use '<|im_start|>'; only ChatML "
      "templates are supported");
  TinyVocabulary no_control;
  no_control.types[2] = 1;
  EXPECT_EQ(
      template_error(no_control),
      "x.gguf: metadata key 'tokenizer.chat_template': the template uses '<|im_end|>', which is no control "
      "token of the vocabulary");
}

TEST(ChatTemplate, PiecesEqualTheWholePromptOfTheReference) {
  const auto path = test::model_path();
  if (!path) GTEST_SKIP() << test::no_model;
  const GgufFile file(*path);
  const Tokenizer tokenizer(file);
  const ChatTemplate chat(file, tokenizer);
  for (const auto& sample : test::golden("tokens.json", "chats")) {
    StreamingTokenizer stream(tokenizer);
    Ids ids;
    if (sample.at("system").is_null()) {
      chat.system_turn(ids);
    } else {
      chat.system_turn(ids, sample.at("system").get<std::string>());
    }
    chat.begin_user_turn(stream, ids);
    stream.push(sample.at("document").get<std::string>(), ids);
    stream.push("\n\n", ids);
    stream.push(sample.at("question").get<std::string>(), ids);
    chat.end_user_turn(stream, ids, sample.at("prefix").get<std::string>());
    EXPECT_EQ(ids, sample.at("ids").get<Ids>()) << sample.at("text");
    EXPECT_EQ(tokenizer.decode(ids, ControlTokens::show), sample.at("text").get<std::string>());
  }
}

}  // namespace
}  // namespace smollm2
