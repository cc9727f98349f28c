#include "report.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "options.hpp"
#include "temporary_file.hpp"

namespace reading {
namespace {

using nlohmann::json;
using test::TemporaryFile;

const Program plain{.name = "infinipot-read", .model_help = "a model"};

Options with_turns(std::size_t count) {
  Options options;
  options.turns = {{"d.txt", "Why?", "It", " is", {"so"}}, {"", "How?", "", "", {}}};
  options.turns.resize(count);
  return options;
}

TurnReport turn(double scale) {
  return {.document_tokens = static_cast<std::uint64_t>(100 * scale),
          .document_position = static_cast<std::uint64_t>(5 * scale),
          .prompt_tokens = static_cast<std::uint64_t>(110 * scale),
          .prefill_seconds = 2 * scale,
          .ttft_seconds = 3 * scale,
          .answer_text = "answer " + std::to_string(static_cast<int>(scale)),
          .answer_tokens = static_cast<std::uint64_t>(scale),
          .answer_nll = scale,
          .hit_rate = scale / 8,
          .gold_kept = scale / 4,
          .answer_kept = scale / 16,
          .needle_position = static_cast<std::uint64_t>(7 * scale),
          .needle_tokens = 3};
}

Report with_reports(std::size_t count) {
  Report report;
  for (std::size_t k = 0; k < count; ++k) report.turns.push_back(turn(static_cast<double>(k + 1)));
  return report;
}

json written(const Report& report, const Options& options, const Program& program = plain) {
  const TemporaryFile file;
  write_json(file.path(), report, options, program);
  return json::parse(file.content());
}

TEST(Report, OfOneTurnHasPlainSettings) {
  const json settings = written(with_reports(1), with_turns(1)).at("settings");
  EXPECT_EQ(settings.at("document"), "d.txt");
  EXPECT_EQ(settings.at("question"), "Why?");
  EXPECT_EQ(settings.at("answer_prefix"), "It");
  EXPECT_EQ(settings.at("answer"), " is");
  EXPECT_EQ(settings.at("needle"), "so");

  Options several = with_turns(1);
  several.turns[0].needles = {"so", "because"};
  EXPECT_EQ(written(with_reports(1), several).at("settings").at("needle"), json({"so", "because"}));
}

TEST(Report, OfSeveralTurnsHasThemAsArrays) {
  const json settings = written(with_reports(2), with_turns(2)).at("settings");
  EXPECT_EQ(settings.at("document"), json({"d.txt", nullptr}));
  EXPECT_EQ(settings.at("question"), json({"Why?", "How?"}));
  EXPECT_EQ(settings.at("answer_prefix"), json({"It", ""}));
  EXPECT_EQ(settings.at("answer"), json({" is", ""}));
  EXPECT_EQ(settings.at("needle"), json({"so", ""}));
}

TEST(Report, SumsTurnsAndGivesTheLastAnswer) {
  const json r = written(with_reports(2), with_turns(2));
  EXPECT_EQ(r.at("document_tokens"), 300);
  EXPECT_EQ(r.at("prompt_tokens"), 330);
  EXPECT_EQ(r.at("prefill_seconds"), 6);
  EXPECT_EQ(r.at("tokens_per_second"), 55);
  for (const char* field :
       {"ttft_seconds", "answer_text", "answer_tokens", "answer_nll", "hit_rate", "gold_kept", "answer_kept"})
    EXPECT_EQ(r.at(field), r.at("turns").at(1).at(field)) << field;
  EXPECT_EQ(r.at("answer_text"), "answer 2");
}

TEST(Report, TellsOfEachTurn) {
  Report report = with_reports(2);
  report.turns[1].answer_nll = std::nan("");
  report.turns[1].hit_rate.reset();
  report.turns[1].answer_kept.reset();
  report.turns[1].document_position.reset();
  report.turns[1].needle_position.reset();
  report.turns[1].needle_tokens = 0;
  report.turns[1].archive = ArchiveReport{17, 4000, 0.5, "the archive cannot be written"};
  report.turns[1].recall = RecallReport{1.5, 2, 11, {3, 9}};
  const json turns = written(report, with_turns(2)).at("turns");
  EXPECT_EQ(turns, json::array({{{"question", "Why?"},
                                 {"document", "d.txt"},
                                 {"document_tokens", 100},
                                 {"document_position", 5},
                                 {"answer_prefix", "It"},
                                 {"answer_text", "answer 1"},
                                 {"answer_tokens", 1},
                                 {"answer_nll", 1.0},
                                 {"hit_rate", 0.125},
                                 {"gold_kept", 0.25},
                                 {"answer_kept", 0.0625},
                                 {"ttft_seconds", 3.0},
                                 {"needle_position", 7},
                                 {"needle_tokens", 3},
                                 {"interrupted", false},
                                 {"archive_tokens", nullptr},
                                 {"archive_bytes", nullptr},
                                 {"archive_seconds", nullptr},
                                 {"archive_ended", nullptr},
                                 {"recall_seconds", nullptr},
                                 {"recall_steps", nullptr},
                                 {"recall_distillations", nullptr},
                                 {"recalled_positions", nullptr}},
                                {{"question", "How?"},
                                 {"document", nullptr},
                                 {"document_tokens", 200},
                                 {"document_position", nullptr},
                                 {"answer_prefix", ""},
                                 {"answer_text", "answer 2"},
                                 {"answer_tokens", 2},
                                 {"answer_nll", nullptr},
                                 {"hit_rate", nullptr},
                                 {"gold_kept", 0.5},
                                 {"answer_kept", nullptr},
                                 {"ttft_seconds", 6.0},
                                 {"needle_position", nullptr},
                                 {"needle_tokens", 0},
                                 {"interrupted", false},
                                 {"archive_tokens", 17},
                                 {"archive_bytes", 4000},
                                 {"archive_seconds", 0.5},
                                 {"archive_ended", "the archive cannot be written"},
                                 {"recall_seconds", 1.5},
                                 {"recall_steps", 2},
                                 {"recall_distillations", 11},
                                 {"recalled_positions", json({3, 9})}}}));
}

TEST(Report, HasWhatWasKeptIfItIsThere) {
  Report report = with_reports(1);
  EXPECT_FALSE(written(report, with_turns(1)).contains("kept"));
  report.kept = {0, 1, 17};
  EXPECT_EQ(written(report, with_turns(1)).at("kept"), json({0, 1, 17}));
}

TEST(Report, HasNucIfItIsThere) {
  Report report = with_reports(1);
  EXPECT_FALSE(written(report, with_turns(1)).contains("nuc"));
  report.nuc = {0, 1.23456F, INFINITY};
  EXPECT_EQ(written(report, with_turns(1)).at("nuc"), json({0.0, 1.2346, nullptr}));
}

TEST(Report, HasTheTimelineIfItIsThere) {
  Report report = with_reports(1);
  EXPECT_FALSE(written(report, with_turns(1)).contains("timeline"));
  report.timeline = {{1000, 0.5, 1, 4096}, {2000, std::nan(""), 2, 8192}};
  EXPECT_EQ(written(report, with_turns(1)).at("timeline"),
            json::array(
                {{{"tokens", 1000}, {"seconds", 0.5}, {"distillations", 1}, {"resident_bytes", 4096}},
                 {{"tokens", 2000}, {"seconds", nullptr}, {"distillations", 2}, {"resident_bytes", 8192}}}));
}

TEST(Report, HasTheSettingsThatTheProgramHas) {
  Options options = with_turns(1);
  options.cache_type = "f32";
  options.flash_attention = "off";
  const json without = written(with_reports(1), options).at("settings");
  for (const char* name : {"cache_type", "flash_attention", "rpc"}) EXPECT_FALSE(without.contains(name));
  const Program more{.name = "other",
                     .model_help = "a model",
                     .more_options = {{"--cache-type", &Options::cache_type, {}, "", "", ""},
                                      {"--flash-attention", &Options::flash_attention, {}, "", "", ""}}};
  const json settings = written(with_reports(1), options, more).at("settings");
  EXPECT_EQ(settings.at("cache_type"), "f32");
  EXPECT_EQ(settings.at("flash_attention"), "off");
  EXPECT_FALSE(settings.contains("rpc"));
}

TEST(Report, IsPrinted) {
  const auto printed = [](const Report& report, const Options& options) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    print(report, options);
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
    return testing::internal::GetCapturedStderr();
  };
  Report report = with_reports(2);
  report.turns[0].needle_position.reset();
  report.turns[0].hit_rate.reset();
  Options options = with_turns(2);
  const std::string figures = printed(report, options);
  for (const char* part :
       {"300 document tokens through", "answer NLL 1.0000 nats per token (question 1)\n",
        "answer NLL 2.0000 nats per token (question 2)\n", "needle: 25.0 % still in the pot (question 2)\n",
        "the needle is not in the documents read (question 1)\n"})
    EXPECT_NE(figures.find(part), std::string::npos) << part << " in " << figures;
  EXPECT_EQ(figures.find("interrupted"), std::string::npos);

  report.turns.resize(1);
  report.interrupted = "interrupted after 3 tokens of the answer";
  options = with_turns(1);
  const std::string figures_of_one = printed(report, options);
  EXPECT_NE(figures_of_one.find("answer NLL 1.0000 nats per token\n"), std::string::npos);
  EXPECT_NE(figures_of_one.find("the needle is not in the document\n"), std::string::npos);
  EXPECT_EQ(figures_of_one.find("interrupted after 3 tokens of the answer\n"), 0U);
}

TEST(Report, OfAnInterruptedConversationHasTheTurnsThatThereAre) {
  Report report = with_reports(1);
  EXPECT_EQ(written(report, with_turns(2)).at("interrupted"), false);
  report.interrupted = "interrupted after 3 tokens of the answer";
  const json r = written(report, with_turns(2));
  EXPECT_EQ(r.at("interrupted"), true);
  EXPECT_EQ(r.at("turns").size(), 1U);
  EXPECT_EQ(r.at("settings").at("question").size(), 2U);
}

}  // namespace
}  // namespace reading
