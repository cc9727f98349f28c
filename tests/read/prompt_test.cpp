// How the programs stream a turn's prompt into a reader. What needs the real model skips without it.
#include "prompt.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "document.hpp"
#include "fake_text.hpp"
#include "infinipot/infinipot.hpp"
#include "long_text.hpp"
#include "needle.hpp"
#include "options.hpp"
#include "report.hpp"
#include "smollm2/chat.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/test_files.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2/tokenizer.hpp"
#include "smollm2_text.hpp"
#include "temporary_file.hpp"
#include "turn.hpp"

namespace reading {
namespace {

using test::long_text;
using test::TemporaryFile;
using Tokens = std::vector<Token>;

struct Fed {
  Tokens tokens;
  std::size_t header = 0, document = 0, question = 0;
  std::uint64_t document_tokens = 0;
};

Fed feed(Prompt& prompt, std::size_t chunk, bool recorded = false) {
  const std::size_t length = recorded ? prompt.record() : 0;
  Fed fed;
  prompt.feed_to([&](std::span<const Token> tokens, Part part) {
    fed.tokens.insert(fed.tokens.end(), tokens.begin(), tokens.end());
    if (part == Part::header) fed.header += tokens.size();
    if (part == Part::document) fed.document += tokens.size();
    if (part == Part::question) fed.question += tokens.size();
    if (part == Part::document) {
      EXPECT_LE(tokens.size(), chunk);
    }
  });
  EXPECT_EQ(fed.header, prompt.header_tokens());
  EXPECT_EQ(length, recorded ? fed.tokens.size() : 0);
  fed.document_tokens = prompt.document_tokens();
  return fed;
}

Options one_question(const std::string& question, const std::string& answer_prefix) {
  Options options;
  options.turns = {{.question = question, .answer_prefix = answer_prefix}};
  options.chunk = 7;
  return options;
}

Fed feed_first(const TextModel& model, const Options& options, const std::string& document,
               bool recorded = false) {
  const TemporaryFile file(document);
  Prompt prompt(model, model.chat().user, options, options.turns[0], Document(file.path()));
  return feed(prompt, options.chunk, recorded);
}

/// Tokens of a document that is cut after so many are the first ones, and the rest of the prompt is the same.
void expect_cut_at_max_tokens(const TextModel& model, Options options, const std::string& text) {
  const Fed whole = feed_first(model, options, text);
  const std::size_t lead = whole.document - whole.document_tokens;
  for (const std::size_t most :
       {std::size_t{0}, std::size_t{1}, std::size_t{6}, std::size_t{7}, std::size_t{40},
        static_cast<std::size_t>(whole.document_tokens) - 1, static_cast<std::size_t>(whole.document_tokens),
        static_cast<std::size_t>(whole.document_tokens) + 1}) {
    options.max_tokens = most;
    const Fed fed = feed_first(model, options, text);
    EXPECT_EQ(fed.document_tokens, std::min<std::uint64_t>(most, whole.document_tokens)) << most;
    const auto at = [&](std::size_t i) { return whole.tokens.begin() + static_cast<std::ptrdiff_t>(i); };
    Tokens expected(at(0), at(fed.header + lead + fed.document_tokens));
    expected.insert(expected.end(), at(whole.header + whole.document), whole.tokens.end());
    EXPECT_EQ(fed.tokens, expected) << most;
  }
}

TEST(Prompt, WithoutADocumentIsTheQuestion) {
  const test::GroupingText model;
  const Options options = one_question("Why so?", "It");
  Prompt prompt(model, model.chat().next_user, options, options.turns[0], std::nullopt);
  EXPECT_FALSE(prompt.progress().has_value());
  const Fed fed = feed(prompt, options.chunk);
  EXPECT_EQ(fed.header, 2U);
  EXPECT_EQ(fed.document, 0U);
  EXPECT_EQ(fed.document_tokens, 0U);
  Tokens expected{model.end_mark, model.user_mark};
  for (const Token token : model.tokens("\nWhy so?")) expected.push_back(token);
  expected.insert(expected.end(), {model.end_mark, model.answer_mark});
  for (const Token token : model.tokens("\nIt")) expected.push_back(token);
  EXPECT_EQ(fed.tokens, expected);
}

TEST(Prompt, CutsTheDocumentOfAnyVocabulary) {
  // Without a full stop at its end, which Llama 3 joins with the blank line.
  const std::string text = long_text() + "The end";
  expect_cut_at_max_tokens(test::GroupingText(), one_question("Why?", "It"), text);
  expect_cut_at_max_tokens(test::SpaceText(), one_question("Why?", "It"), text);
}

TEST(Prompt, HasOneSpaceInFrontOfTheTextWhereEveryTextGetsOne) {
  const test::SpaceText model;
  const Fed fed = feed_first(model, one_question("Why?", "It"), "One two\nthree");
  EXPECT_EQ(model.decoded(fed.tokens), " \nOne two\nthree\n\nWhy?\nIt");
  EXPECT_EQ(fed.document_tokens, model.tokens("\nOne two\nthree").size() - model.tokens("\n").size());
}

/// What a document, another without a question in front of it, and a question after both are as text.
std::string read_in_parts(const test::WordText& model, bool at_once) {
  const TemporaryFile first("One two"), second("three four."), both("One two\n\nthree four.");
  Options options;
  options.chunk = 3;
  options.turns = {{.document = first.path()}, {.document = second.path()}, {.question = "Why?"}};
  std::vector<Document> documents;
  if (at_once) {
    options.turns = {{.document = both.path(), .question = "Why?"}};
    documents.emplace_back(both.path());
  } else {
    documents.emplace_back(first.path());
    documents.emplace_back(second.path());
  }
  Tokens all;
  for (Prompt& prompt : prompts_of(model, options, std::move(documents))) {
    const Fed fed = feed(prompt, options.chunk);
    EXPECT_EQ(prompt.has_question(), fed.question > 0);
    all.insert(all.end(), fed.tokens.begin(), fed.tokens.end());
  }
  return model.decoded(all);
}

TEST(Prompt, ADocumentMayGoWithoutAQuestion) {
  const test::GroupingText grouping;
  EXPECT_EQ(read_in_parts(grouping, false), read_in_parts(grouping, true));
  const test::SpaceText space;
  EXPECT_EQ(read_in_parts(space, false), read_in_parts(space, true));
  EXPECT_EQ(read_in_parts(space, false), " \nOne two\n\nthree four.\n\nWhy?\n");
}

TEST(Prompt, MaxTokensAreOfADocumentWithoutAQuestionToo) {
  const test::GroupingText model;
  const std::string text = long_text();
  const TemporaryFile file(text);
  Options options;
  options.turns = {{.document = file.path()}};
  options.chunk = 7;
  const auto tokens = model.tokens("\n" + text);
  for (const std::size_t most : {0U, 1U, 40U}) {
    options.max_tokens = most;
    Prompt prompt(model, model.chat().user, options, options.turns[0], Document(file.path()));
    const Fed fed = feed(prompt, options.chunk);
    EXPECT_EQ(fed.document_tokens, most);
    EXPECT_EQ(Tokens(fed.tokens.begin() + 1, fed.tokens.end()),
              Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(most + 1)));
  }
}

TEST(Prompt, OpensWhereTheConversationStands) {
  const test::GroupingText model;
  const Options options = one_question("Why so?", "It");
  const auto fed_at = [&](Place place) {
    Prompt prompt(model, model.chat().user, options, options.turns[0], std::nullopt);
    prompt.open(Opening::at(place, model));
    return model.decoded(feed(prompt, options.chunk).tokens);
  };
  EXPECT_EQ(fed_at(Place::start), "\nWhy so?\nIt");
  EXPECT_EQ(fed_at(Place::header), "\nWhy so?\nIt");
  EXPECT_EQ(fed_at(Place::answer), "\nWhy so?\nIt");
  EXPECT_EQ(fed_at(Place::document), "\n\nWhy so?\nIt");
  EXPECT_EQ(Opening::at(Place::start, model).piece.tokens, model.chat().user.tokens);
  EXPECT_EQ(Opening::at(Place::answer, model).piece.tokens, model.chat().next_user.tokens);
  for (const Place place : {Place::header, Place::document})
    EXPECT_TRUE(Opening::at(place, model).piece.tokens.empty());
}

TEST(Prompt, BeginsWithWhatIsPinned) {
  const test::GroupingText model;
  Options options = one_question("Why so?", "It");
  options.pin = "name,age";
  const TemporaryFile file("Ann,7");
  std::vector<Document> documents;
  documents.emplace_back(file.path());
  options.turns.push_back(options.turns[0]);
  std::vector<Prompt> prompts = prompts_of(model, options, std::move(documents));
  const std::size_t header = prompts[0].header_tokens();
  const Fed fed = feed(prompts[0], options.chunk);
  EXPECT_EQ(model.decoded(fed.tokens), "\nname,age\nAnn,7\n\nWhy so?\nIt");
  EXPECT_EQ(model.decoded({fed.tokens.begin(), fed.tokens.begin() + static_cast<std::ptrdiff_t>(header)}),
            "\nname,age");
  EXPECT_EQ(model.decoded(feed(prompts[1], options.chunk).tokens), "\nWhy so?\nIt");
}

class ReadPrompt : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    file_.emplace(*path);
    tokenizer_.emplace(*file_);
    model_.emplace(*file_);
  }

  Fed feed(const std::string& document, bool recorded = false) const {
    return feed_first(*model_, options_, document, recorded);
  }

  static std::string header() {
    return "<|im_start|>system\n" + std::string(smollm2::default_system_message) +
           "<|im_end|>\n<|im_start|>user\n";
  }

  Tokens at_once(const std::string& document) const {
    return tokenizer_->encode(header() + document + "\n\n" + options_.turns[0].question +
                                  "<|im_end|>\n<|im_start|>assistant\n" + options_.turns[0].answer_prefix,
                              smollm2::Specials::parse);
  }

  std::size_t tokens_in(const std::string& text) const {
    return tokenizer_->encode(text, smollm2::Specials::as_text).size();
  }

  std::optional<smollm2::GgufFile> file_;
  std::optional<smollm2::Tokenizer> tokenizer_;
  std::optional<Smollm2Text> model_;
  Options options_ = one_question("What is the password?", "The password");
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
  expect_cut_at_max_tokens(*model_, options_, long_text() + "End.");
}

TEST_F(ReadPrompt, SeveralTurnsEqualTheConversationTokenizedAtOnce) {
  const TemporaryFile first("\n\n One text.\n" + long_text()), second("  Another\n\n");
  options_.turns = {{.document = first.path(), .question = "Why?", .answer_prefix = "Because"},
                    {.document = second.path(), .question = "Who?"},
                    {.question = "  And now?", .answer_prefix = "Now"}};
  std::vector<Prompt> prompts = prompts_of(*model_, options_, open_documents(options_));
  ASSERT_EQ(prompts.size(), 3U);
  const std::vector<std::string> answers{" of rain.", "Yes.", " it ends"};
  Tokens all;
  for (std::size_t k = 0; k < prompts.size(); ++k) {
    const Fed fed = reading::feed(prompts[k], options_.chunk, k == 1);
    all.insert(all.end(), fed.tokens.begin(), fed.tokens.end());
    EXPECT_EQ(fed.document > 0, k < 2);
    model_->encode(answers[k], all);
  }

  const std::string to_answer = "<|im_end|>\n<|im_start|>assistant\n",
                    to_user = "<|im_end|>\n<|im_start|>user\n";
  EXPECT_EQ(all, tokenizer_->encode(header() + first.content() + "\n\nWhy?" + to_answer + "Because of rain." +
                                        to_user + second.content() + "\n\nWho?" + to_answer + "Yes." +
                                        to_user + "  And now?" + to_answer + "Now it ends",
                                    smollm2::Specials::parse));
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
      {.shape = weights.config().shape(), .capacity = 72, .rope = weights.config().rope(72)});
  smollm2::LlamaEngine engine(weights, pot, pool, 64);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.sinks = 0});
  options_.chunk = 64;
  options_.pin = "This is a story about a lighthouse.";
  Prompt prompt(*model_, Opening::at(Place::start, *model_, options_.pin), options_, options_.turns[0],
                Document(file.path()));
  Gold gold({"lighthouse is marigold"});
  TurnReport figures;
  Timeline timeline(0);
  Place place = Place::start;
  prefill(
      reader, prompt, place, *model_, {{&gold, 1}, timeline}, [](std::span<const Token>, Progress&) {}, [] {},
      figures);

  EXPECT_GT(reader.stats().distillations, 8U);
  EXPECT_GT(prompt.header_tokens(), model_->chat().user.tokens.size() + 6);
  const std::vector<Token> all = at_once(options_.pin + "\n" + long_text());
  const std::size_t header = prompt.header_tokens();
  for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
    for (std::size_t i = 0; i < header; ++i) {
      ASSERT_EQ(pot.entries().positions(lane)[i], i);
      ASSERT_EQ(pot.entries().tokens(lane)[i], all[i]);
      ASSERT_NE(pot.entries().pinned(lane)[i], 0);
    }
  // Gold's positions are those of the prompt.
  ASSERT_TRUE(gold.found());
  std::string phrase;
  for (const std::uint64_t position : gold.positions()) phrase += tokenizer_->decode(all[position]);
  EXPECT_NE(phrase.find("lighthouse is marigold"), std::string::npos) << phrase;
  EXPECT_EQ(gold.kept(pot.entries()), 0.0);  // StreamingLLM has long dropped it
}

}  // namespace
}  // namespace reading
