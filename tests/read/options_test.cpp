#include "options.hpp"

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "infinipot/version.hpp"
#include "policies.hpp"

namespace reading {
namespace {

using Arguments = std::vector<std::string>;

const Program plain{.name = "infinipot-read", .model_help = "a model"};

Arguments operator+(Arguments first, const Arguments& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// A program with all that a program may have.
Program extended() {
  return {.name = "other",
          .model_help = "another model",
          .notes = "Of this program only.\n",
          .granularities = {"shared"},
          .context_shift = true,
          .more_options = {
              {"--cache-type", &Options::cache_type, {"f32", "f16"}, "f32|f16", "element", "f16", pot_group},
              {"--rpc", &Options::rpc, {}, "HOST:PORT,...", "servers", ""}}};
}

std::optional<Options> parse(Arguments arguments, const Program& program = plain) {
  arguments.insert(arguments.begin(), "program");
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  return parse_options(program, static_cast<int>(pointers.size()), pointers.data());
}

/// The options of a command line with all that is required and these.
Options with(const Arguments& more, const Program& program = plain) {
  Arguments all{"--model", "m.gguf", "--document", "d.txt", "--question", "Why?"};
  all.insert(all.end(), more.begin(), more.end());
  return parse(all, program).value();
}

std::string refusal(const Arguments& more, const Program& program = plain) {
  try {
    with(more, program);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

std::string printed(const char* option, const Program& program = plain) {
  testing::internal::CaptureStdout();
  EXPECT_FALSE(parse({option}, program).has_value());
  return testing::internal::GetCapturedStdout();
}

TEST(ReadingOptions, HaveDefaults) {
  const Options o = with({});
  EXPECT_EQ(o.model, "m.gguf");
  ASSERT_EQ(o.turns.size(), 1U);
  EXPECT_EQ(o.turns[0].document, "d.txt");
  EXPECT_EQ(o.turns[0].question, "Why?");
  EXPECT_EQ(o.turns[0].answer_prefix + o.turns[0].answer, "");
  EXPECT_EQ(o.turns[0].needles, Arguments{});
  EXPECT_EQ(o.pot, 2048U);
  EXPECT_EQ(o.keep, 1024U);
  EXPECT_EQ(o.policy, "infinipot");
  EXPECT_EQ(o.alpha, 0);
  EXPECT_EQ(o.granularity, "shared");
  EXPECT_EQ(o.over_queries, "max");
  EXPECT_EQ(o.over_heads, "max");
  EXPECT_EQ(o.kernel, 49U);
  EXPECT_EQ(o.lag, 16U);
  EXPECT_EQ(o.sinks, 4U);
  EXPECT_EQ(o.recent, 0U);
  EXPECT_EQ(o.catalysts, std::vector<std::string>{"@prompt"});
  EXPECT_EQ(o.json, "");
  EXPECT_FALSE(o.report_kept);
  EXPECT_EQ(o.timeline, 0U);
  EXPECT_FALSE(o.nuc);
  EXPECT_FALSE(o.max_tokens.has_value());
  EXPECT_EQ(o.generate, 64U);
  EXPECT_EQ(o.chunk, 256U);
  EXPECT_EQ(o.threads, 0U);
  EXPECT_EQ(o.seed, 0U);
  EXPECT_EQ(o.temperature, 0);
  EXPECT_EQ(o.top_p, 1);
  EXPECT_EQ(o.window, 64U);
  EXPECT_EQ(o.block, 128U);
  EXPECT_EQ(o.layers, 0U);
  EXPECT_EQ(o.term_share, 0);
  EXPECT_EQ(o.decay, 0.9);
  EXPECT_EQ(o.future, 512U);
  EXPECT_EQ(o.period, 1U);
  EXPECT_EQ(o.frames, 64U);
  EXPECT_FALSE(o.chat);
  EXPECT_EQ(o.archive + o.archive_type + o.save + o.load, "");
  EXPECT_EQ(o.archive_limit, 0U);
  EXPECT_EQ(o.recall, 0U);
  EXPECT_EQ(o.read_anew, "no");
  EXPECT_EQ(o.recall_pot, 0U);
}

TEST(ReadingOptions, AreAllRead) {
  const Options o =
      with({"--pot",         "500",   "--keep",          "200",   "--policy",     "snapkv",
            "--alpha",       "0.5",   "--granularity",   "layer", "--over-heads", "sum",
            "--kernel",      "7",     "--sinks",         "3",     "--recent",     "2",
            "--catalyst",    "-x",    "--answer-prefix", "It",    "--answer",     " is",
            "--needle",      "so",    "--max-tokens",    "0",     "--generate",   "0",
            "--chunk",       "16",    "--threads",       "2",     "--json",       "-",
            "--report-kept", "--nuc", "--timeline",      "1000",  "--seed",       "18446744073709551615",
            "--temperature", "1e-1",  "--top-p",         "0.9",   "--window",     "32",
            "--decay",       "1",     "--over-queries",  "sum",   "--pin",        "a,b",
            "--lag",         "3"});
  EXPECT_EQ(o.lag, 3U);
  EXPECT_EQ(o.pin, "a,b");
  EXPECT_EQ(o.pot, 500U);
  EXPECT_EQ(o.keep, 200U);
  EXPECT_EQ(o.policy, "snapkv");
  EXPECT_EQ(o.alpha, 0.5);
  EXPECT_EQ(o.granularity, "layer");
  EXPECT_EQ(o.over_queries, "sum");
  EXPECT_EQ(o.over_heads, "sum");
  EXPECT_EQ(o.kernel, 7U);
  EXPECT_EQ(o.sinks, 3U);
  EXPECT_EQ(o.recent, 2U);
  EXPECT_EQ(o.catalysts, std::vector<std::string>{"-x"});
  EXPECT_EQ(o.turns[0].answer_prefix, "It");
  EXPECT_EQ(o.turns[0].answer, " is");
  EXPECT_EQ(o.turns[0].needles, Arguments{"so"});
  EXPECT_EQ(o.max_tokens, 0U);
  EXPECT_EQ(o.generate, 0U);
  EXPECT_EQ(o.chunk, 16U);
  EXPECT_EQ(o.threads, 2U);
  EXPECT_EQ(o.json, "-");
  EXPECT_TRUE(o.report_kept);
  EXPECT_EQ(o.timeline, 1000U);
  EXPECT_TRUE(o.nuc);
  EXPECT_EQ(o.seed, UINT64_MAX);
  EXPECT_EQ(o.temperature, 0.1);
  EXPECT_EQ(o.top_p, 0.9);
  EXPECT_EQ(o.window, 32U);
  EXPECT_EQ(o.decay, 1);
}

TEST(ReadingOptions, TheKthBelongsToTheKthQuestion) {
  const Options o = with({"--question", "-x", "--answer-prefix", "", "--question", "{}", "--document", "e",
                          "--needle", "[n]", "--answer-prefix", "Since", "--answer", "a,b", "--needle", ""});
  ASSERT_EQ(o.turns.size(), 3U);
  const auto expect_turn = [](const Turn& turn, const Arguments& texts) {
    EXPECT_EQ((Arguments{turn.document, turn.question, turn.answer_prefix, turn.answer}), texts);
  };
  expect_turn(o.turns[0], {"d.txt", "Why?", "", "a,b"});
  expect_turn(o.turns[1], {"e", "-x", "Since", ""});
  expect_turn(o.turns[2], {"", "{}", "", ""});
  EXPECT_EQ(o.turns[0].needles, Arguments{"[n]"});
  EXPECT_EQ(o.turns[1].needles, Arguments{});
  EXPECT_EQ(o.turns[2].needles, Arguments{});
}

TEST(ReadingOptions, AllNeedlesBelongToASingleQuestion) {
  EXPECT_EQ(with({"--needle", "one", "--needle", "", "--needle", "two"}).turns[0].needles,
            (Arguments{"one", "two"}));
}

TEST(ReadingOptions, NoTextIsAnythingButText) {
  for (const char* text : {"{}", "[]", "[a,b]", "%%", "--"})
    EXPECT_EQ(with({"--needle", text}).turns[0].needles, Arguments{text});
}

TEST(ReadingOptions, ValuesCanFollowAnEqualsSign) {
  const Options o =
      with({"--needle=", "--answer=a=b", "--answer-prefix=--pot", "--pot=500", "--json=--nuc", "--nuc"});
  EXPECT_EQ(o.turns[0].needles, Arguments{});
  EXPECT_EQ(o.turns[0].answer, "a=b");
  EXPECT_EQ(o.turns[0].answer_prefix, "--pot");
  EXPECT_EQ(o.pot, 500U);
  EXPECT_EQ(o.json, "--nuc");
  EXPECT_TRUE(o.nuc);
  EXPECT_EQ(with({"--needle", "--x=3"}).turns[0].needles, Arguments{"--x=3"});
}

TEST(ReadingOptions, NothingIsTakenForAnOptionsValue) {
  const std::string end = " (see --help)";
  EXPECT_EQ(refusal({"--pot="}), "--pot: must be a whole number, at least 2, not ''" + end);
  EXPECT_EQ(refusal({"--pot=", "500"}),
            "'500' belongs to no option: several words that are one value need quotes" + end);
  EXPECT_EQ(refusal({"--json="}), "--json: must not be empty" + end);
  EXPECT_EQ(refusal({"--catalyst", "A", "B"}),
            "'B' belongs to no option: several words that are one value need quotes" + end);
  EXPECT_NE(refusal({"--catalyst=A", "B", "--pot", "500"}).find("'B' belongs to no option"),
            std::string::npos);
  for (const char* option : {"--question", "--document", "--needle", "--answer", "--answer-prefix"})
    EXPECT_NE(refusal({option, "a", "b"}).find("'b' belongs to no option"), std::string::npos) << option;
  EXPECT_EQ(refusal({"--needle"}), "--needle: its TEXT is missing" + end);
  EXPECT_EQ(refusal({"--json", "--nuc"}),
            "--json: its FILE|- is missing: --nuc is an option; if it is meant as "
            "text, write --json=--nuc" +
                end);
  EXPECT_EQ(refusal({"--nuc=false"}), "--nuc: takes no value, but was given 'false'" + end);
  EXPECT_EQ(refusal({"--report-kept="}), "--report-kept: takes no value, but was given ''" + end);
  EXPECT_NE(refusal({"--nuc", "true"}).find("'true' belongs to no option"), std::string::npos);
  EXPECT_EQ(refusal({"--version=2"}), "--version: takes no value, but was given '2'" + end);
  for (const char* argument : {"-", "-pot", "--po", "--POT", "--pot_", "--pot-", "-5"})
    EXPECT_EQ(refusal({argument}), "unknown argument '" + std::string(argument) + "'" + end);
  EXPECT_EQ(refusal({"--", "x"}), "unknown argument '--'" + end);
  EXPECT_NE(refusal({""}).find("'' belongs to no option"), std::string::npos);
  EXPECT_NE(refusal({"@file"}).find("'@file' belongs to no option"), std::string::npos);
  for (const char* option : {"--pot", "--json", "--policy", "--seed"})
    EXPECT_EQ(refusal({option, "5", option, "5"}).find(option), 0U) << option;
}

TEST(ReadingOptions, RefuseMeasurementsThatGoNowhere) {
  EXPECT_EQ(refusal({"--nuc"}), "--nuc: adds to the JSON or to the page, so it needs --json or --report");
  EXPECT_EQ(refusal({"--nuc", "--report", "p.html"}), "accepted");
  EXPECT_EQ(refusal({"--report-kept", "--report", "p.html"}),
            "--report-kept: adds to the JSON, so it needs --json");
  EXPECT_EQ(refusal({"--timeline", "9"}), "--timeline: adds to the JSON, so it needs --json");
  EXPECT_EQ(refusal({"--timeline", "9", "--report-kept", "--nuc", "--json", "-"}), "accepted");
  EXPECT_EQ(refusal({"--report", "-"}), "--report: must be a file; one of that name is ./-");
}

/// Only those of the command line, and the model.
Options only(const Arguments& more, const Program& program = plain) {
  Arguments all{"--model", "m.gguf"};
  all.insert(all.end(), more.begin(), more.end());
  return parse(all, program).value();
}

std::string only_refusal(const Arguments& more, const Program& program = plain) {
  try {
    only(more, program);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

/// A program whose pots are its own.
Program with_files() {
  Program program = plain;
  program.owns_pots = true;
  return program;
}

TEST(ReadingOptions, AnArchiveMeansReadingBlindAndRecalling) {
  const Options o = with({"--archive", "a"});
  EXPECT_EQ(o.archive, "a");
  EXPECT_EQ(o.policy, "streaming_llm");
  EXPECT_EQ(o.granularity, "shared");
  EXPECT_EQ(o.recall, usual_recall);
  EXPECT_EQ(o.recall_kernel, 49U);
  EXPECT_EQ(o.recall_lag, 16U);
  EXPECT_EQ(o.archive_type, "");  // the file knows
  const Options named = with({"--archive", "a", "--policy", "snapkv", "--recall", "0", "--read-anew", "yes",
                              "--archive-type", "tokens", "--kernel", "7"});
  EXPECT_EQ(named.policy, "snapkv");
  EXPECT_EQ(named.recall, 0U);
  EXPECT_EQ(named.read_anew, "yes");
  EXPECT_EQ(named.archive_type, "tokens");
  EXPECT_EQ(named.recall_kernel, 7U);
  EXPECT_EQ(named.recall_lag, 0U);
  const auto reread = with({"--archive", "a", "--policy", "reread"});
  EXPECT_EQ(reread.recall_kernel, 49U);
  EXPECT_EQ(reread.recall_lag, 16U);
  EXPECT_EQ(reread.layers, 8U);
  EXPECT_EQ(reread.recall_layers, 0U);
  EXPECT_EQ(with({"--archive", "a", "--policy", "infinipot"}).layers, 0U);
  EXPECT_EQ(with({"--archive", "a", "--policy", "reread", "--layers", "3"}).recall_layers, 3U);
  EXPECT_EQ(with({"--archive", "a", "--recall-pot", "99"}, with_files()).recall_pot, 99U);
}

TEST(ReadingOptions, BytesHaveUnits) {
  for (const auto& [text, bytes] : {std::pair("1", 1ULL), std::pair("1000000", 1000000ULL),
                                    std::pair("500M", 500ULL << 20U), std::pair("2G", 2ULL << 30U),
                                    std::pair("9K", 9ULL << 10U), std::pair("16777215T", 16777215ULL << 40U)})
    EXPECT_EQ(with({"--archive", "a", "--archive-limit", text}).archive_limit, bytes) << text;
  for (const char* text :
       {"", "0", "M", "0M", "-1", "1.5G", "1 G", "2g", "16777216T", "1MB", "99999999999999999999"})
    EXPECT_EQ(refusal({"--archive", "a", "--archive-limit", text}),
              "--archive-limit: must be a number of bytes above 0, such as 1000000, 500M or 2G, not '" +
                  std::string(text) + "' (see --help)");
}

TEST(ReadingOptions, WhatBelongsToAnArchiveNeedsOne) {
  const auto expect_refused = [](const Arguments& more, const std::string& name) {
    EXPECT_EQ(refusal(more, with_files()), name + ": belongs to an archive, so it needs --archive");
  };
  expect_refused({"--archive-type", "f32"}, "--archive-type");
  expect_refused({"--archive-limit", "9M"}, "--archive-limit");
  expect_refused({"--recall", "1"}, "--recall");
  expect_refused({"--read-anew", "yes"}, "--read-anew");
  expect_refused({"--recall-pot", "9"}, "--recall-pot");
  EXPECT_EQ(refusal({"--recall", "0", "--read-anew", "no"}), "accepted");
  EXPECT_EQ(refusal({"--archive", "-"}), "--archive: must be a file; one of that name is ./-");
  EXPECT_EQ(refusal({"--archive", "a", "--archive-type", "bf16"}),
            "--archive-type: must be one of int8, int4, f16, f32, tokens, not 'bf16' (see --help)");
}

TEST(ReadingOptions, SomeProgramsArchiveTokensAlone) {
  Program program = plain;
  program.archive_types = {"tokens"};
  EXPECT_EQ(with({"--archive", "a", "--archive-type", "tokens"}, program).archive_type, "tokens");
  EXPECT_EQ(refusal({"--archive", "a", "--archive-type", "int8"}, program),
            "--archive-type: must be tokens, not 'int8' (see --help)");
  for (const char* option : {"--save", "--load", "--recall-pot"})
    EXPECT_EQ(refusal({option, "9"}, program), "unknown argument '" + std::string(option) + "' (see --help)");
}

TEST(ReadingOptions, QuestionsCanComeLater) {
  const Arguments two{"--document", "d", "--document", "e"};
  const auto and_more = [&](const Arguments& more) {
    Arguments all = two;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT_EQ(only_refusal(two), "--question is required (see --help)");
  for (const Arguments& more : {Arguments{"--chat"}, {"--archive", "a"}, {"--save", "p"}}) {
    const Options o = only(and_more(more), with_files());
    ASSERT_EQ(o.turns.size(), 2U) << more[0];
    EXPECT_EQ(o.turns[1].document, "e");
    EXPECT_EQ(o.turns[0].question + o.turns[1].question, "");
    const Options asked = only(and_more(Arguments{"--question", "q"} + more), with_files());
    ASSERT_EQ(asked.turns.size(), 2U) << more[0];
    EXPECT_EQ(asked.turns[0].question, "q");
  }
  EXPECT_TRUE(only({"--chat"}).turns.empty());
  EXPECT_EQ(only_refusal({"--question", "q"}), "--document is required (see --help)");
  EXPECT_EQ(only_refusal({"--question", "q", "--archive", "a"}), "accepted");
  EXPECT_EQ(only_refusal({"--question", "q", "--load", "p"}, with_files()), "accepted");
  EXPECT_EQ(only_refusal({"--archive", "a"}), "--question is required (see --help)");
  EXPECT_EQ(only_refusal({"--load", "p"}, with_files()), "--question is required (see --help)");
  EXPECT_EQ(only_refusal({"--chat", "--document", "-"}),
            "--chat: reads questions from standard input, so it cannot be a --document too");
  EXPECT_EQ(refusal({"--save", "-"}, with_files()), "--save: must be a file; one of that name is ./-");
}

TEST(ReadingOptions, AFullPotIsMadeForKnownTexts) {
  for (const Arguments& more : {Arguments{"--chat"}, {"--archive", "a"}, {"--load", "p"}})
    EXPECT_EQ(refusal(more + Arguments{"--policy", "full"}, with_files()),
              more[0] + ": not with --policy full, whose pot is made for the texts on the command line");
}

TEST(ReadingOptions, CheckingUsesNoFiles) {
  EXPECT_EQ(only_refusal({"--check", "--chat"}),
            "--check: reads no --document and asks no --question (see --help)");
  for (const char* option : {"--archive", "--save", "--load"})
    EXPECT_EQ(only_refusal({"--check", option, "f"}, with_files()),
              "--check: uses no " + std::string(option) + " (see --help)");
}

TEST(ReadingOptions, NumbersAreReadToTheEndOrRefused) {
  const auto expect_refused = [](const char* option, const Arguments& texts) {
    for (const std::string& text : texts)
      EXPECT_EQ(refusal({option, text}).find(std::string(option) + ": must be "), 0U)
          << option << " " << text;
  };
  const Arguments bad{"",     " ",   "+5", " 5",  "5 ", "0x10", "5_0",      "5,0", "inf",
                      "-inf", "nan", "-",  "5-5", "1e", "five", "\xD9\xA5", "1..5"};
  for (const char* option : {"--pot", "--keep", "--kernel", "--sinks", "--recent", "--max-tokens",
                             "--generate", "--seed", "--chunk", "--threads", "--window", "--block",
                             "--layers", "--timeline", "--alpha", "--temperature", "--top-p", "--decay"})
    expect_refused(option, bad);
  for (const char* option : {"--pot", "--keep", "--seed", "--generate"})
    expect_refused(option, {"-0", "5.0", "5e2", "-18446744073709551611", std::string(5000, '9')});
  for (const char* option : {"--alpha", "--temperature", "--top-p", "--decay"})
    expect_refused(option, {"1e400", "-1e400", "-1e-400", "-5e-324", "0x1p-1", std::string(5000, '9')});
  EXPECT_EQ(with({"--pot", std::string(5000, '0') + "500"}).pot, 500U);
  EXPECT_EQ(with({"--alpha", "0." + std::string(5000, '0') + "1"}).alpha, 5e-324);
  EXPECT_EQ(with({"--alpha", "-0"}).alpha, 0);
  // What is too small for a double stays above 0.
  for (const char* small : {"1e-300", "1e-400", "5e-324"}) {
    EXPECT_GT(with({"--top-p", small}).top_p, 0) << small;
    EXPECT_GT(with({"--decay", small}).decay, 0) << small;
    EXPECT_LT(with({"--temperature", small}).temperature, 1e-299) << small;
  }
  EXPECT_EQ(refusal({"--temperature", "1e400"}),
            "--temperature: must be a number, at most 1000, not '1e400' (see --help)");
  EXPECT_EQ(refusal({"--temperature", "-1e400"}),
            "--temperature: must be a number, at least 0, not '-1e400' (see --help)");
}

TEST(ReadingOptions, RefuseMoreTextsThanQuestions) {
  EXPECT_EQ(refusal({"--document", "e"}),
            "--document: given more often (2) than --question (1) (see --help)");
  for (const char* option : {"--answer-prefix", "--answer", "--needle"})
    EXPECT_EQ(refusal({option, "a", "--question", "How?", option, "", option, "c"}),
              std::string(option) + ": given more often (3) than --question (2) (see --help)");
}

TEST(ReadingOptions, ReadStandardInputOnce) {
  const Arguments model{"--model", "m", "--question", "q", "--question", "r", "--document", "-"};
  const auto and_document = [&](const char* document) {
    Arguments all = model;
    all.insert(all.end(), {"--document", document});
    return all;
  };
  EXPECT_EQ(parse(and_document("d"))->turns[0].document, "-");
  EXPECT_THROW(parse(and_document("-")), UsageError);
}

TEST(ReadingOptions, SomeProgramsHaveMore) {
  const Options o = with({}, extended());
  EXPECT_EQ(o.cache_type, "f16");
  EXPECT_EQ(o.rpc, "");
  const Options set =
      with({"--cache-type", "f32", "--rpc", "a:1,b:2", "--policy", "context_shift"}, extended());
  EXPECT_EQ(set.cache_type, "f32");
  EXPECT_EQ(set.rpc, "a:1,b:2");
  EXPECT_EQ(set.policy, "context_shift");
  EXPECT_EQ(refusal({"--cache-type", "q1"}, extended()),
            "--cache-type: must be one of f32, f16, not 'q1' (see --help)");

  EXPECT_EQ(refusal({"--cache-type", "f32"}), "unknown argument '--cache-type' (see --help)");
  EXPECT_EQ(refusal({"--rpc", "a:1"}), "unknown argument '--rpc' (see --help)");
  EXPECT_NE(refusal({"--policy", "context_shift"}).find("h2o, sirllm, full, not 'context_shift'"),
            std::string::npos);
}

TEST(ReadingOptions, SomeStoresKnowOneGranularity) {
  for (const char* policy :
       {"infinipot", "streaming_llm", "snapkv", "tova", "h2o", "sirllm", "context_shift", "full"})
    EXPECT_EQ(with({"--policy", policy}, extended()).granularity, "shared");
  EXPECT_EQ(with({"--granularity", "shared"}, extended()).granularity, "shared");
  for (const char* granularity : {"head", "layer"})
    EXPECT_EQ(refusal({"--granularity", granularity}, extended()),
              "--granularity: must be shared, not '" + std::string(granularity) + "' (see --help)");
}

TEST(ReadingOptions, ContextShiftKeepsTheLaterHalf) {
  const auto keep = [](Arguments more, std::size_t header) {
    more.insert(more.end(), {"--policy", "context_shift"});
    Options o = with(more, extended());
    fit_context_shift(o, header);
    return o.keep;
  };
  EXPECT_EQ(with({"--pot", "100", "--policy", "context_shift"}, extended()).keep,
            52U);  // 4 sinks and 48 of 96
  EXPECT_EQ(keep({"--pot", "100"}, 0), 52U);
  EXPECT_EQ(keep({"--pot", "100"}, 30), 65U);
  EXPECT_EQ(keep({"--pot", "100"}, 31), 66U);  // 34 of 69 go
  EXPECT_EQ(keep({"--pot", "100", "--sinks", "50"}, 31), 75U);
  EXPECT_EQ(keep({"--pot", "100", "--recent", "35"}, 30), 65U);
}

TEST(ReadingOptions, ContextShiftRefusesWhatItCannotDo) {
  const auto refused = [](Arguments more) {
    more.insert(more.end(), {"--policy", "context_shift"});
    return refusal(more, extended());
  };
  EXPECT_EQ(refused({"--keep", "50"}),
            "--keep: context_shift keeps the header and the later half of what follows it, not 50 entries");
  EXPECT_EQ(refused({"--pot", "5"}),
            "--pot 5 is too small; it must be at least 6 (4 entries always stay: the header or the sinks)");
  EXPECT_EQ(refused({"--pot", "6"}), "accepted");
  EXPECT_EQ(refused({"--pot", "100", "--recent", "49"}),
            "--recent 49 is out of range 0 .. 48 for context_shift and --pot 100 (4 entries always stay: the "
            "header or the sinks)");
  Options o = with({"--pot", "100", "--policy", "context_shift"}, extended());
  EXPECT_THROW(fit_context_shift(o, 99), UsageError);
  EXPECT_NO_THROW(fit_context_shift(o, 98));
  check_fits(infinipot::StreamingLlm(), o, 98);
}

TEST(ReadingOptions, KeepIsHalfThePot) { EXPECT_EQ(with({"--pot", "101"}).keep, 50U); }

TEST(ReadingOptions, GranularityAndKernelDependOnThePolicy) {
  for (const auto& [policy, granularity, kernel] :
       {std::tuple("infinipot", "shared", 49U), std::tuple("reread", "shared", 9U),
        std::tuple("snapkv", "head", 5U), std::tuple("tova", "head", 1U), std::tuple("h2o", "head", 1U),
        std::tuple("sirllm", "head", 1U), std::tuple("streaming_llm", "head", 1U),
        std::tuple("full", "head", 1U)}) {
    const Options o = with({"--policy", policy});
    EXPECT_EQ(o.granularity, granularity) << policy;
    EXPECT_EQ(o.kernel, kernel) << policy;
  }
  EXPECT_EQ(granularity_of(with({})), infinipot::Granularity::shared);
  EXPECT_EQ(granularity_of(with({"--granularity", "layer"})), infinipot::Granularity::layer);
  EXPECT_EQ(granularity_of(with({"--granularity", "head"})), infinipot::Granularity::head);
}

TEST(ReadingOptions, TermsHaveTheirShare) {
  const Aims aims{{{{1, 2}}, {7, 8}}, {{{3}}, {}}};
  const auto shares = [&](const Arguments& more, std::size_t turn) {
    const infinipot::Infinipot policy = infinipot_policy(with(more), aims, turn);
    std::vector<double> found;
    for (const infinipot::Rule& rule : policy.rules()) found.push_back(rule.share);
    return found;
  };
  EXPECT_EQ(shares({}, 0), (std::vector<double>{0, 1}));
  EXPECT_EQ(shares({"--term-share", "0.25"}, 0), (std::vector<double>{0, 0.75, 1}));
  EXPECT_EQ(shares({"--term-share", "0.25"}, 1), (std::vector<double>{0, 1}));  // no terms
  EXPECT_EQ(shares({"--alpha", "0.5", "--term-share", "0.25"}, 0), (std::vector<double>{0.5, 0.25, 1}));
  EXPECT_EQ(with({"--terms", "tea cup"}).turns.at(0).terms, "tea cup");
  EXPECT_NE(refusal({"--term-share", "1.5"}).find("--term-share: must be"), std::string::npos);
}

TEST(ReadingOptions, PolicyHasTheSettings) {
  const auto smoothing = [](const Arguments& more) {
    return with_policy(with(more), {{{{1, 2}}, {}}},
                       [](const auto& policy) { return infinipot::rules_of(policy).front().smoothing; });
  };
  EXPECT_EQ(smoothing({}).lag, 16U);
  EXPECT_EQ(smoothing({"--keep", "490"}).kernel, 49U);
  EXPECT_EQ(smoothing({"--keep", "489"}).kernel, 17U);  // ten stretches of 49 do not fit
  EXPECT_EQ(smoothing({"--pot", "978"}).lag, 0U);
  EXPECT_EQ(with({"--pot", "978", "--archive", "a"}).recall_kernel, 17U);
  EXPECT_EQ(smoothing({"--kernel", "3"}).kernel, 3U);
  EXPECT_EQ(smoothing({"--kernel", "3"}).lag, 0U);
  EXPECT_EQ(smoothing({"--kernel", "3", "--lag", "1"}).lag, 1U);
  EXPECT_EQ(smoothing({"--lag", "0"}).kernel, 49U);
  EXPECT_EQ(smoothing({"--lag", "0"}).lag, 0U);
  EXPECT_EQ(smoothing({"--kernel", "3"}).pooling, infinipot::Pooling::max);
  EXPECT_EQ(smoothing({"--policy", "snapkv", "--kernel", "7"}).kernel, 7U);
  EXPECT_EQ(smoothing({"--policy", "tova", "--kernel", "7"}).kernel, 1U);
  EXPECT_EQ(smoothing({"--policy", "reread", "--kernel", "7"}).kernel, 7U);
  EXPECT_EQ(smoothing({"--policy", "reread"}).pooling, infinipot::Pooling::mean);
  // CaP is smoothed as NuC is.
  with_policy(with({"--kernel", "3", "--alpha", "0.75"}), {{{{1, 2}}, {}}}, [](const auto& policy) {
    ASSERT_EQ(infinipot::rules_of(policy).size(), 2U);
    EXPECT_EQ(infinipot::rules_of(policy)[0].share, 0.75);
    EXPECT_EQ(infinipot::rules_of(policy)[1].smoothing.kernel, 3U);
    if constexpr (infinipot::RunsProbes<std::remove_cvref_t<decltype(policy)>>) {
      EXPECT_EQ(policy.longest_probe(), 2U);
    }
  });
}

TEST(ReadingOptions, EachWordIsAWayToCountOverHeads) {
  using infinipot::ReduceHeads;
  for (const auto& [word, expected] : {std::pair("sum", ReduceHeads::sum), std::pair("max", ReduceHeads::max),
                                       std::pair("max_share", ReduceHeads::max_share)})
    EXPECT_EQ(over_heads_of(with({"--over-heads", word})), expected) << word;
}

TEST(ReadingOptions, EachNameMakesItsPolicy) {
  Program program = plain;
  program.reads_entries = true;
  for (const char* name : {"infinipot", "streaming_llm", "snapkv", "tova", "h2o", "sirllm", "knorm",
                           "keydiff", "value_norm", "expected_attention", "temporal_redundancy"})
    with_policy(with({"--policy", name}, program), {{{{1}}, {}}},
                [&](const auto& policy) { EXPECT_EQ(policy.name(), name); });
  for (const auto& [name, alpha] : {std::pair("cap", 0.0), std::pair("nuc", 1.0)}) {
    const Options o = with({"--policy", name, "--alpha", "0.7"});
    EXPECT_EQ(o.alpha, alpha);
    EXPECT_EQ(o.granularity, "shared");
    EXPECT_EQ(o.kernel, 49U);
    with_policy(o, {{{{1}}, {}}}, [&](const auto& policy) { EXPECT_EQ(policy.name(), "infinipot"); });
  }
  EXPECT_NE(refusal({"--policy", "knorm"}).find("not 'knorm'"), std::string::npos);
  EXPECT_NE(refusal({"--policy", "expected_attention"}).find("not 'expected_attention'"), std::string::npos);
}

TEST(ReadingOptions, FramesOfTemporalRedundancyMustFit) {
  Program program = plain;
  program.reads_entries = true;
  const auto redundancy = [&](Arguments more) {
    more.insert(more.begin(), {"--policy", "temporal_redundancy", "--pot", "100", "--sinks", "4"});
    return more;
  };
  const Options o = with(redundancy({"--period", "9", "--frames", "5"}), program);
  EXPECT_EQ(o.period, 9U);
  EXPECT_EQ(o.frames, 5U);
  with_policy(o, {{{{1}}, {}}}, [](const auto& policy) {
    if constexpr (infinipot::ProtectsRecent<std::remove_cvref_t<decltype(policy)>>) {
      EXPECT_EQ(policy.recent(50), 45U);
    }
  });
  EXPECT_NE(refusal(redundancy({"--period", "9", "--frames", "6"}), program)
                .find("--keep 50 is out of range 58 .. 99"),
            std::string::npos);
  EXPECT_NE(refusal(redundancy({"--period", "0"}), program).find("--period"), std::string::npos);
  EXPECT_NE(refusal(redundancy({"--frames", "0"}), program).find("--frames"), std::string::npos);
  EXPECT_NE(refusal({"--policy", "expected_attention", "--future", "0"}, program).find("--future"),
            std::string::npos);
  EXPECT_EQ(with({"--policy", "expected_attention", "--future", "7"}, program).future, 7U);
  EXPECT_NE(refusal({"--future", "7"}).find("--future"), std::string::npos) << "not of every program";
}

TEST(ReadingOptions, SparesEntriesForTheLongestCatalyst) {
  const Aims aims{{{{1, 2}}, {}}, {{{3}, {3, 4, 5, 6}}, {}}, {{{7}}, {}}};
  const Options o = with({"--pot", "100"});
  for (const std::size_t turn : {0U, 1U, 2U}) {
    const infinipot::Infinipot policy = infinipot_policy(o, aims, turn);
    EXPECT_EQ(policy.longest_probe(), 4U);
    for (std::size_t i = 0; i < aims[turn].catalysts.size(); ++i) {
      const auto probe = policy.probe(i, {});
      EXPECT_EQ(std::vector<infinipot::Token>(probe.begin(), probe.end()), aims[turn].catalysts[i]);
    }
    EXPECT_TRUE(policy.probe(aims[turn].catalysts.size(), {}).empty());
  }
  const auto refused = [&](std::size_t longest) {
    return with_policy(o, {{{{1}}, {}}, {{std::vector<infinipot::Token>(longest)}, {}}},
                       [&](const auto& policy) {
                         try {
                           check_fits(policy, o, 10);
                         } catch (const UsageError& error) {
                           return std::string(error.what());
                         }
                         return std::string("accepted");
                       });
  };
  EXPECT_EQ(refused(49), "accepted");  // beside 50 entries that are kept and one to read
  EXPECT_NE(refused(50).find("--keep 50 is out of range 10 .. 49"), std::string::npos);
  // Nobody runs them when NuC alone decides.
  EXPECT_EQ(infinipot_policy(with({"--alpha", "1"}), aims, 0).longest_probe(), 0U);
}

TEST(ReadingOptions, RefusalsNameTheOptionAndItsRange) {
  struct Case {
    Arguments arguments;
    std::string message;
  };
  const std::vector<Case> cases{
      {{"--unknown"}, "--unknown"},
      {{"extra"}, "extra"},
      {{"--pot"}, "--pot"},
      {{"--pot", "10", "--pot", "20"}, "--pot"},
      {{"--pot", "many"}, "--pot: must be a whole number, at least 2, not 'many'"},
      {{"--pot", ""}, "--pot: must be a whole number, at least 2, not ''"},
      {{"--pot", "-5"}, "--pot: must be a whole number, at least 2, not '-5'"},
      {{"--pot", "1"}, "--pot: must be a whole number, at least 2, not '1'"},
      {{"--pot", "64.5"}, "--pot: must be a whole number, at least 2, not '64.5'"},
      {{"--pot", "64x"}, "not '64x'"},
      {{"--pot", "16777217"}, "--pot: must be a whole number, at most 16777216, not '16777217'"},
      {{"--pot", "99999999999999999999999"},
       "--pot: must be a whole number, at most 16777216, not '99999999999999999999999'"},
      {{"--keep", "0"}, "--keep: must be a whole number, at least 1, not '0'"},
      {{"--keep", "-1"}, "--keep"},
      {{"--max-tokens", "-1"}, "--max-tokens: must be a whole number, at least 0, not '-1'"},
      {{"--policy", "best"},
       "--policy: must be one of infinipot, cap, nuc, streaming_llm, truncation, reread, snapkv, "
       "tova, h2o, "
       "sirllm, full, not 'best'"},
      {{"--alpha", "1.5"}, "--alpha: must be a number from 0 to 1, not '1.5'"},
      {{"--alpha", "-0.1"}, "--alpha: must be a number from 0 to 1"},
      {{"--alpha", "nan"}, "--alpha: must be a number from 0 to 1, not 'nan'"},
      {{"--granularity", "token"}, "--granularity: must be one of head, layer, shared, not 'token'"},
      {{"--over-heads", "mean"}, "--over-heads: must be one of sum, max, max_share, not 'mean'"},
      {{"--over-queries", "mean"}, "--over-queries: must be one of sum, max, not 'mean'"},
      {{"--layers", "-1"}, "--layers: must be a whole number, at least 0, not '-1'"},
      {{"--kernel", "4"}, "--kernel: must be an odd number from 1 to 65535, not '4'"},
      {{"--lag", "25"}, "--lag: must be at most half of --kernel, which is 24, not 25"},
      {{"--kernel", "5", "--lag", "3"}, "--lag: must be at most half of --kernel, which is 2, not 3"},
      {{"--kernel", "0"}, "--kernel: must be an odd number from 1 to 65535, not '0'"},
      {{"--sinks", "-1"}, "--sinks: must be a whole number, at least 0, not '-1'"},
      {{"--recent", "x"}, "--recent: must be a whole number, at least 0, not 'x'"},
      {{"--catalyst", ""}, "--catalyst"},
      {{"--policy", "reread", "--catalyst", "a", "--catalyst", "b"},
       "--catalyst: given 2 times, but with --policy reread it may be given once"},
      {{"--generate", "-1"}, "--generate: must be a whole number, at least 0, not '-1'"},
      {{"--temperature", "-0.5"}, "--temperature: must be a number, at least 0, not '-0.5'"},
      {{"--temperature", "inf"}, "--temperature: must be a number, at most 1000, not 'inf'"},
      {{"--temperature", "nan"}, "--temperature: must be a number, at least 0, not 'nan'"},
      {{"--top-p", "0"}, "--top-p: must be a number above 0 and at most 1, not '0'"},
      {{"--top-p", "1.01"}, "--top-p: must be a number above 0 and at most 1"},
      {{"--seed", "-1"}, "--seed: must be a whole number, at least 0, not '-1'"},
      {{"--chunk", "0"}, "--chunk: must be a whole number, at least 1, not '0'"},
      {{"--threads", "0"}, "--threads: must be a whole number, at least 1, not '0'"},
      {{"--json", ""}, "--json"},
      {{"--window", "0"}, "--window: must be a whole number, at least 1, not '0'"},
      {{"--decay", "0"}, "--decay: must be a number above 0 and at most 1, not '0'"},
      {{"--decay", "1.1"}, "--decay: must be a number above 0 and at most 1"},
  };
  for (const auto& [arguments, message] : cases) {
    const std::string found = refusal(arguments);
    EXPECT_NE(found.find(message), std::string::npos) << "found: " << found << "\nwanted: " << message;
    EXPECT_EQ(found.find('\n'), std::string::npos) << found;
  }
}

TEST(ReadingOptions, RefusesWhatDoesNotFitThePot) {
  struct Case {
    Arguments arguments;
    std::string message;
  };
  const std::vector<Case> cases{
      {{"--pot", "100", "--keep", "100"}, "--keep 100 is out of range 4 .. 98 for --pot 100"},
      {{"--pot", "100", "--keep", "100", "--policy", "tova"}, "--keep 100 is out of range 5 .. 99"},
      {{"--pot", "100", "--sinks", "40", "--recent", "20"}, "--keep 50 is out of range 60 .. 98"},
      {{"--pot", "100", "--sinks", "99"}, "--pot 100 is too small; it must be at least 101"},
      {{"--pot", "100", "--policy", "snapkv"}, "--pot 100 is too small; it must be at least 132"},
      {{"--pot", "150", "--policy", "snapkv", "--keep", "90"}, "--keep 90 is out of range 68 .. 86"},
      {{"--pot", "100", "--policy", "h2o", "--sinks", "60"},
       "--pot 100 is too small; it must be at least 120"},
      {{"--pot", "4"}, "--pot 4 is too small; it must be at least 6"},
  };
  for (const auto& [arguments, message] : cases)
    EXPECT_NE(refusal(arguments).find(message), std::string::npos)
        << "found: " << refusal(arguments) << "\nwanted: " << message;
  EXPECT_EQ(refusal({"--pot", "100", "--keep", "98"}), "accepted");
  EXPECT_EQ(refusal({"--pot", "100", "--keep", "99", "--policy", "streaming_llm"}), "accepted");
  EXPECT_EQ(refusal({"--pot", "4", "--policy", "full"}), "accepted");  // whose pot is made to fit
}

TEST(ReadingOptions, RefusesACatalystAsLongAsThePot) {
  const Options options = with({"--pot", "100"});
  EXPECT_THROW(with_policy(options, {{{std::vector<infinipot::Token>(100)}, {}}},
                           [&](const auto& policy) { check_fits(policy, options, 10); }),
               UsageError);
  // Nobody runs it when NuC alone decides.
  const Options nuc = with({"--pot", "100", "--alpha", "1"});
  EXPECT_NO_THROW(with_policy(nuc, {{{std::vector<infinipot::Token>(100)}, {}}},
                              [&](const auto& policy) { check_fits(policy, nuc, 10); }));
}

TEST(ReadingOptions, LeastKeepIsTheLeast) {
  const Options options = with({"--pot", "100", "--policy", "h2o", "--keep", "59", "--sinks", "0"});
  const infinipot::H2o policy;
  EXPECT_NO_THROW(check_fits(policy, options, 30));  // 30 and 59 / 2 = 29 recent ones
  EXPECT_THROW(check_fits(policy, options, 31), UsageError);
}

TEST(ReadingOptions, RequiredOnesAreMissed) {
  const std::vector<Arguments> incomplete{{},
                                          {"--document", "d", "--question", "q"},
                                          {"--model", "m", "--question", "q"},
                                          {"--model", "m", "--document", "d"},
                                          {"--model", "m", "--document", "d", "--question", ""},
                                          {"--model", "", "--document", "d", "--question", "q"},
                                          {"--model", "m", "--document", "", "--question", "q"}};
  for (const Arguments& arguments : incomplete) EXPECT_THROW(parse(arguments), UsageError);
}

TEST(ReadingOptions, ACheckReadsNothing) {
  const auto check = [](const Arguments& more) {
    Arguments all{"--model", "m", "--check"};
    all.insert(all.end(), more.begin(), more.end());
    return parse(all);
  };
  EXPECT_TRUE(check({})->check);
  EXPECT_TRUE(check({})->turns.empty());
  EXPECT_FALSE(with({}).check);
  const auto refused = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const Arguments& more :
       {Arguments{"--document", "d"}, {"--question", "q"}, {"--document", "d", "--question", "q"}})
    EXPECT_EQ(refused([&] { check(more); }),
              "--check: reads no --document and asks no --question (see --help)");
  EXPECT_EQ(refused([] {
              parse({"--model", "m", "--question", "q"});
            }),
            "--document is required (see --help)");
  EXPECT_EQ(refused([] {
              parse({"--model", "m", "--document", "d"});
            }),
            "--question is required (see --help)");
  EXPECT_THROW(parse({"--check"}), UsageError);
}

TEST(ReadingOptions, HelpIsComplete) {
  const std::string help = printed("--help");
  for (const char* option : {"--model FILE",
                             "--document FILE|-",
                             "--question TEXT",
                             "--pot N",
                             "--pin TEXT",
                             "--keep N",
                             "--policy NAME",
                             "--alpha X",
                             "--granularity head|layer|shared",
                             "--over-heads sum|max|max_share",
                             "--kernel N",
                             "--sinks N",
                             "--recent N",
                             "--over-queries sum|max",
                             "--catalyst TEXT|@prompt|@question|@generic",
                             "--answer-prefix TEXT",
                             "--answer TEXT",
                             "--needle TEXT",
                             "--max-tokens N",
                             "--generate N",
                             "--chunk N",
                             "--threads N",
                             "--json FILE|-",
                             "--report FILE.html",
                             "--report-kept",
                             "--timeline N",
                             "Several questions",
                             "--seed N",
                             "--temperature X",
                             "--top-p X",
                             "--window N",
                             "--block N",
                             "--decay X",
                             "--help",
                             "--version",
                             "Exit status"})
    EXPECT_NE(help.find(option), std::string::npos) << option;
  for (const char* policy : {"infinipot", "streaming_llm", "snapkv", "tova", "h2o", "sirllm", "full"})
    EXPECT_NE(help.find(policy), std::string::npos) << policy;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
  EXPECT_EQ(printed("-h"), help);
}

TEST(ReadingOptions, HelpIsInGroups) {
  Program program = extended();
  program.reads_entries = true;
  const std::string help = printed("--help", program);
  std::size_t from = 0;
  for (const char* part : {"\nModel and text:\n",
                           "  --document",
                           "\nPot:\n",
                           "  --policy",
                           "  --cache-type",
                           "\nPolicies infinipot, cap and nuc:\n",
                           "  --catalyst",
                           "\nPolicy reread:\n",
                           "  --block",
                           "\nPolicy snapkv:\n",
                           "  --window",
                           "\nPolicy sirllm:\n",
                           "  --decay",
                           "\nPolicy expected_attention:\n",
                           "  --future",
                           "\nPolicy temporal_redundancy:\n",
                           "  --frames",
                           "\nAnswer:\n",
                           "  --generate",
                           "\nMeasurements and output:\n",
                           "  --json",
                           "\nRunning:\n",
                           "  --threads",
                           "  --rpc",
                           "--help",
                           "  --version",
                           "Of this program only.\nThe answer appears",
                           "\nExit status"}) {
    const std::size_t at = help.find(part, from);
    ASSERT_NE(at, std::string::npos) << part << " in\n" << help.substr(from);
    from = at;
  }
  EXPECT_EQ(help.find("Options:"), std::string::npos);
  EXPECT_EQ(help.find("\n\n\n"), std::string::npos);
}

TEST(ReadingOptions, HelpNamesNoTechnicalLimit) {
  std::string digits;
  for (const char c : printed("--help")) {
    digits = c >= '0' && c <= '9' ? digits + c : "";
    EXPECT_LT(digits.size(), 5U) << digits;
  }
}

TEST(ReadingOptions, HelpIsTheProgramsOwn) {
  const std::string plain_help = printed("--help"), help = printed("--help", extended());
  EXPECT_NE(plain_help.find("Usage: infinipot-read "), std::string::npos);
  EXPECT_NE(help.find("Usage: other "), std::string::npos);
  EXPECT_NE(help.find("another model"), std::string::npos);
  EXPECT_NE(help.find("--granularity shared"), std::string::npos);
  for (const char* part : {"--cache-type f32|f16", "element [f16]", "--rpc HOST:PORT,...", "servers [none]",
                           "context_shift", "Of this program only."}) {
    EXPECT_NE(help.find(part), std::string::npos) << part;
    EXPECT_EQ(plain_help.find(part), std::string::npos) << part;
  }
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
}

TEST(ReadingOptions, HelpTellsEveryDefault) {
  std::string help = printed("--help");
  help.erase(0, help.find("Model and text:"));
  std::size_t options = 0, defaults = 0;
  for (std::size_t at = help.find("\n  --"); at != std::string::npos; at = help.find("\n  --", at + 1))
    ++options;
  for (const char c : help) defaults += c == '[' ? 1U : 0U;
  EXPECT_EQ(options, defaults + 4);  // --model, --document, --question and --version have none
}

TEST(ReadingOptions, VersionIsPrinted) {
  EXPECT_EQ(printed("--version"), std::to_string(infinipot::version_major) + "." +
                                      std::to_string(infinipot::version_minor) + "." +
                                      std::to_string(infinipot::version_patch) + "\n");
}

}  // namespace
}  // namespace reading
