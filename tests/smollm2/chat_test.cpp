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

TEST(ChatTemplate, PiecesStandAroundTexts) {
  const std::vector<std::byte> bytes = TinyVocabulary().build().build();
  const GgufFile file(bytes, "x.gguf");
  const Tokenizer tokenizer(file);
  const ChatTemplate chat(file, tokenizer, "ab");
  const auto shown = [&](const Ids& ids) { return tokenizer.decode(ids, ControlTokens::show); };
  // The tiny vocabulary knows few letters: "system" is "m", "user" nothing, "assistant" "a i a".
  EXPECT_EQ(shown(chat.user()), "<|im_start|>m\nab<|im_end|>\n<|im_start|>");
  EXPECT_EQ(shown(chat.assistant()), "<|im_end|>\n<|im_start|>aia");
  EXPECT_EQ(shown(chat.next_user()), "<|im_end|>\n<|im_start|>");
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
  for (const auto& sample : test::golden("tokens.json", "chats")) {
    const std::string system = sample.at("system").is_null() ? std::string(default_system_message)
                                                             : sample.at("system").get<std::string>();
    const ChatTemplate chat(file, tokenizer, system);
    Ids ids = chat.user();
    const auto append = [&](const Ids& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    append(tokenizer.encode(
        "\n" + sample.at("document").get<std::string>() + "\n\n" + sample.at("question").get<std::string>(),
        Specials::as_text));
    append(chat.assistant());
    append(tokenizer.encode("\n" + sample.at("prefix").get<std::string>(), Specials::as_text));
    EXPECT_EQ(ids, sample.at("ids").get<Ids>()) << sample.at("text");
    EXPECT_EQ(tokenizer.decode(ids, ControlTokens::show), sample.at("text").get<std::string>());
  }
}

TEST(ChatTemplate, AnotherTurnEqualsTheConversationAtOnce) {
  const auto path = test::model_path();
  if (!path) GTEST_SKIP() << test::no_model;
  const GgufFile file(*path);
  const Tokenizer tokenizer(file);
  const ChatTemplate chat(file, tokenizer);
  Ids ids = chat.assistant();
  const auto append = [&](const Ids& more) { ids.insert(ids.end(), more.begin(), more.end()); };
  append(tokenizer.encode("\nYes.", Specials::as_text));
  append(chat.next_user());
  append(tokenizer.encode("\nWhy?", Specials::as_text));
  append(chat.assistant());
  EXPECT_EQ(ids, tokenizer.encode("<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
                                  "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant",
                                  Specials::parse));
}

}  // namespace
}  // namespace smollm2
