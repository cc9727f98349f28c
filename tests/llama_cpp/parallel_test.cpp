// infinipot-llama --conversations: many at once, each as alone.
#include <gtest/gtest.h>

#include <csignal>
#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "programs.hpp"
#include "read/running_program.hpp"
#include "read/temporary_folder.hpp"
#include "smollm2/tiny_chatting.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using test::Arguments;
using test::infinipot_llama;
using test::report_of;
using test::run;
using test::operator+;

class Parallel : public testing::Test {
 protected:
  /// What all are run with.
  Arguments settings(const Arguments& more = {}) const {
    return Arguments{"--model", model_,       "--threads", "1",       "--pot",
                     "400",     "--generate", "12",        "--chunk", "64"} +
           more;
  }
  std::string file(const json& conversations) const {
    return folder_.file("conversations.json", [&] { return conversations.dump(); }());
  }
  json together(const json& conversations, const Arguments& more = {}) const {
    return report_of(infinipot_llama, settings({"--conversations", file(conversations)}) + more);
  }
  /// The last line of what is written on standard error.
  std::string refusal(const Arguments& arguments) const {
    const auto outcome = run(infinipot_llama, settings(arguments));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  }

  std::string book(const std::string& name, std::size_t words) const {
    std::string text;
    for (std::size_t i = 0; i < words; ++i)
      text += i % 7 == name.size() ? "abba " : i % 3 == 0 ? "cab " : "a bc ";
    return folder_.file(name, text + "end.");
  }

  const reading::test::TemporaryFolder folder_;
  const std::string model_ = folder_.file("model.gguf", [] {
    const std::vector<std::byte> bytes = smollm2::test::tiny_chatting_file(smollm2::test::Answers::never_end);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }());
};

TEST_F(Parallel, EachIsAnsweredAsAlone) {
  json conversations = json::array();
  std::vector<Arguments> alone;
  for (std::size_t i = 0; i < 5; ++i) {
    const std::string first = book("b" + std::string(i, 'o') + "k", 200 + 40 * i),
                      second = book("more" + std::to_string(i), 90);
    conversations.push_back(
        {{"name", "n" + std::to_string(i)},
         {"turns", json::array({{{"document", first}, {"question", "why?"}, {"answer_prefix", "be"}},
                                {{"question", "how?"}},
                                {{"document", second}, {"question", "a cab?"}}})}});
    alone.push_back({"--document", first, "--question", "why?", "--answer-prefix", "be", "--question", "how?",
                     "--answer-prefix", "", "--question", "a cab?"});
  }
  for (const auto& [policy, parallel] :
       {std::pair("infinipot", "1"), {"snapkv", "3"}, {"streaming_llm", "8"}}) {
    SCOPED_TRACE(std::string(policy) + ", " + parallel);
    const json all = together(conversations, {"--parallel", parallel, "--policy", policy});
    ASSERT_EQ(all.at("conversations").size(), 5U);
    for (std::size_t i = 0; i < 5; ++i) {
      const json& one = all.at("conversations").at(i);
      EXPECT_EQ(one.at("name"), "n" + std::to_string(i));
      EXPECT_TRUE(one.at("error").is_null());
      EXPECT_GT(one.at("distillations"), 1);
      ASSERT_EQ(one.at("turns").size(), 3U);
    }
  }
  // Rounding to 16 bits could make another choice of two tokens that are equally probable.
  const Arguments exact{"--cache-type", "f32", "--flash-attention", "off"};
  // A document of a later turn alone cannot be said on the command line, so these have two turns.
  for (json& conversation : conversations) conversation.at("turns").erase(2);
  const json all = together(conversations, exact + Arguments{"--parallel", "4"});
  for (std::size_t i = 0; i < 5; ++i) {
    Arguments two = alone[i];
    two.resize(two.size() - 4);
    const json by_itself = report_of(infinipot_llama, settings(exact) + two);
    const json& one = all.at("conversations").at(i);
    for (const char* field :
         {"distillations", "prompt_tokens", "document_tokens", "pot_entries", "pot_bytes"})
      EXPECT_EQ(one.at(field), by_itself.at(field)) << field;
    for (std::size_t k = 0; k < 2; ++k)
      for (const char* field :
           {"answer_text", "answer_tokens", "document_tokens", "document_position", "question"})
        EXPECT_EQ(one.at("turns").at(k).at(field), by_itself.at("turns").at(k).at(field)) << field;
  }
}

/// Of one question each.
json asking(const std::vector<std::pair<std::string, std::string>>& names_and_questions) {
  json conversations = json::array();
  for (const auto& [name, question] : names_and_questions) {
    json one{{"turns", json::array({{{"question", question}}})}};
    if (!name.empty()) one["name"] = name;
    conversations.push_back(one);
  }
  return conversations;
}

TEST_F(Parallel, PrintsEachAnswer) {
  const auto outcome =
      run(infinipot_llama, settings({"--conversations", file(asking({{"", "why?"}, {"second", "how?"}}))}));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("--- 1: why?\n"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("--- second: how?\n"), std::string::npos) << outcome.out;
}

TEST_F(Parallel, OneThatFailsLeavesTheOthers) {
  const std::string long_question(4000, 'a');
  const auto outcome =
      run(infinipot_llama,
          settings({"--conversations", file(asking({{"", "why?"}, {"huge", long_question}, {"", "how?"}}))}));
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("infinipot-llama: conversation huge: --pot 400 is too small"), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.out.find("--- 1: why?\n"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("--- 3: how?\n"), std::string::npos) << outcome.out;
}

// Two at a time: the first one's answer is there, two others read, one waits.
TEST_F(Parallel, InterruptKeepsTheAnswersThatThereAre) {
  const std::string report = folder_.path("r.json"), long_book = book("book", 60000);
  json conversations = asking({{"short", "why?"}, {"reads", "why?"}, {"follows", "why?"}, {"waits", "why?"}});
  for (std::size_t i = 1; i < 4; ++i) conversations.at(i).at("turns").at(0)["document"] = long_book;
  for (const int signal : {SIGINT, SIGTERM}) {
    reading::test::RunningProgram program(
        settings({"--conversations", file(conversations), "--parallel", "2", "--json", report}),
        infinipot_llama);
    program.read(1);
    program.send(signal);
    const auto outcome = program.wait();
    EXPECT_EQ(outcome.status, 128 + signal) << outcome.err;
    const json all = json::parse(folder_.content("r.json")).at("conversations");
    ASSERT_EQ(all.size(), 4U);
    EXPECT_TRUE(all.at(0).at("error").is_null());
    EXPECT_EQ(outcome.out,
              "--- short: why?\n" + all.at(0).at("turns").at(0).at("answer_text").get<std::string>() + "\n");
    EXPECT_EQ(all.at(1).at("error"), "interrupted");
    EXPECT_TRUE(all.at(2).at("error").get<std::string>().starts_with("interrupted"));
    EXPECT_EQ(all.at(3).at("error"), "interrupted before it began");
    for (std::size_t i = 1; i < 4; ++i) EXPECT_EQ(all.at(i).at("turns").size(), 0U);
    EXPECT_NE(outcome.err.find("infinipot-llama: conversation reads: interrupted\n"), std::string::npos)
        << outcome.err;
    std::filesystem::remove(report);
  }
}

TEST_F(Parallel, RefusesWhatMakesNoSense) {
  const std::string good = file(asking({{"", "why?"}}));
  const auto with = [&](const Arguments& more) { return refusal(Arguments{"--conversations", good} + more); };
  EXPECT_EQ(with({"--question", "why?"}),
            "infinipot-llama: --question: not with --conversations, whose file has all texts (see --help)\n");
  EXPECT_EQ(with({"--answer", "because"}),
            "infinipot-llama: --answer: not with --conversations, whose file has all texts (see --help)\n");
  for (const Arguments& more : {Arguments{"--chat"},
                                {"--check"},
                                {"--save", "x"},
                                {"--load", "x"},
                                {"--report", "x"},
                                {"--archive", "x"},
                                {"--nuc", "--json", "-"},
                                {"--report-kept", "--json", "-"},
                                {"--timeline", "5", "--json", "-"}})
    EXPECT_EQ(with(more), "infinipot-llama: " + more.front() +
                              ": not with --conversations, which are several (see --help)\n");
  for (const char* policy : {"full", "context_shift"})
    EXPECT_EQ(with({"--policy", policy}),
              "infinipot-llama: --policy " + std::string(policy) +
                  ": not with --conversations, whose pots are made before their texts are known\n");
  EXPECT_EQ(refusal({"--parallel", "2", "--document", model_, "--question", "why?"}),
            "infinipot-llama: --parallel: is of conversations, so it needs --conversations\n");
  EXPECT_EQ(with({"--json", good}), "infinipot-llama: --json: " + good + " is that of --conversations\n");
}

TEST_F(Parallel, RefusesFilesThatAreNone) {
  const auto because = [&](const std::string& text) {
    const std::string path = folder_.file("bad.json", text);
    const std::string whole = refusal({"--conversations", path}),
                      begin = "infinipot-llama: --conversations: " + path + ": ", end = " (see --help)\n";
    EXPECT_TRUE(whole.starts_with(begin) && whole.ends_with(end)) << whole;
    return whole.substr(begin.size(), whole.size() - begin.size() - end.size());
  };
  EXPECT_EQ(because(""), "cannot be read, or is empty");
  EXPECT_EQ(because("["), "is no JSON: at byte 2");
  EXPECT_EQ(because("{}"), "must be an array of at least one conversation");
  EXPECT_EQ(because("[]"), "must be an array of at least one conversation");
  EXPECT_EQ(because("[1]"), "conversation 1 must be an object");
  EXPECT_EQ(because("[{\"turn\": []}]"), "conversation 1: there is no \"turn\"");
  EXPECT_EQ(because("[{\"turns\": []}]"), "conversation 1 needs \"turns\", an array of at least one");
  EXPECT_EQ(because("[{\"turns\": [{}]}]"), "conversation 1, turn 1 has no document and no question");
  EXPECT_EQ(because("[{\"turns\": [{\"question\": 5}]}]"),
            "conversation 1, turn 1: \"question\" must be a text");
  EXPECT_EQ(because("[{\"turns\": [{\"document\": \"x\", \"answer_prefix\": \"y\"}]}]"),
            "conversation 1, turn 1 has an answer_prefix but no question");
  EXPECT_EQ(because("[{\"turns\": [{\"document\": \"-\"}]}]"),
            "conversation 1, turn 1: a document must be a file; one of that name is ./-");
}

}  // namespace
}  // namespace llama_cpp
