// How the program streams its prompt into a reader. All of it needs the real model and skips without it.
#include "prompt.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "long_text.hpp"
#include "needle.hpp"
#include "options.hpp"
#include "report.hpp"
#include "session.hpp"
#include "smollm2/chat.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/test_files.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2/tokenizer.hpp"
#include "temporary_file.hpp"

namespace reading {
namespace {

using test::long_text;
using test::TemporaryFile;

class ReadPrompt : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    file_.emplace(*path);
    tokenizer_.emplace(*file_);
    chat_.emplace(*file_, *tokenizer_);
    options_.question = "What is the password?";
    options_.answer_prefix = "The password";
    options_.chunk = 7;
  }

  struct Fed {
    std::vector<Token> tokens;
    std::size_t header = 0, document = 0;
    std::uint64_t document_tokens = 0;
  };

  Fed feed(const std::string& document, bool recorded = false) const {
    const TemporaryFile file(document);
    Prompt prompt(*tokenizer_, *chat_, options_, Document(file.path()));
    const std::size_t length = recorded ? prompt.record() : 0;
    Fed fed;
    prompt.feed_to([&](std::span<const Token> tokens, Part part) {
      fed.tokens.insert(fed.tokens.end(), tokens.begin(), tokens.end());
      if (part == Part::header) fed.header += tokens.size();
      if (part == Part::document) fed.document += tokens.size();
    });
    EXPECT_EQ(fed.header, prompt.header_tokens());
    EXPECT_EQ(length, recorded ? fed.tokens.size() : 0);
    fed.document_tokens = prompt.document_tokens();
    return fed;
  }

  std::vector<Token> at_once(const std::string& document) const {
    return tokenizer_->encode("<|im_start|>system\n" + std::string(smollm2::default_system_message) +
                                  "<|im_end|>\n<|im_start|>user\n" + document + "\n\n" + options_.question +
                                  "<|im_end|>\n<|im_start|>assistant\n" + options_.answer_prefix,
                              smollm2::Specials::parse);
  }

  std::size_t tokens_in(const std::string& text) const {
    return tokenizer_->encode(text, smollm2::Specials::as_text).size();
  }

  std::optional<smollm2::GgufFile> file_;
  std::optional<smollm2::Tokenizer> tokenizer_;
  std::optional<smollm2::ChatTemplate> chat_;
  Options options_;
};

TEST_F(ReadPrompt, EqualsTheTemplateTokenizedAtOnce) {
  for (const std::string& document : {std::string(), std::string("One"), std::string("\n\n  Two words \n"),
                                      std::string("\n\n\n"), long_text(), long_text() + long_text()}) {
    EXPECT_EQ(feed(document).tokens, at_once(document));
    EXPECT_EQ(feed(document, true).tokens, at_once(document));
  }
}

TEST_F(ReadPrompt, CountsTheDocumentsTokens) {
  EXPECT_EQ(feed("").document_tokens, 0U);
  EXPECT_EQ(feed("One").document_tokens, 1U);
  EXPECT_EQ(feed(long_text() + "End.").document_tokens, tokens_in(long_text() + "End."));
  EXPECT_EQ(feed(long_text() + "End.", true).document_tokens, tokens_in(long_text() + "End."));
}

TEST_F(ReadPrompt, CutsTheDocumentAtMaxTokens) {
  const std::string text = long_text() + "End.";
  const std::size_t length = tokens_in(text);
  const std::vector<Token> all = feed(text).tokens;
  const std::size_t rest = all.size() - feed(text).header - 1 - length;  // from the blank line on
  for (const std::size_t most : {std::size_t{0}, std::size_t{1}, std::size_t{6}, std::size_t{7},
                                 std::size_t{100}, length - 1, length, length + 1}) {
    options_.max_tokens = most;
    const Fed fed = feed(text);
    EXPECT_EQ(fed.document_tokens, std::min(most, length)) << most;
    std::vector<Token> expected(
        all.begin(), all.begin() + static_cast<std::ptrdiff_t>(fed.header + 1 + fed.document_tokens));
    expected.insert(expected.end(), all.end() - static_cast<std::ptrdiff_t>(rest), all.end());
    EXPECT_EQ(fed.tokens, expected) << most;
  }
}

TEST_F(ReadPrompt, CutsALongWordAtMaxTokens) {
  options_.max_tokens = 20;
  const Fed fed = feed(std::string(3000, 'x'));
  EXPECT_EQ(fed.document_tokens, 20U);
  options_.max_tokens.reset();
  EXPECT_EQ(fed.tokens.size(), fed.header + feed("").tokens.size() - fed.header + 1 + 20U);
}

TEST_F(ReadPrompt, HeaderStaysThroughManyDistillations) {
  const TemporaryFile file(long_text());
  smollm2::ThreadPool pool;
  const smollm2::LlamaWeights weights(*file_, pool);
  infinipot::Pot<float> pot(
      {.shape = weights.config().shape(), .capacity = 72, .rope = weights.config().rope()});
  smollm2::LlamaEngine engine(weights, pot, pool, 64);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.sinks = 0});
  options_.chunk = 64;
  Prompt prompt(*tokenizer_, *chat_, options_, Document(file.path()));
  Needle needle("lighthouse is marigold");
  Report figures;
  prefill(reader, prompt, *tokenizer_, needle, figures);

  EXPECT_GT(reader.stats().distillations, 8U);
  const std::vector<Token> all = at_once(long_text());
  const std::size_t header = prompt.header_tokens();
  for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
    for (std::size_t i = 0; i < header; ++i) {
      ASSERT_EQ(pot.entries().positions(lane)[i], i);
      ASSERT_EQ(pot.entries().tokens(lane)[i], all[i]);
      ASSERT_NE(pot.entries().pinned(lane)[i], 0);
    }
  // The needle's positions are those of the prompt.
  ASSERT_TRUE(needle.found());
  std::string phrase;
  for (const std::uint64_t position : needle.positions()) phrase += tokenizer_->decode(all[position]);
  EXPECT_NE(phrase.find("lighthouse is marigold"), std::string::npos) << phrase;
  EXPECT_EQ(needle.hit_rate(pot.entries()), 0.0);  // StreamingLLM has long dropped it
}

}  // namespace
}  // namespace reading
