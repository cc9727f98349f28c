// What Text makes of a model's chat template, on vocabularies that come with llama.cpp.
#include <gguf.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "document.hpp"
#include "prompt.hpp"
#include "read/temporary_file.hpp"
#include "text.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using reading::Token;
using reading::test::TemporaryFile;
using test::decoded;
using Tokens = std::vector<Token>;

// As much of the templates as llama.cpp goes by.
constexpr const char* llama_3 = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'";
constexpr const char* llama_2 = "'[INST] ' + message['content'] + ' [/INST]'";
constexpr const char* qwen =
    "<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\\n{{ '<|im_start|>' }}";

/// A vocabulary with a chat template.
class Chat : public testing::Test {
 protected:
  void load(const char* vocabulary, const char* chat_template) {
    const auto path = test::installed_vocabulary(vocabulary);
    if (!path) GTEST_SKIP() << test::no_llama_cpp;
    gguf_context* const file = gguf_init_from_file(path->c_str(), {.no_alloc = true, .ctx = nullptr});
    ASSERT_NE(file, nullptr);
    gguf_set_val_str(file, "tokenizer.chat_template", chat_template);
    const TemporaryFile changed;
    gguf_write_to_file(file, changed.path().c_str(), false);
    gguf_free(file);
    model_ = test::load_vocabulary(changed.path());
    ASSERT_NE(model_, nullptr);
  }

  /// The tokens of a whole text that may have control tokens in it.
  Tokens tokenized(const std::string& words) const {
    Tokens tokens(words.size() + 2);
    const std::int32_t count = llama_tokenize(llama_model_get_vocab(model_.get()), words.data(),
                                              static_cast<std::int32_t>(words.size()), tokens.data(),
                                              static_cast<std::int32_t>(tokens.size()), true, true);
    tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
    return tokens;
  }

  /// What is fed for two turns, of which the first is answered.
  Tokens fed(const std::string& answer) const {
    const TemporaryFile first("The pot holds 7 litres."), second("Another text.");
    reading::Options options;
    options.turns = {{.document = first.path(), .question = "How much?"},
                     {.document = second.path(), .question = "And now?"}};
    const Text text(*model_);
    Tokens all;
    bool answered = false;
    for (reading::Prompt& prompt : reading::prompts_of(text, options, reading::open_documents(options))) {
      prompt.feed_to([&](std::span<const Token> tokens, reading::Part) {
        all.insert(all.end(), tokens.begin(), tokens.end());
      });
      if (!answered) reading::encode_behind(text, answer, all);
      answered = true;
    }
    return all;
  }

  llama_model_ptr model_;
};

TEST_F(Chat, OfLlama3EqualsTheConversationAtOnce) {
  load("llama-bpe", llama_3);
  if (model_ == nullptr) return;
  EXPECT_EQ(
      fed("Seven litres."),
      tokenized("<|start_header_id|>user<|end_header_id|>\n\nThe pot holds 7 litres.\n\nHow much?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nSeven litres.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nAnother text.\n\nAnd now?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"));
}

TEST_F(Chat, OfLlama2EqualsTheConversationAtOnce) {
  load("llama-spm", llama_2);
  if (model_ == nullptr) return;
  EXPECT_EQ(fed(" Seven litres."),
            tokenized("[INST] The pot holds 7 litres.\n\nHow much? [/INST] Seven litres.</s>"
                      "[INST] Another text.\n\nAnd now? [/INST]"));
}

TEST_F(Chat, HasTheTemplatesOwnSystemMessage) {
  load("llama-bpe", qwen);
  if (model_ == nullptr) return;
  const Text text(*model_);
  EXPECT_EQ(decoded(text, text.chat().user.tokens) + text.chat().user.space,
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n<|im_start|>user\n");
  EXPECT_EQ(decoded(text, text.chat().next_user.tokens) + text.chat().next_user.space,
            "<|im_end|>\n<|im_start|>user\n");
}

TEST_F(Chat, OfAnUnknownTemplateIsRefused) {
  load("llama-spm", "{{ messages }}");
  if (model_ == nullptr) return;
  try {
    const Text text(*model_);
    FAIL() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "llama.cpp does not know the model's chat template");
  }
}

}  // namespace
}  // namespace llama_cpp
