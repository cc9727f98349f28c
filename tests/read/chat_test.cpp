// Questions from standard input: the whole program on a tiny model.
#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include "terminal.hpp"
#include "tiny_reader.hpp"

namespace reading {
namespace {

using nlohmann::json;
using test::Arguments;
using test::for_the_shell;
using test::Outcome;
using test::run_program;
using test::RunningProgram;
using test::TinyReader;
using test::operator+;

const Arguments chat{"--chat"}, short_answers{"--generate", "7"};

class Chat : public TinyReader {
 protected:
  /// What --json writes of a chat with these lines.
  json chatted(const std::string& lines, const Arguments& more = {},
               const Arguments& length = short_answers) const {
    const Outcome outcome =
        run_program(with(chat + length + more + Arguments{"--json", folder_.path("r.json")}),
                    "<" + for_the_shell(folder_.file("lines", lines)));
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err.find("> "), std::string::npos) << outcome.err;
    json r = json::parse(folder_.content("r.json"));
    std::string answers;
    for (const json& turn : r.at("turns"))
      if (!turn.at("question").is_null()) answers += turn.at("answer_text").get<std::string>() + "\n";
    EXPECT_EQ(outcome.out, answers);
    return r;
  }

  /// Questions and answers.
  static json talk(const json& report) {
    json talk = json::array();
    for (const json& turn : report.at("turns")) talk.push_back({turn.at("question"), turn.at("answer_text")});
    return talk;
  }
};

TEST_F(Chat, EqualsAConversationOfTheSameQuestions) {
  // A policy that knows no question while reading.
  const Arguments blind{"--policy", "streaming_llm", "--document", document_};
  const json typed = chatted("\nwhy?\r\n  \nhow?", blind + Arguments{"--question", "who?"});
  const json given = run_program(with(blind + short_answers +
                                      Arguments{"--question", "who?", "--question", "why?", "--question",
                                                "how?", "--json", "-"}))
                         .json();
  EXPECT_EQ(talk(typed), talk(given));
  EXPECT_EQ(typed.at("turns").size(), 3U);
  EXPECT_EQ(typed.at("settings").at("question"), given.at("settings").at("question"));
  EXPECT_EQ(typed.at("settings").at("chat"), true);
  EXPECT_EQ(typed.at("prompt_tokens"), given.at("prompt_tokens"));
}

TEST_F(Chat, DocumentsAreReadFirst) {
  const std::string other = folder_.file("other.txt", "cab cab b");
  const json r = chatted("why?\n", {"--document", document_, "--document", other});
  ASSERT_EQ(r.at("turns").size(), 3U);
  EXPECT_EQ(r.at("turns").at(0).at("question"), nullptr);
  EXPECT_EQ(r.at("turns").at(0).at("answer_tokens"), 0);
  EXPECT_EQ(r.at("turns").at(1).at("document"), other);
  EXPECT_GT(r.at("turns").at(1).at("document_tokens"), 0);
  EXPECT_EQ(r.at("turns").at(2).at("question"), "why?");
  EXPECT_EQ(r.at("answer_tokens"), 7);
  // As if it were one document.
  const std::string both = folder_.file("both.txt", folder_.content("document.txt") + "\n\ncab cab b");
  const json one = chatted("why?\n", {"--document", both});
  EXPECT_EQ(talk(one).back(), talk(r).back());
  EXPECT_EQ(one.at("prompt_tokens"), r.at("prompt_tokens"));
}

TEST_F(Chat, NeedsNoQuestion) {
  const json r = chatted("");
  EXPECT_EQ(r.at("turns"), json::array());
  EXPECT_EQ(r.at("answer_text"), "");
  EXPECT_EQ(r.at("settings").at("question"), json::array());
  EXPECT_EQ(r.at("tokens_per_second"), nullptr);
}

TEST_F(Chat, EveryPolicyCan) {
  for (const char* policy : {"infinipot", "nuc", "reread", "snapkv", "tova", "keydiff"}) {
    const json r = chatted("why?\nwhy not?\nwho then, of all these?\n",
                           {"--policy", policy, "--document", document_, "--block", "9", "--window", "8"},
                           {"--generate", "90"});
    EXPECT_EQ(r.at("turns").size(), 4U) << policy;
    EXPECT_GT(r.at("distillations"), 1) << policy;
  }
}

TEST_F(Chat, QuestionsMayBeLongAndAnyBytes) {
  const json r = chatted(std::string(3000, 'a') + "\ncaf\xe9 \xff?\n", {"--policy", "infinipot"});
  ASSERT_EQ(r.at("turns").size(), 2U);
  EXPECT_GT(r.at("distillations"), 10);
  EXPECT_EQ(r.at("turns").at(1).at("question"), "caf\xef\xbf\xbd \xef\xbf\xbd?");
}

TEST_F(Chat, ATerminalIsAsked) {
  test::Terminal terminal;
  if (terminal.name().empty()) GTEST_SKIP() << "no pseudo-terminal";
  terminal.type("why?\n\nhow?\n\x04");
  const Outcome outcome = run_program(with(chat + short_answers), "<" + terminal.name());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err.find("> > > > \n"), 0U) << outcome.err;  // an empty line is asked for again
  EXPECT_EQ(outcome.out, run_program(with(chat + short_answers),
                                     "<" + for_the_shell(folder_.file("lines", "why?\nhow?\n")))
                             .out);
}

TEST_F(Chat, WritesNotWhereTheQuestionsComeFrom) {
  const std::string lines = folder_.file("lines", "why?\n");
  for (const char* option : {"--json", "--report", "--save"}) {
    const Outcome outcome = run_program(with(chat + Arguments{option, lines}), "<" + for_the_shell(lines));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.err, "infinipot-read: " + std::string(option) + ": " + lines +
                               " is where the questions come from\n");
  }
  EXPECT_EQ(folder_.content("lines"), "why?\n");
}

TEST_F(Chat, AnswersAtOnce) {
  RunningProgram program(with(chat + short_answers));
  std::size_t lines = 0;
  for (const char* question : {"why?\n", "how?\n", "who?\n"}) {
    program.write(question);
    const auto ended = [&](const std::string& text) {
      return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) > lines;
    };
    for (std::size_t bytes = 1; !ended(program.read(bytes)); ++bytes) ASSERT_LT(bytes, 10000U);
    ++lines;
  }
  program.close_input();
  EXPECT_EQ(program.wait().status, 0);
}

TEST_F(Chat, InterruptEndsAnAnswerAlone) {
  const Arguments endless{"--generate", "16000000", "--json", folder_.path("r.json")};
  RunningProgram program(with(chat + endless));
  for (const std::size_t bytes : {200U, 3000U}) {
    program.write("why?\n");
    ASSERT_GE(program.read(bytes).size(), bytes);
    program.send(SIGINT);
    std::string seen;
    do seen = program.read(program.read(0).size() + 1);
    while (seen.back() != '\n');
  }
  program.close_input();
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("interrupted after "), std::string::npos);
  const json r = json::parse(folder_.content("r.json"));
  ASSERT_EQ(r.at("turns").size(), 2U);
  EXPECT_EQ(r.at("interrupted"), false);
  for (const json& turn : r.at("turns")) EXPECT_EQ(turn.at("interrupted"), true);
}

TEST_F(Chat, TerminateEndsIt) {
  RunningProgram program(with(chat + Arguments{"--generate", "16000000", "--json", folder_.path("r.json")}));
  program.write("why?\nhow?\n");
  program.read(200);
  program.send(SIGTERM);
  EXPECT_EQ(program.wait().status, 128 + SIGTERM);
  const json r = json::parse(folder_.content("r.json"));
  EXPECT_EQ(r.at("interrupted"), true);
  EXPECT_EQ(r.at("turns").size(), 1U);
}

TEST_F(Chat, InterruptWhileItWaitsEndsIt) {
  RunningProgram program(with(chat + short_answers + Arguments{"--json", folder_.path("r.json")}));
  program.write("why?\n");
  std::string seen;
  do seen = program.read(program.read(0).size() + 1);
  while (seen.back() != '\n');
  program.send(SIGINT);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_EQ(outcome.err.find("interrupted while waiting for a question\n"), 0U) << outcome.err;
  EXPECT_EQ(json::parse(folder_.content("r.json")).at("turns").size(), 1U);
}

}  // namespace
}  // namespace reading
