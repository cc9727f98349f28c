// Signals, closed pipes and full disks: the whole program on a tiny model.
#include "interrupt.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <set>
#include <string>
#include <thread>

#include "terminal.hpp"
#include "tiny_reader.hpp"

namespace reading {
namespace {

using nlohmann::json;
using test::Arguments;
using test::Outcome;
using test::run_program;
using test::RunningProgram;
using test::TinyReader;
using test::operator+;
using Names = std::set<std::string>;

const Arguments endless{"--generate", "16000000"};

/// By default, more than a pipe and the program's own buffers hold.
std::string much_text(std::size_t bytes = 90000) {
  std::string text;
  while (text.size() < bytes) text += "cab a bac bc ";
  return text;
}

TEST(Interrupt, IsNotedOnce) {
  const auto before = std::signal(SIGINT, SIG_DFL);
  {
    const InterruptGuard guard;
    EXPECT_EQ(interrupt_signal(), 0);
    std::raise(SIGINT);
    EXPECT_EQ(interrupt_signal(), SIGINT);
    EXPECT_THROW(check_interrupt(), Interrupted);
    EXPECT_EXIT(std::raise(SIGINT), testing::KilledBySignal(SIGINT), "");
    EXPECT_EXIT(std::raise(SIGTERM), testing::KilledBySignal(SIGTERM), "");
  }
  EXPECT_EXIT(std::raise(SIGTERM), testing::KilledBySignal(SIGTERM), "");
  {
    const InterruptGuard guard;
    EXPECT_EQ(interrupt_signal(), 0);
    std::signal(SIGINT, before);
  }
}

TEST(Interrupt, StaysIgnoredWhereItWas) {
  const auto before = std::signal(SIGINT, SIG_IGN);
  {
    const InterruptGuard guard;
    std::raise(SIGINT);
    EXPECT_EQ(interrupt_signal(), 0);
    std::raise(SIGTERM);
    EXPECT_EQ(interrupt_signal(), SIGTERM);
  }
  EXPECT_EQ(std::signal(SIGINT, before), SIG_IGN);
}

TEST_F(TinyReader, AnswersWhileItGenerates) {
  RunningProgram program(asked(endless));
  EXPECT_EQ(program.read(500).size(), 500U);  // of sixteen million tokens
  EXPECT_EQ(program.read(1000).size(), 1000U);
}

TEST_F(TinyReader, ATerminalShowsTheAnswerAfterTheProgress) {
  test::Terminal terminal;
  if (terminal.name().empty()) GTEST_SKIP() << "no pseudo-terminal";
  const std::string long_document = folder_.file("long", much_text(200000));
  const Outcome outcome = run_program(with({"--document", long_document, "--question", "why?", "--generate",
                                            "40", "--json", folder_.path("r.json")}),
                                      ">" + terminal.name() + " 2>&1");
  EXPECT_EQ(outcome.status, 0);
  const std::string& shown = terminal.shown();
  const std::size_t cleared = shown.rfind("\r\033[K") + 4;
  EXPECT_LT(shown.find("#"), cleared) << shown;  // of a bar
  std::string lines;                             // where a terminal has put \r before each \n
  for (const char c : shown.substr(cleared)) lines += c == '\r' ? "" : std::string(1, c);
  const json r = json::parse(folder_.content("r.json"));
  EXPECT_EQ(lines.find(r.at("answer_text").get<std::string>() + "\n"), 0U) << lines;
}

TEST_F(TinyReader, ReportsTheAnswerAsItWasPrinted) {
  const Outcome outcome = run_program(asked({"--generate", "300", "--json", folder_.path("r.json")}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json r = json::parse(folder_.content("r.json"));
  EXPECT_EQ(outcome.out, r.at("answer_text").get<std::string>() + "\n");
  EXPECT_GT(outcome.out.size(), 100U);
  EXPECT_EQ(r.at("interrupted"), false);
  EXPECT_EQ(run_program(asked({"--generate", "300", "--json", "-"})).json().at("answer_text"),
            r.at("answer_text"));
}

TEST_F(TinyReader, InterruptEndsTheAnswer) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string report = folder_.path("r.json"), page = folder_.path("p.html");
    RunningProgram program(
        asked(endless + Arguments{"--json", report, "--report", page, "--question", "how?", "--nuc"}));
    program.read(200);
    program.send(signal);
    const Outcome outcome = program.wait();
    EXPECT_EQ(outcome.status, 128 + signal) << outcome.err;
    const json r = json::parse(folder_.content("r.json"));
    EXPECT_EQ(r.at("interrupted"), true);
    EXPECT_EQ(r.at("turns").size(), 1U);
    EXPECT_EQ(r.at("nuc").size(), r.at("prompt_tokens"));
    EXPECT_GT(outcome.out.size(), 200U);
    EXPECT_EQ(outcome.out, r.at("answer_text").get<std::string>() + "\n");
    EXPECT_NE(
        outcome.err.find("interrupted after " + r.at("answer_tokens").dump() + " tokens of the answer\n"),
        std::string::npos)
        << outcome.err;
    EXPECT_NE(outcome.err.find(" tokens/s, "), std::string::npos);
    EXPECT_TRUE(folder_.content("p.html").ends_with("</html>\n"));
    EXPECT_EQ(folder_.names(), (Names{"model.gguf", "document.txt", "r.json", "p.html"}));
    for (const std::string& path : {report, page}) std::filesystem::remove(path);
  }
}

TEST_F(TinyReader, InterruptEndsReading) {
  for (const bool compute : {true, false}) {
    Arguments all = with({"--document", "-", "--question", "why?", "--json", folder_.path("r.json")});
    if (!compute) all = all + Arguments{"--policy", "full"};  // reads the whole document first
    RunningProgram program(all);
    program.write(much_text());
    program.send(SIGINT);  // while it computes, or waits for more
    const Outcome outcome = program.wait();
    EXPECT_EQ(outcome.status, 130) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("infinipot-read: interrupted "), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("before "), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find(" tokens of the prompt, ") != std::string::npos, compute) << outcome.err;
    EXPECT_EQ(folder_.names(), (Names{"model.gguf", "document.txt"}));
  }
}

TEST_F(TinyReader, InterruptWhileReadingKeepsEarlierAnswers) {
  RunningProgram program(asked({"--document", "-", "--question", "how?", "--json", folder_.path("r.json"),
                                "--report-kept", "--generate", "9"}));
  program.write(much_text());
  program.send(SIGINT);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  const json r = json::parse(folder_.content("r.json"));
  EXPECT_EQ(r.at("interrupted"), true);
  ASSERT_EQ(r.at("turns").size(), 1U);
  EXPECT_EQ(r.at("kept").size(), r.at("pot_entries"));
  EXPECT_EQ(outcome.out, r.at("turns").at(0).at("answer_text").get<std::string>() + "\n");
  EXPECT_NE(outcome.err.find(" tokens of the prompt, before its answer began (question 2)\n"),
            std::string::npos);
}

TEST_F(TinyReader, SecondInterruptEndsAtOnce) {
  // Nobody reads that pipe, so that the program waits there for ever.
  ASSERT_EQ(mkfifo(folder_.path("pipe").c_str(), 0600), 0);
  RunningProgram program(asked({"--generate", "1", "--json", folder_.path("pipe")}));
  program.read(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  program.send(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  program.send(SIGINT);
  EXPECT_EQ(program.wait().status, -SIGINT);
}

TEST_F(TinyReader, ClosedPipeEndsTheAnswerWithAWord) {
  RunningProgram program(asked(endless));
  program.read(100);
  program.close_output();
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.err, "infinipot-read: cannot write to standard output: Broken pipe\n");
}

TEST_F(TinyReader, ClosedPipeDoesNotCostTheFiles) {
  RunningProgram program(asked({"--generate", "20000", "--json", folder_.path("r.json")}));
  program.read(100);
  program.close_output();
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("infinipot-read: cannot write to standard output: Broken pipe\n"),
            std::string::npos);
  const json r = json::parse(folder_.content("r.json"));
  EXPECT_EQ(r.at("interrupted"), false);
  EXPECT_GT(r.at("answer_text").get<std::string>().size(), 1000U);
}

TEST_F(TinyReader, FullDiskCostsTheFileNotTheAnswer) {
  const std::string plain = run_program(asked()).out, old = folder_.file("old.json", "older");
  EXPECT_GT(plain.size(), 10U);
  if (std::filesystem::exists("/dev/full")) {
    const Outcome outcome =
        run_program(asked({"--json", "/dev/full", "--report", folder_.path("page.html")}));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, plain);
    EXPECT_TRUE(
        outcome.err.ends_with("infinipot-read: --json: cannot write /dev/full: No space left on device\n"))
        << outcome.err;
    EXPECT_TRUE(folder_.content("page.html").ends_with("</html>\n"));
    EXPECT_EQ(run_program(asked({"--report", "/dev/full"})).out, plain);
    const Outcome both = run_program(asked({"--json", "-"}), ">/dev/full");
    EXPECT_EQ(both.status, 2);
    EXPECT_NE(both.err.find("cannot write to standard output: No space left on device\n"), std::string::npos);
  }
}

TEST_F(TinyReader, OutputsMustBeNoInputs) {
  const std::string before = folder_.content("model.gguf");
  for (const char* option : {"--json", "--report"})
    for (const std::string& path : {model_, document_}) {
      const Outcome outcome = run_program(asked({option, path}));
      EXPECT_EQ(outcome.status, 2);
      EXPECT_EQ(outcome.out, "");
      EXPECT_EQ(outcome.err, "infinipot-read: " + std::string(option) + ": " + path +
                                 (path == model_ ? " is the model\n" : " is a document\n"));
    }
  const std::string out = folder_.file("out", "");
  const Outcome outcome = run_program(with({"--document", "-", "--question", "why?", "--json", document_}),
                                      "<" + test::for_the_shell(document_));
  EXPECT_EQ(outcome.err, "infinipot-read: --json: " + document_ + " is a document\n");
  EXPECT_EQ(run_program(asked({"--json", out}), ">" + test::for_the_shell(out)).err,
            "infinipot-read: --json: " + out + " is where standard output goes (--json - writes there)\n");
  EXPECT_EQ(folder_.content("model.gguf"), before);
  EXPECT_EQ(folder_.content("document.txt"), "a bac cab aa bcc");
}

// The answer stands in the file before the JSON, as it would on a terminal.
TEST_F(TinyReader, StandardOutputCanBeTheJsonsFile) {
  const std::string out = folder_.file("out", "");
  const Outcome outcome =
      run_program(asked({"--json", "/dev/stdout", "--generate", "9"}), ">" + test::for_the_shell(out));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::string text = folder_.content("out");
  const json r = json::parse(text.substr(text.find("\n{") + 1));
  EXPECT_EQ(text.find(r.at("answer_text").get<std::string>() + "\n{"), 0U);
}

TEST_F(TinyReader, AnyTopPIsANucleus) {
  const std::string greedy = run_program(asked()).out;
  for (const char* top_p : {"1e-300", "1e-400", "5e-324"}) {
    const Outcome outcome = run_program(asked({"--temperature", "1", "--top-p", top_p}));
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.out, greedy) << top_p;
  }
  EXPECT_EQ(run_program(asked({"--temperature", "1e-300"})).out, greedy);
}

}  // namespace
}  // namespace reading
