#include "chat.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "test_files.hpp"
#include "tiny_vocabulary.hpp"

namespace smollm2 {
namespace {

using test::GgufWriter;
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

TEST(OwnSystemMessage, IsWhatTheTemplateSaysItself) {
  // Of SmolLM2, Qwen2.5 and, with a line break that is one, made up.
  EXPECT_EQ(
      own_system_message(
          "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
          "'<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
          "Face<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
          "+ '<|im_end|>' + '\\n'}}{% endfor %}"),
      "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
  EXPECT_EQ(own_system_message(
                "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {{- messages[0]['content'] }}\n"
                "{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
                "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    {%- "
                "else %}\n"
                "        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
                "assistant.<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}"),
            "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
  EXPECT_EQ(own_system_message("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"), "Be brief.");
}

TEST(OwnSystemMessage, IsEmptyWhereTheTemplateHasNone) {
  EXPECT_EQ(own_system_message(""), "");
  EXPECT_EQ(own_system_message("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
                               "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"),
            "");
  EXPECT_EQ(own_system_message("<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"), "");
}

TEST(OwnSystemMessage, IsNoExpression) {
  EXPECT_EQ(own_system_message("{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}"), "");
  EXPECT_EQ(own_system_message("<|im_start|>system\n{{ system_message }}<|im_end|>\n"), "");
}

TEST(OwnSystemMessage, HasQuotesAndEscapesAndAnyLength) {
  EXPECT_EQ(own_system_message("{{ \"<|im_start|>system\\nYou're <b>\\\"it\\\"</b>\\n.<|im_end|>\\n\" }}"),
            "You're <b>\"it\"</b>\n.");
  EXPECT_EQ(own_system_message("{{ '<s><|im_start|>system\\nIt\\'s \"it\".<|im_end|>' }}"), "It's \"it\".");
  EXPECT_EQ(own_system_message("{% if x %}<|im_start|>system\nIt's it.<|im_end|>"), "It's it.");
  for (const std::size_t length : {100'000U, 3'000'000U}) {
    const std::string message(length, 'x');
    EXPECT_EQ(own_system_message("{{ '<|im_start|>system\\n" + message + "<|im_end|>\\n' }}"), message);
  }
}

TEST(OwnSystemMessage, OfALiteralEndsWithIt) {
  EXPECT_EQ(own_system_message("{{ '<s><|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}"), "");
  EXPECT_EQ(own_system_message("{% set x = '<|im_start|>system\\n' %}Hello<|im_end|>"), "");
  EXPECT_EQ(own_system_message("{{ '<|im_start|>system\\n"), "");
  EXPECT_EQ(own_system_message("<|im_start|>system\n<|im_end|>"), "");
  EXPECT_EQ(own_system_message("<|im_start|>system\n<|im_start|>user\nHello<|im_end|>"), "");
  EXPECT_EQ(own_system_message("<|im_start|>systemHello<|im_end|>"), "");
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

/// The first piece of a template, its control tokens written out.
std::string opening_of(const TinyVocabulary& vocabulary, std::optional<bool> add_bos = std::nullopt) {
  GgufWriter writer = vocabulary.build();
  if (add_bos)
    writer.value("tokenizer.ggml.add_bos_token", GgufType::boolean,
                 test::Bytes().put(std::uint8_t{*add_bos}));
  const std::vector<std::byte> bytes = writer.build();
  const GgufFile file(bytes, "x.gguf");
  const Tokenizer tokenizer(file);
  return tokenizer.decode(ChatTemplate(file, tokenizer).user(), ControlTokens::show);
}

TEST(ChatTemplate, SaysItsOwnSystemMessage) {
  TinyVocabulary vocabulary;
  EXPECT_EQ(opening_of(vocabulary), "<|im_start|>");
  vocabulary.chat = "{{ '<|im_start|>system\\nab ab<|im_end|>\\n' }}";
  EXPECT_EQ(opening_of(vocabulary), "<|im_start|>m\nab ab<|im_end|>\n<|im_start|>");
  vocabulary.chat = "{{ '<|im_start|>system\\n" + std::string(100'000, 'a') + "<|im_end|>\\n' }}";
  EXPECT_EQ(opening_of(vocabulary),
            "<|im_start|>m\n" + std::string(100'000, 'a') + "<|im_end|>\n<|im_start|>");
}

TEST(ChatTemplate, BeginsWithOneBos) {
  TinyVocabulary vocabulary;  // whose bos is <|im_start|>
  EXPECT_EQ(opening_of(vocabulary, true), "<|im_start|>");
  EXPECT_EQ(opening_of(vocabulary, false), "<|im_start|>");
  vocabulary.bos = 0;
  EXPECT_EQ(opening_of(vocabulary, true), "<|endoftext|><|im_start|>");
  EXPECT_EQ(opening_of(vocabulary, false), "<|im_start|>");
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
