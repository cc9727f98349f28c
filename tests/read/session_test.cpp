// Whole conversations with a toy model, whose vocabulary is single characters.
#include "session.hpp"

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

#include "backend.hpp"
#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "options.hpp"
#include "report.hpp"
#include "temporary_file.hpp"
#include "text_model.hpp"
#include "texts.hpp"
#include "toy_engine.hpp"

namespace reading {
namespace {

using test::TemporaryFile;
using Tokens = std::vector<Token>;
using Positions = std::vector<std::uint64_t>;

/// Letters, some marks and white space; what else the toy model has are control tokens.
class CharacterText : public TextModel {
 public:
  static constexpr Token end_mark = 47, user_mark = 48, answer_mark = 49;

  CharacterText() {
    chat_ = {{{46, 45, user_mark}, "\n"}, {{end_mark, answer_mark}, "\n"}, {{end_mark, user_mark}, "\n"}};
  }

  void encode(std::string_view text, Tokens& out) const override {
    for (const char c : text)
      if (const std::size_t at = characters.find(c); at != std::string_view::npos)
        out.push_back(static_cast<Token>(at));
  }
  std::string decode(Token token) const override {
    const auto at = static_cast<std::size_t>(token);
    return at < characters.size() ? std::string(1, characters[at]) : std::string();
  }
  bool is_end(Token token) const override { return token == end_mark; }
  const ChatTemplate& chat() const override { return chat_; }

  Tokens tokens(std::string_view text) const {
    Tokens out;
    encode(text, out);
    return out;
  }

 private:
  static constexpr std::string_view characters = "abcdefghijklmnopqrstuvwxyz .?\n";

  ChatTemplate chat_;
};

/// What ran through the engine of a conversation; forks leave no trace here.
struct Log {
  Tokens read;
  std::vector<std::pair<std::size_t, Tokens>> probes;  ///< and how much was read before each
  std::size_t longest_call = 0;
  std::size_t batch = 0, memories = 0, forks = 0;
  bool forks_announced = false;
};

using Pot = infinipot::Pot<float>;

class LoggedEngine {
 public:
  LoggedEngine(const toy::Model& model, Pot& pot, Log* log) : engine_(model, pot), log_(log) {}

  infinipot::Shape shape() const { return engine_.shape(); }
  std::size_t vocab_size() const { return engine_.vocab_size(); }

  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    note(tokens);
    if (log_ != nullptr) log_->read.insert(log_->read.end(), tokens.begin(), tokens.end());
    engine_.forward(tokens, first, logits);
  }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& queries) {
    note(tokens);
    if (log_ != nullptr) log_->probes.emplace_back(log_->read.size(), Tokens{tokens.begin(), tokens.end()});
    engine_.forward(tokens, first, logits, queries);
  }

 private:
  void note(std::span<const Token> tokens) {
    if (log_ != nullptr) log_->longest_call = std::max(log_->longest_call, tokens.size());
  }

  toy::QueryEngine<Pot> engine_;
  Log* log_;
};

class Memory {
 public:
  Memory(const toy::Model& model, Pot pot, Log* log)
      : model_(model), log_(log), pot_(std::move(pot)), engine_(model, pot_, log) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Pot& store() { return pot_; }
  LoggedEngine& engine() { return engine_; }
  std::uint64_t bytes() const { return 12345; }
  Memory fork() const {
    ++log_->forks;
    return {model_, pot_.fork(), nullptr};
  }

 private:
  const toy::Model& model_;
  Log* log_;
  Pot pot_;
  LoggedEngine engine_;
};

class ToyBackend {
 public:
  const CharacterText& text() const { return text_; }
  std::uint64_t bytes_per_token() const { return 7; }
  Memory memory(const Options& options, std::size_t batch, bool forks) {
    ++log.memories;
    log.batch = batch;
    log.forks_announced = forks;
    return {model_, toy::make_pot(model_, options.pot, options.keep, granularity_of(options)), &log};
  }

  Log log;

 private:
  CharacterText text_;
  toy::Model model_;
};

static_assert(Backend<ToyBackend>);

Options options_of(std::vector<Turn> turns, const std::string& policy = "streaming_llm") {
  Options options;
  options.turns = std::move(turns);
  options.policy = policy;
  options.pot = 40;
  options.keep = 20;
  options.granularity = "shared";
  options.kernel = 1;
  options.sinks = 2;
  options.chunk = 8;
  options.generate = 5;
  options.report_kept = true;
  return options;
}

Report run(ToyBackend& backend, Options& options) {
  AnswerStream silent(-1);
  return run_session(backend, options, open_documents(options), silent);
}

std::string letters(std::size_t count, char first) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += static_cast<char>(first + static_cast<char>(i % 7));
  return text;
}

Tokens operator+(Tokens first, const Tokens& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

class Session : public testing::Test {
 protected:
  Options three_turns(const std::string& policy = "streaming_llm") const {
    return options_of({{.document = first_.path(), .question = "why?", .answer_prefix = "it"},
                       {.document = second_.path(), .question = "who then?"},
                       {.question = "so", .answer_prefix = "yes"}},
                      policy);
  }

  const TemporaryFile first_{letters(90, 'a') + " the needle. " + letters(30, 'a')},
      second_{letters(50, 'h') + " more hay" + letters(9, 'h')};
};

TEST_F(Session, ReadsTheConversationAsOneStream) {
  ToyBackend backend;
  Options options = three_turns();
  const Report report = run(backend, options);
  ASSERT_EQ(report.turns.size(), 3U);

  // Generated tokens are known from the stream only.
  const CharacterText& text = backend.text();
  Tokens expected;
  const auto answer = [&](const TurnReport& turn) {
    Tokens tokens;
    std::string decoded;
    for (std::size_t i = 0; i < turn.answer_tokens; ++i) {
      tokens.push_back(backend.log.read.at(expected.size() + i));
      decoded += text.decode(tokens.back());
    }
    EXPECT_EQ(decoded, turn.answer_text);
    return tokens;
  };
  expected = text.chat().user.tokens + text.tokens("\n" + first_.content() + "\n\nwhy?") +
             text.chat().assistant.tokens + text.tokens("\nit");
  EXPECT_EQ(report.turns[0].prompt_tokens, expected.size());
  expected = expected + answer(report.turns[0]);
  expected = expected + text.chat().next_user.tokens +
             text.tokens("\n" + second_.content() + "\n\nwho then?") + text.chat().assistant.tokens +
             text.tokens("\n");
  expected = expected + answer(report.turns[1]);
  expected = expected + text.chat().next_user.tokens + text.tokens("\nso") + text.chat().assistant.tokens +
             text.tokens("\nyes");
  expected = expected + answer(report.turns[2]);
  EXPECT_EQ(backend.log.read, expected);

  EXPECT_EQ(report.turns[0].document_position, 4U);
  EXPECT_EQ(backend.log.read.at(4), text.tokens("a").front());
  EXPECT_EQ(backend.log.read.at(report.turns[1].document_position.value()), text.tokens("h").front());
  EXPECT_FALSE(report.turns[2].document_position.has_value());
  EXPECT_EQ(report.turns[0].document_tokens, first_.content().size());
  EXPECT_EQ(report.turns[1].document_tokens, second_.content().size());
  EXPECT_EQ(report.turns[2].document_tokens, 0U);
  EXPECT_EQ(report.document_tokens(), first_.content().size() + second_.content().size());
  EXPECT_EQ(report.prompt_tokens(), expected.size() - report.turns[0].answer_tokens -
                                        report.turns[1].answer_tokens - report.turns[2].answer_tokens);
  EXPECT_EQ(report.full_cache_bytes, 7 * expected.size());
  EXPECT_EQ(report.pot_bytes, 12345U);
  EXPECT_EQ(report.pot_capacity, 40U);
  EXPECT_GT(report.distillations, 5U);
  EXPECT_GT(report.turns[2].prefill_seconds, 0);
  EXPECT_NEAR(
      report.prefill_seconds(),
      report.turns[0].prefill_seconds + report.turns[1].prefill_seconds + report.turns[2].prefill_seconds,
      1e-9);
  EXPECT_EQ(backend.log.memories, 1U);
  EXPECT_FALSE(backend.log.forks_announced);
  // The longest catalyst, though nobody runs it: "\n\nwho then?" and three tokens up to the answer.
  EXPECT_EQ(backend.log.batch, 14U);
}

TEST_F(Session, MaxTokensAreOfEachDocument) {
  ToyBackend backend;
  Options options = three_turns();
  options.max_tokens = 25;
  const Report report = run(backend, options);
  EXPECT_EQ(report.turns[0].document_tokens, 25U);
  EXPECT_EQ(report.turns[1].document_tokens, 25U);
  EXPECT_EQ(report.turns[2].document_tokens, 0U);
}

/// Header and latest tokens: what is there when so many tokens were read, of which the header stays.
Positions header_and_latest(std::size_t header, std::size_t entries, std::size_t read) {
  Positions positions;
  for (std::uint64_t i = 0; i < header; ++i) positions.push_back(i);
  for (std::uint64_t i = read - (entries - header); i < read; ++i) positions.push_back(i);
  return positions;
}

TEST_F(Session, PinsTheFirstHeaderAlone) {
  ToyBackend backend;
  Options options = three_turns();
  const Report report = run(backend, options);
  const std::size_t read = backend.log.read.size() - report.turns[2].answer_tokens;
  EXPECT_EQ(report.kept, header_and_latest(3, report.pot_entries, read));
  options.report_kept = false;
  EXPECT_FALSE(run(backend, options).kept.has_value());
}

TEST_F(Session, TimelineHasASampleForEveryStretch) {
  ToyBackend backend;
  Options options = three_turns();
  EXPECT_TRUE(run(backend, options).timeline.empty());
  backend.log = {};
  options.timeline = 20;  // and chunks of 8
  const Report report = run(backend, options);
  const std::uint64_t read = backend.log.read.size() - report.turns[2].answer_tokens;
  ASSERT_GE(report.timeline.size(), read / 20 - 3);  // answers and questions are not interrupted
  Sample before;
  for (const Sample& sample : report.timeline) {
    EXPECT_GE(sample.tokens, before.tokens / 20 * 20 + 20);
    EXPECT_GE(sample.seconds, before.seconds);
    EXPECT_GE(sample.distillations, before.distillations);
    EXPECT_GT(sample.resident_bytes, 1U << 20U);
    EXPECT_LE(sample.resident_bytes, report.peak_rss_bytes);
    before = sample;
  }
  EXPECT_LE(before.tokens, read);
  EXPECT_GT(before.distillations, 5U);
}

/// What any engine says of a text that stays whole.
std::vector<float> nuc_without_dropping(const Tokens& tokens) {
  const toy::Model model;
  Pot pot = toy::make_pot(model, tokens.size() + 1, tokens.size(), infinipot::Granularity::shared);
  LoggedEngine engine(model, pot, nullptr);
  infinipot::Ccd reader(engine, pot, infinipot::SirLlm(1.0), {.keep = tokens.size()});
  reader.feed(tokens);
  const auto nuc = pot.entries().nuc(0);
  return {nuc.begin(), nuc.end()};
}

TEST_F(Session, NucIsOfAllTokensUnderEveryPolicy) {
  for (const char* policy : {"full", "streaming_llm", "infinipot", "truncation", "keydiff"}) {
    ToyBackend backend;
    Options options = three_turns(policy);
    options.block = 4;
    EXPECT_TRUE(run(backend, options).nuc.empty());
    backend.log = {};
    options.nuc = true;
    const Report report = run(backend, options);
    Tokens read = backend.log.read;
    read.resize(read.size() - report.turns[2].answer_tokens);
    const std::vector<float> expected = nuc_without_dropping(read);
    ASSERT_EQ(report.nuc.size(), expected.size()) << policy;
    // Until something is dropped; a pot that is never full agrees to the end.
    const std::size_t whole = std::string(policy) == "full" ? expected.size() : 20;
    for (std::size_t i = 0; i < whole; ++i)
      EXPECT_NEAR(report.nuc[i], expected[i], 1e-5) << policy << " " << i;
    for (std::size_t i = 1; i < expected.size(); ++i) EXPECT_GT(report.nuc[i], 0) << policy << " " << i;
  }
}

TEST_F(Session, NucIsWhatTheLogHas) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  options.report = "page.html";
  options.nuc = true;
  const Report report = run(backend, options);
  const std::vector<float>& log = report.log->nuc();
  ASSERT_GE(log.size(), report.nuc.size());
  EXPECT_TRUE(std::equal(report.nuc.begin(), report.nuc.end(), log.begin()));
}

TEST_F(Session, LogKnowsWhatWasHeldAfterEveryDistillation) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  EXPECT_FALSE(run(backend, options).log.has_value());
  backend.log = {};
  options.report = "page.html";  // is written by the program, not by the session
  const Report report = run(backend, options);
  ASSERT_TRUE(report.log.has_value());
  const PotLog& log = *report.log;

  std::string text, expected;
  for (const std::string& piece : log.texts()) text += piece;
  for (const Token token : backend.log.read) expected += backend.text().decode(token);
  EXPECT_EQ(text, expected);
  EXPECT_EQ(log.texts().size(), backend.log.read.size());

  ASSERT_EQ(log.distillations().size(), report.distillations + 1);  // and the end
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < report.distillations; ++i) {
    const PotLog::Distillation& d = log.distillations()[i];
    EXPECT_GT(d.tokens_read, before);
    before = d.tokens_read;
    EXPECT_EQ(d.kept.size(), options.keep);  // all heads share them
    EXPECT_GT(d.scores.size(), options.keep);
    for (const auto& [position, mask] : d.kept) {
      EXPECT_EQ(mask, PotLog::Mask{1});
      EXPECT_TRUE(d.scores.contains(position));
    }
  }
  EXPECT_EQ(log.distillations().back().tokens_read, backend.log.read.size());
  EXPECT_EQ(log.nuc().size(), backend.log.read.size());
}

TEST_F(Session, CatalystFollowsTheTurn) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  options.catalysts = {"@question"};
  const Report report = run(backend, options);
  const CharacterText& text = backend.text();
  const std::size_t second = report.turns[0].prompt_tokens + report.turns[0].answer_tokens,
                    third = second + report.turns[1].prompt_tokens + report.turns[1].answer_tokens;
  std::size_t per_turn[3] = {};
  for (const auto& [read, probe] : backend.log.probes) {
    const std::size_t turn = read > third ? 2 : read > second ? 1 : 0;
    EXPECT_EQ(probe, text.tokens("\n\n" + options.turns[turn].question)) << read;
    ++per_turn[turn];
  }
  EXPECT_EQ(per_turn[0] + per_turn[1] + per_turn[2], report.distillations);
  EXPECT_GT(per_turn[0], 1U);
  EXPECT_GT(per_turn[1], 1U);
  // Room for the longest of them is reserved from the start.
  EXPECT_EQ(backend.log.probes.front().first, 40 - text.tokens("\n\nwho then?").size());
}

TEST_F(Session, CatalystCanBeAllThatFollowsTheDocument) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  options.catalysts = {"@prompt"};
  options.pot = 60;
  options.turns[0].answer_prefix = "so";
  const Report report = run(backend, options);
  EXPECT_GT(report.turns[0].prompt_tokens, options.pot);
  std::vector<Token> expected = backend.text().tokens("\n\n" + options.turns[0].question);
  append_answer_header(backend.text(), options.turns[0], expected);
  const std::vector<Token> prefix = backend.text().tokens("so");
  ASSERT_FALSE(backend.log.probes.empty());
  const std::vector<Token>& probe = backend.log.probes.front().second;
  EXPECT_EQ(probe, expected);
  EXPECT_TRUE(std::equal(prefix.rbegin(), prefix.rend(), probe.rbegin()));
}

// Only what knows the question may go by its words.
TEST_F(Session, TermsAreTheWordsOfAQuestionThatIsKnown) {
  const ToyBackend backend;
  const CharacterText& text = backend.text();
  Options options = three_turns("infinipot");
  options.turns[1].terms = "who, then";
  const auto terms = [&](const std::string& catalyst) {
    options.catalysts = {catalyst};
    std::vector<std::vector<Token>> found;
    for (const Aim& aim : texts_of(text, options).aims) found.push_back(aim.terms);
    return found;
  };
  std::vector<Token> words;
  for (const char* word : {" who", " then"})
    for (const Token token : text.tokens(word)) words.push_back(token);
  for (const char* catalyst : {"@question", "@prompt"}) {
    EXPECT_EQ(terms(catalyst).at(1), words) << catalyst;
    EXPECT_FALSE(terms(catalyst).at(0).empty()) << catalyst;
  }
  EXPECT_TRUE(terms("@generic").at(0).empty());
  EXPECT_TRUE(terms("@generic").at(1).empty());
  EXPECT_TRUE(terms("what").at(0).empty());
  EXPECT_EQ(terms("what").at(1), words);
}

TEST_F(Session, OtherCatalystsStay) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  options.catalysts = {"what"};
  const Report report = run(backend, options);
  EXPECT_GT(report.distillations, 5U);
  EXPECT_EQ(backend.log.probes.size(), report.distillations);
  for (const auto& [read, probe] : backend.log.probes) EXPECT_EQ(probe, backend.text().tokens("what"));
}

TEST_F(Session, SeveralCatalystsRunInTurn) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  options.catalysts = {"what", "who and"};
  const Report report = run(backend, options);
  EXPECT_GT(report.distillations, 5U);
  ASSERT_EQ(backend.log.probes.size(), 2 * report.distillations);
  for (std::size_t i = 0; i < backend.log.probes.size(); ++i)
    EXPECT_EQ(backend.log.probes[i].second, backend.text().tokens(options.catalysts[i % 2])) << i;
}

TEST_F(Session, RefusesAPotWithoutRoomForTheLongestCatalyst) {
  ToyBackend backend;
  Options options = three_turns("infinipot");
  options.catalysts = {"@question"};
  options.keep = 28;
  EXPECT_NO_THROW(run(backend, options));
  options.turns[2].question = "so very long";
  EXPECT_THROW(run(backend, options), UsageError);
}

TEST_F(Session, FullHasRoomForAllTurns) {
  ToyBackend backend;
  Options options = three_turns("full");
  options.turns[1].answer = "longer than is generated";
  const Report report = run(backend, options);
  EXPECT_EQ(report.distillations, 0U);
  EXPECT_EQ(report.pot_capacity, report.prompt_tokens() + 5 + 24 + 5 + 1);
  EXPECT_EQ(report.pot_capacity, options.pot);
  Positions all(report.pot_entries);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  EXPECT_EQ(report.kept, all);
  EXPECT_EQ(all.size(), backend.log.read.size() - report.turns[2].answer_tokens);
}

TEST_F(Session, NeedlesAreOfAllDocumentsReadSoFar) {
  ToyBackend backend;
  Options options = three_turns();
  options.turns[0].needles = {"more hay"};    // is read later
  options.turns[1].needles = {"the needle"};  // was read before
  options.turns[2].needles = {"hay"};
  const Report report = run(backend, options);
  EXPECT_FALSE(report.turns[0].needle_position.has_value());
  EXPECT_FALSE(report.turns[0].hit_rate.has_value());
  EXPECT_EQ(report.turns[1].needle_position, 3 + 1 + first_.content().find("the needle"));
  EXPECT_EQ(report.turns[1].hit_rate, 0.0);
  EXPECT_EQ(report.turns[0].needle_tokens, 0U);
  EXPECT_EQ(report.turns[1].needle_tokens, 10U);
  const std::size_t hay = report.turns[2].needle_position.value();
  EXPECT_EQ(std::vector(backend.log.read.begin() + static_cast<std::ptrdiff_t>(hay),
                        backend.log.read.begin() + static_cast<std::ptrdiff_t>(hay + 3)),
            backend.text().tokens("hay"));

  Options full = three_turns("full");
  full.turns[1].needles = {"the needle"};
  EXPECT_EQ(run(backend, full).turns[1].hit_rate, 1.0);
}

TEST_F(Session, GoldIsMeasuredBeforeTheQuestion) {
  ToyBackend backend;
  const TemporaryFile text("the needle is red. more hay");
  const std::string question = letters(30, 'a');  // for which there is no room
  Options options = options_of({{.document = text.path(),
                                 .question = question,
                                 .answer = " red.",
                                 .needles = {"the needle is red.", "hay"}}},
                               "streaming_llm");
  const TurnReport turn = run(backend, options).last();
  EXPECT_EQ(turn.gold_kept, 1.0);
  EXPECT_EQ(turn.answer_kept, 1.0);
  EXPECT_EQ(turn.needle_tokens, 21U);
  EXPECT_LT(turn.hit_rate.value(), 1.0);

  options.turns[0].question.clear();  // the document's end, then
  options.turns[0].answer.clear();
  const TurnReport unasked = run(backend, options).last();
  EXPECT_EQ(unasked.gold_kept, 1.0);
  EXPECT_EQ(unasked.hit_rate, 1.0);
  EXPECT_FALSE(unasked.answer_kept.has_value());
}

TEST_F(Session, NeedlesSpanNoTwoDocuments) {
  ToyBackend backend;
  const TemporaryFile one("abc"), two("def");
  Options options = options_of({{.document = one.path(), .question = "why?"},
                                {.document = two.path(), .question = "so?", .needles = {"c\nd"}}});
  EXPECT_FALSE(run(backend, options).turns[1].needle_position.has_value());
}

TEST_F(Session, MeasuringAnswersDisturbsNothing) {
  ToyBackend plain, measuring;
  Options without = three_turns("infinipot"), with = without;
  with.turns[0].answer = "some answer";
  with.turns[2].answer = " x";
  const Report expected = run(plain, without), found = run(measuring, with);
  EXPECT_EQ(measuring.log.read, plain.log.read);
  EXPECT_EQ(measuring.log.probes, plain.log.probes);
  EXPECT_EQ(found.kept, expected.kept);
  EXPECT_TRUE(measuring.log.forks_announced);
  EXPECT_EQ(measuring.log.forks, 2U);
  EXPECT_EQ(plain.log.forks, 0U);
  EXPECT_GT(found.turns[0].answer_nll.value(), 0);
  EXPECT_FALSE(found.turns[1].answer_nll.has_value());
  EXPECT_GT(found.turns[2].answer_nll.value(), 0);
}

TEST_F(Session, RefusesTextsWithoutTokens) {
  ToyBackend backend;
  Options options = three_turns();
  options.turns[1].answer = "ABC";
  try {
    run(backend, options);
    ADD_FAILURE() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "--answer: the text has no tokens");
  }
}

/// What llama.cpp's context shift leaves when `read` tokens came one by one.
Positions shifted(std::size_t pot, std::size_t n_keep, std::size_t read) {
  Positions cells;
  for (std::uint64_t position = 0; position < read; ++position) {
    if (cells.size() == pot) {
      const std::size_t n_left = cells.size() - n_keep, n_discard = n_left / 2;
      const auto from = cells.begin() + static_cast<std::ptrdiff_t>(n_keep);
      cells.erase(from, from + static_cast<std::ptrdiff_t>(n_discard));
    }
    cells.push_back(position);
  }
  return cells;
}

TEST_F(Session, ContextShiftIsLlamaCpps) {
  for (const std::size_t pot : {20U, 31U, 40U})
    for (const std::size_t sinks : {0U, 3U, 8U}) {
      ToyBackend backend;
      Options options = three_turns("context_shift");
      options.pot = pot;
      options.sinks = sinks;
      const Report report = run(backend, options);
      const std::size_t n_keep = std::max<std::size_t>(sinks, 3);
      EXPECT_EQ(report.kept, shifted(pot, n_keep, backend.log.read.size() - report.turns[2].answer_tokens))
          << pot << " " << sinks;
      EXPECT_EQ(options.keep, pot - (pot - n_keep) / 2);
      EXPECT_GT(report.distillations, 5U);
    }
}

TEST_F(Session, RefusesAContextShiftWithoutRoom) {
  ToyBackend backend;
  Options options = three_turns("context_shift");
  options.pot = 4;
  EXPECT_THROW(run(backend, options), UsageError);  // three tokens of the header and two more
}

}  // namespace
}  // namespace reading
