// What Text makes of a model's chat template, on vocabularies that come with llama.cpp.
#include <gguf.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ostream>
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

/// As many families of models have it.
struct Family {
  std::string name;
  const char* vocabulary;
  const char* chat_template;             // as much of it as llama.cpp goes by
  std::vector<std::string> controls{};   // more control tokens
  std::string answer = "Seven litres.";  // as the model would begin it

  friend std::ostream& operator<<(std::ostream& out, const Family& family) { return out << family.name; }
};

/// Puts the family's control tokens in the place of the last tokens, and the template into the metadata.
void write(const Family& family, const std::string& vocabulary, const std::string& out) {
  gguf_context* const file = gguf_init_from_file(vocabulary.c_str(), {.no_alloc = true, .ctx = nullptr});
  ASSERT_NE(file, nullptr);
  gguf_set_val_str(file, "tokenizer.chat_template", family.chat_template);
  const std::int64_t texts_key = gguf_find_key(file, "tokenizer.ggml.tokens");
  const std::int64_t types_key = gguf_find_key(file, "tokenizer.ggml.token_type");
  const std::size_t count = gguf_get_arr_n(file, texts_key), first = count - family.controls.size();
  const auto* const old_types = static_cast<const std::int32_t*>(gguf_get_arr_data(file, types_key));
  std::vector<std::int32_t> types(old_types, old_types + count);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < count; ++i)
    texts.push_back(i < first ? gguf_get_arr_str(file, texts_key, i) : family.controls[i - first]);
  std::fill(types.begin() + static_cast<std::ptrdiff_t>(first), types.end(), LLAMA_TOKEN_TYPE_CONTROL);
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  gguf_set_arr_str(file, "tokenizer.ggml.tokens", pointers.data(), count);
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), count);
  gguf_write_to_file(file, out.c_str(), false);
  gguf_free(file);
}

/// Writes it to `file` and loads it. Null if llama.cpp's vocabularies are not there.
llama_model_ptr load(const Family& family, const TemporaryFile& file) {
  const auto path = test::installed_vocabulary(family.vocabulary);
  if (!path) return nullptr;
  write(family, *path, file.path());
  return test::load_vocabulary(file.path());
}

class Conversation : public testing::TestWithParam<Family> {
 protected:
  void SetUp() override {
    model_ = load(GetParam(), file_);
    if (model_ == nullptr) GTEST_SKIP() << test::no_llama_cpp;
  }

  /// What is fed for each of two turns.
  std::vector<Tokens> fed() const {
    const TemporaryFile first("The pot holds 7 litres."), second("Another text.");
    reading::Options options;
    options.turns = {{.document = first.path(), .question = "How much?"},
                     {.document = second.path(), .question = "And now?"}};
    const Text text(*model_, file_.path());
    std::vector<Tokens> turns;
    for (reading::Prompt& prompt : reading::prompts_of(text, options, reading::open_documents(options))) {
      Tokens& turn = turns.emplace_back();
      prompt.feed_to([&](std::span<const Token> tokens, reading::Part) {
        turn.insert(turn.end(), tokens.begin(), tokens.end());
      });
    }
    return turns;
  }

  /// What llama.cpp makes of the conversation's first messages at once.
  Tokens whole(std::size_t messages) const {
    const llama_chat_message all[] = {{"user", "The pot holds 7 litres.\n\nHow much?"},
                                      {"assistant", GetParam().answer.c_str()},
                                      {"user", "Another text.\n\nAnd now?"}};
    std::string words(4096, '\0');
    words.resize(static_cast<std::size_t>(
        llama_chat_apply_template(GetParam().chat_template, all, messages, true, words.data(), 4096)));
    Tokens tokens(words.size() + 2);
    tokens.resize(static_cast<std::size_t>(llama_tokenize(
        llama_model_get_vocab(model_.get()), words.data(), static_cast<std::int32_t>(words.size()),
        tokens.data(), static_cast<std::int32_t>(tokens.size()), true, true)));
    return tokens;
  }

 private:
  const TemporaryFile file_;
  llama_model_ptr model_;
};

TEST_P(Conversation, IsFedAsLlamaCppTokenizesIt) {
  const std::vector<Tokens> turns = fed();
  EXPECT_EQ(turns.at(0), whole(1));
  const Tokens both = whole(3);
  const Tokens& second = turns.at(1);
  ASSERT_GE(both.size(), second.size());
  EXPECT_EQ(second, Tokens(both.end() - static_cast<std::ptrdiff_t>(second.size()), both.end()));
}

constexpr const char *spm = "llama-spm", *bpe = "llama-bpe";
const std::string seven = " Seven litres.";

INSTANTIATE_TEST_SUITE_P(
    Of, Conversation,
    testing::Values(Family{"Llama2", spm, "[INST] <<SYS>>", {}, seven},
                    Family{"Llama2WithBos", spm, "[INST] <<SYS>> bos_token + '[INST]", {}, seven},
                    Family{"Mistral1", spm, "' [INST] ' + system_message [INST]"},
                    Family{"OpenChat", spm, "GPT4 Correct ", {"<|end_of_turn|>"}},
                    Family{"Llama3", bpe, "<|start_header_id|><|end_header_id|>"},
                    Family{"ChatMl", bpe, "<|im_start|>", {"<|im_start|>", "<|im_end|>"}},
                    Family{"Gemma", bpe, "<start_of_turn>", {"<start_of_turn>", "<end_of_turn>"}}),
    [](const auto& family) { return family.param.name; });

TEST(ChatTemplate, HasItsOwnSystemMessage) {
  const TemporaryFile file;
  const llama_model_ptr model =
      load({"Qwen", bpe,
            "<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\\n{{ '<|im_start|>' }}"},
           file);
  if (model == nullptr) GTEST_SKIP() << test::no_llama_cpp;
  const Text text(*model, file.path());
  const reading::ChatTemplate& chat = text.chat();
  EXPECT_EQ(decoded(text, chat.user.tokens) + chat.user.space,
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n<|im_start|>user\n");
  EXPECT_EQ(decoded(text, chat.next_user.tokens) + chat.next_user.space, "<|im_end|>\n<|im_start|>user\n");
}

TEST(ChatTemplate, ThatIsUnknownIsRefused) {
  const TemporaryFile file;
  const llama_model_ptr model = load({"Unknown", spm, "{{ messages }}"}, file);
  if (model == nullptr) GTEST_SKIP() << test::no_llama_cpp;
  try {
    const Text text(*model, file.path());
    FAIL() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "llama.cpp does not know the model's chat template");
  }
}

}  // namespace
}  // namespace llama_cpp
