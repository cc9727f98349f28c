// The whole program. What needs the real model skips without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "long_text.hpp"
#include "program.hpp"
#include "read_model.hpp"
#include "temporary_file.hpp"
#include "terminal.hpp"

namespace reading {
namespace {

using nlohmann::json;
using test::Arguments;
using test::arguments;
using test::long_text;
using test::Outcome;
using test::ReadModel;
using test::run_program;
using test::TemporaryFile;

void expect_refusal(const Outcome& outcome, const std::string& cause) {
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find(cause), std::string::npos) << "found: " << outcome.err << "\nwanted: " << cause;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

TEST(ReadProgram, RefusesOptions) {
  expect_refusal(run_program({}), "--model");
  expect_refusal(run_program({"--no-such-option"}), "--no-such-option");
  expect_refusal(run_program(arguments("m", "d", {"--pot", "1"})),
                 "--pot: must be a whole number, at least 2");
  expect_refusal(run_program(arguments("m", "d", {"--answer", "a", "--answer", "b"})),
                 "--answer: given more often (2) than --question (1)");
  expect_refusal(run_program(arguments("m", "-", {"--question", "And?", "--document", "-"})),
                 "--document: standard input (-) can be read only once");
  expect_refusal(run_program(arguments("m", "d", {"--policy", "context_shift"})), "not 'context_shift'");
  expect_refusal(run_program(arguments("m", "d", {"--rpc", "a:1"})), "unknown argument '--rpc'");
  expect_refusal(run_program(arguments("m", "d", {"--policy", "a\nb"})), "not 'a?b'");
  expect_refusal(run_program(arguments("m", "d", {"--positions", "other"})),
                 "--positions: must be one of reindexed, growing, not 'other'");
  const TemporaryFile document("text");
  expect_refusal(
      run_program(arguments("m", document.path(), {"--positions", "growing", "--cache-type", "int8"})),
      "--positions growing: needs --cache-type f32, f16 or bf16, not int8");
  expect_refusal(run_program(arguments("m", document.path(),
                                       {"--positions", "growing", "--policy", "expected_attention"})),
                 "--positions growing: expected_attention needs reindexed positions");
}

TEST(ReadProgram, RefusesDocuments) {
  const TemporaryFile model;
  const std::string folder = std::filesystem::temp_directory_path().string();
  expect_refusal(run_program(arguments(model.path(), "/no/such/file")), "cannot open /no/such/file");
  expect_refusal(run_program(arguments(model.path(), "/no/such\nfile")), "cannot open /no/such?file");
  expect_refusal(run_program(arguments(model.path(), folder)), folder + " is a directory");
  expect_refusal(run_program(arguments(model.path(), model.path(),
                                       {"--document", "/no/second/file", "--question", "And?"})),
                 "cannot open /no/second/file");
}

TEST(ReadProgram, RefusesModels) {
  const TemporaryFile document("text");
  const TemporaryFile empty, garbage(std::string(5000, 'x')), cut(std::string("GGUF\3\0\0\0\1\0\0", 11));
  expect_refusal(run_program(arguments("/no/such/model", document.path())), "/no/such/model");
  expect_refusal(run_program(arguments("/tmp", document.path())), "/tmp: not a regular file");
  expect_refusal(run_program(arguments(empty.path(), document.path())), empty.path());
  expect_refusal(run_program(arguments(garbage.path(), document.path())), "not a GGUF file");
  expect_refusal(run_program(arguments(cut.path(), document.path())), cut.path());
}

TEST(ReadProgram, RefusesAReportThatCannotBeWrittenBeforeItReads) {
  const TemporaryFile document("text"), no_model;
  const auto refusal = [&](const std::string& path) {
    return run_program(arguments(no_model.path(), document.path(), {"--json", path}));
  };
  const std::string folder = std::filesystem::temp_directory_path().string();
  expect_refusal(refusal("/no/such/folder/report.json"), "--json: cannot write /no/such/folder/report.json");
  expect_refusal(refusal(folder), "--json: cannot write " + folder + ": it is a directory");
  expect_refusal(refusal(document.path() + "/report.json"), "--json: cannot write");
  EXPECT_EQ(document.content(), "text");
}

TEST(ReadProgram, TellsWhenStandardOutputIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  expect_refusal(run_program({"--help"}, ">/dev/full"), "cannot write to standard output");
}

TEST_F(ReadModel, ReportHasConsistentFigures) {
  const json r = report(text_.path(), {"--answer-prefix", "The password is", "--answer", " marigold.",
                                       "--needle", "lighthouse is marigold", "--threads", "2"});
  EXPECT_EQ(r.at("document_tokens"), tokens_in(long_text()) - 1);  // its last line break joins the blank line
  const auto prompt = r.at("prompt_tokens").get<std::uint64_t>();
  EXPECT_GT(prompt, r.at("document_tokens").get<std::uint64_t>());
  EXPECT_EQ(r.at("pot_capacity"), 128);
  EXPECT_LE(r.at("pot_entries"), 128);
  EXPECT_GE(r.at("pot_entries"), 64);
  EXPECT_GT(r.at("distillations"), 3);
  EXPECT_EQ(r.at("nan_scores"), 0);
  // SmolLM2-135M: 30 layers of 3 kv heads with 64 channels, keys and values in float.
  EXPECT_EQ(r.at("full_cache_bytes"),
            (prompt + r.at("answer_tokens").get<std::uint64_t>()) * 30 * 3 * 64 * 2 * 4);
  EXPECT_GE(r.at("pot_bytes"), 128 * 30 * 3 * 64 * 2 * 4);
  EXPECT_LT(r.at("pot_bytes"), r.at("full_cache_bytes"));
  EXPECT_GT(r.at("peak_rss_bytes"), r.at("pot_bytes"));
  const auto seconds = r.at("prefill_seconds").get<double>();
  EXPECT_GT(seconds, 0);
  EXPECT_NEAR(r.at("tokens_per_second").get<double>(), static_cast<double>(prompt) / seconds, 1e-6);
  EXPECT_GE(r.at("ttft_seconds"), seconds);
  EXPECT_GT(r.at("distill_seconds"), 0);
  EXPECT_LE(r.at("catalyst_seconds"), r.at("distill_seconds"));
  EXPECT_GT(r.at("cap_seconds"), 0);
  EXPECT_LE(r.at("cap_seconds"), r.at("catalyst_seconds"));
  EXPECT_LT(r.at("distill_seconds"), seconds + 60);
  EXPECT_TRUE(r.at("answer_text").is_string());
  EXPECT_LE(r.at("answer_tokens"), 8);
  EXPECT_GT(r.at("answer_nll"), 0);
  EXPECT_GE(r.at("hit_rate"), 0);
  EXPECT_LE(r.at("hit_rate"), 1);
  const json& settings = r.at("settings");
  EXPECT_EQ(settings.at("keep"), 64);
  EXPECT_EQ(settings.at("kernel"), 17);
  EXPECT_EQ(settings.at("lag"), 0);
  EXPECT_EQ(settings.at("granularity"), "shared");
  EXPECT_EQ(settings.at("threads"), 2);
  EXPECT_TRUE(settings.at("max_tokens").is_null());
}

TEST_F(ReadModel, AnswerAndReportGoWhereTheyShould) {
  const TemporaryFile file;
  const Outcome outcome =
      run("/dev/null", {"--generate", "4", "--json", file.path(), "--needle", "What is the password"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json r = json::parse(file.content());
  EXPECT_EQ(outcome.out, r.at("answer_text").get<std::string>() + "\n");
  EXPECT_EQ(r.at("document_tokens"), 0);
  EXPECT_EQ(r.at("distillations"), 0);
  EXPECT_TRUE(r.at("answer_nll").is_null());
  // The phrase stands in the question, not in the document.
  EXPECT_TRUE(r.at("hit_rate").is_null());
  EXPECT_NE(outcome.err.find("the needle is not in the document"), std::string::npos);
  EXPECT_EQ(outcome.err.find('\r'), std::string::npos);  // no progress but on a terminal
}

TEST_F(ReadModel, TellsWhenStandardOutputIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  expect_refusal(run("/dev/null", {"--generate", "1"}, ">/dev/full"), "cannot write to standard output");
}

TEST_F(ReadModel, FullEqualsAPotThatNeverFills) {
  const Arguments answer{"--answer-prefix", "The password is", "--answer",
                         " marigold.",      "--needle",        "marigold"};
  using test::operator+;
  const json full = report(text_.path(), answer + Arguments{"--policy", "full", "--sinks", "900"});
  const json roomy = report(text_.path(), answer + Arguments{"--pot", "1024"});
  EXPECT_EQ(full.at("distillations"), 0);
  EXPECT_EQ(roomy.at("distillations"), 0);
  EXPECT_EQ(full.at("hit_rate"), 1.0);
  EXPECT_EQ(full.at("gold_kept"), 1.0);
  EXPECT_TRUE(full.at("answer_kept").is_null());  // the answer ends in a full stop, the needle does not
  EXPECT_EQ(full.at("pot_entries"), full.at("prompt_tokens"));
  EXPECT_EQ(full.at("document_tokens"), roomy.at("document_tokens"));
  EXPECT_NEAR(full.at("answer_nll"), roomy.at("answer_nll"), 1e-4);
  EXPECT_EQ(full.at("answer_text"), roomy.at("answer_text"));
}

TEST_F(ReadModel, PositionsDifferOnceSomethingIsDropped) {
  const auto nll = [&](const char* pot, const char* positions) {
    const json r = report(
        text_.path(), {"--answer", " marigold.", "--generate", "0", "--pot", pot, "--positions", positions});
    EXPECT_EQ(r.at("settings").at("positions"), positions);
    return r.at("answer_nll").get<double>();
  };
  EXPECT_EQ(nll("1024", "growing"), nll("1024", "reindexed"));
  EXPECT_NE(nll("128", "growing"), nll("128", "reindexed"));
}

TEST_F(ReadModel, NucIsOfAllThatWasRead) {
  const json r = report(text_.path(), {"--nuc", "--policy", "streaming_llm", "--needle", "marigold"});
  EXPECT_EQ(r.at("nuc").size(), r.at("prompt_tokens"));
  EXPECT_EQ(r.at("nuc").at(0), 0.0);
  const json& turn = r.at("turns").at(0);
  const auto needle = turn.at("needle_position").get<std::size_t>();
  EXPECT_LT(needle + turn.at("needle_tokens").get<std::size_t>(), r.at("nuc").size());
  EXPECT_GT(r.at("nuc").at(needle), 2.0);  // a password cannot be guessed
}

TEST_F(ReadModel, ChunksAndStandardInputChangeNothing) {
  const Arguments answer{"--answer", " marigold.", "--max-tokens", "250"};
  using test::operator+;
  const json whole = report(text_.path(), answer);
  const json small =
      report("-", answer + Arguments{"--chunk", "7"}, std::string("<") + test::for_the_shell(text_.path()));
  EXPECT_EQ(small.at("document_tokens"), whole.at("document_tokens"));
  EXPECT_EQ(small.at("distillations"), whole.at("distillations"));
  EXPECT_EQ(small.at("answer_text"), whole.at("answer_text"));
  EXPECT_NEAR(small.at("answer_nll"), whole.at("answer_nll"), 1e-3);
}

TEST_F(ReadModel, MaxTokensIsObeyed) {
  const json r = report(text_.path(), {"--max-tokens", "50", "--generate", "0"});
  EXPECT_EQ(r.at("document_tokens"), 50);
  EXPECT_EQ(r.at("answer_text"), "");
  EXPECT_EQ(r.at("answer_tokens"), 0);
  EXPECT_EQ(r.at("ttft_seconds"), r.at("prefill_seconds"));
  EXPECT_EQ(r.at("settings").at("max_tokens"), 50);
}

TEST_F(ReadModel, SeedMakesSamplingReproducible) {
  const auto answer = [&](const char* seed) {
    return report("/dev/null", {"--temperature", "1", "--seed", seed}).at("answer_text").get<std::string>();
  };
  const std::string first = answer("1");
  EXPECT_EQ(answer("1"), first);
  EXPECT_NE(answer("2"), first);
}

TEST_F(ReadModel, AllPoliciesRun) {
  for (const char* policy :
       {"infinipot", "streaming_llm", "truncation", "reread", "snapkv", "tova", "h2o", "sirllm", "knorm",
        "keydiff", "value_norm", "expected_attention", "temporal_redundancy", "cap", "nuc"}) {
    const json r = report(text_.path(),
                          {"--policy", policy,     "--max-tokens", "120", "--pot",    "100", "--window", "16",
                           "--block",  "9",        "--frames",     "4",   "--period", "3",   "--keep",   "60",
                           "--needle", "On day 0", "--generate",   "2"});
    EXPECT_GT(r.at("distillations"), 0) << policy;
    EXPECT_GE(r.at("pot_entries"), 60) << policy;
    EXPECT_TRUE(r.at("hit_rate").is_number()) << policy;
    EXPECT_EQ(r.at("settings").at("policy"), policy);
  }
}

TEST_F(ReadModel, AnyBytesAreADocument) {
  std::string bytes;
  for (int i = 0; i < 2000; ++i) bytes += static_cast<char>(i * 37 % 251 + i % 5);
  const TemporaryFile invalid(bytes), zeros(std::string(2000, '\0')), lines(std::string(2'000'000, '\n')),
      word(std::string(2'000'000, 'a'));
  for (const TemporaryFile* file : {&invalid, &zeros, &lines, &word}) {
    const json r = report(file->path(), {"--max-tokens", "60", "--pot", "80", "--generate", "1"});
    EXPECT_LE(r.at("document_tokens"), 60);
  }
}

TEST_F(ReadModel, RefusesWhatDoesNotFitThePot) {
  std::string catalyst;
  for (int i = 0; i < 128; ++i) catalyst += " word";
  expect_refusal(run(text_.path(), {"--pot", "128", "--catalyst", catalyst}), "--pot 128 is too small");
  expect_refusal(run(text_.path(), {"--pot", "40"}), "for --pot 40");  // the header stays
  expect_refusal(run(text_.path(), {"--answer", "\4"}), "--answer: the text has no tokens");
}

TEST_F(ReadModel, ShowsProgressOnATerminal) {
  test::Terminal terminal;
  if (terminal.name().empty()) GTEST_SKIP() << "no pseudo-terminal";
  const Outcome outcome =
      run(text_.path(), {"--pot", "128", "--generate", "1", "--chunk", "64"}, "2>" + terminal.name());
  EXPECT_EQ(outcome.status, 0);
  for (const char* part : {"\r", "##", "%", " tokens/s, ", " distillations"})
    EXPECT_NE(terminal.shown().find(part), std::string::npos) << part << " in " << terminal.shown();
}

}  // namespace
}  // namespace reading
