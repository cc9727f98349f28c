// Conversations of several turns with the whole program. All of it needs the real model and skips without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "long_text.hpp"
#include "program.hpp"
#include "read_model.hpp"
#include "temporary_file.hpp"

namespace reading {
namespace {

using nlohmann::json;
using test::Arguments;
using test::long_text;
using test::Outcome;
using test::ReadModel;
using test::run_program;
using test::TemporaryFile;

/// Two documents, of which the first tells the password, which is asked for after the second.
class TwoTurns : public ReadModel {
 protected:
  Arguments turns(const Arguments& more = {}) const {
    using test::operator+;
    return Arguments{"--model",         model_,
                     "--pot",           "240",
                     "--threads",       "2",
                     "--generate",      "16",
                     "--document",      text_.path(),
                     "--question",      "What did they see on day 3?",
                     "--document",      other_.path(),
                     "--question",      "What is the password of the lighthouse?",
                     "--answer-prefix", "",
                     "--answer-prefix", "The password of the lighthouse is",
                     "--needle",        "",
                     "--needle",        "lighthouse is marigold"} +
           more;
  }

  /// The report, of which the answers and more can be compared.
  json report_of(const Arguments& all) const {
    using test::operator+;
    const Outcome outcome = run_program(all + Arguments{"--json", "-"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.status == 0 ? outcome.json() : json::object();
  }

  const TemporaryFile other_{long_text().substr(0, 540)};  // which does not reach as far as the password
};

TEST_F(TwoTurns, TheSecondAnswerIsFromTheFirstDocument) {
  ASSERT_EQ(other_.content().find("marigold"), std::string::npos);
  const json r = report_of(turns());
  ASSERT_EQ(r.at("turns").size(), 2U);
  const json &first = r.at("turns").at(0), &second = r.at("turns").at(1);
  EXPECT_NE(second.at("answer_text").get<std::string>().find("marigold"), std::string::npos) << second;
  EXPECT_GT(second.at("hit_rate"), 0.5);
  EXPECT_LT(second.at("needle_position"), first.at("document_tokens"));
  EXPECT_TRUE(first.at("needle_position").is_null());
  EXPECT_TRUE(first.at("hit_rate").is_null());

  // The pot distilled before the first answer and between the two.
  const json alone = report(text_.path(), {"--pot", "240", "--generate", "0"});
  EXPECT_GT(alone.at("distillations"), 0);
  EXPECT_GT(r.at("distillations").get<int>(), alone.at("distillations").get<int>() + 1);
}

TEST_F(TwoTurns, ReportIsConsistent) {
  const json r = report_of(turns({"--answer", " wrong", "--answer", " marigold.", "--report-kept"}));
  const json &first = r.at("turns").at(0), &second = r.at("turns").at(1);
  EXPECT_EQ(first.at("document"), text_.path());
  EXPECT_EQ(second.at("document"), other_.path());
  EXPECT_EQ(first.at("question"), "What did they see on day 3?");
  EXPECT_EQ(second.at("answer_prefix"), "The password of the lighthouse is");
  EXPECT_EQ(r.at("document_tokens"),
            first.at("document_tokens").get<int>() + second.at("document_tokens").get<int>());
  for (const char* field : {"answer_text", "answer_tokens", "answer_nll", "hit_rate", "ttft_seconds"})
    EXPECT_EQ(r.at(field), second.at(field)) << field;
  EXPECT_LT(second.at("answer_nll"), first.at("answer_nll"));
  EXPECT_EQ(r.at("settings").at("document"), json({text_.path(), other_.path()}));
  EXPECT_EQ(r.at("settings").at("answer"), json({" wrong", " marigold."}));

  const auto kept = r.at("kept").get<std::vector<std::uint64_t>>();
  EXPECT_EQ(kept.size(), r.at("pot_entries"));
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  const std::uint64_t read =
      r.at("prompt_tokens").get<std::uint64_t>() + first.at("answer_tokens").get<std::uint64_t>();
  EXPECT_EQ(kept.back(), read - 1);
  EXPECT_TRUE(
      std::binary_search(kept.begin(), kept.end(), second.at("needle_position").get<std::uint64_t>()));
  EXPECT_EQ(r.at("full_cache_bytes"),
            (read + second.at("answer_tokens").get<std::uint64_t>()) * 30 * 3 * 64 * 2 * 4);
}

TEST_F(TwoTurns, AnswersArePrintedOneAfterTheOther) {
  const TemporaryFile file;
  const Outcome outcome = run_program(turns({"--json", file.path()}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json r = json::parse(file.content());
  EXPECT_EQ(outcome.out, r.at("turns").at(0).at("answer_text").get<std::string>() + "\n" +
                             r.at("turns").at(1).at("answer_text").get<std::string>() + "\n");
  EXPECT_NE(outcome.err.find("still in the pot (question 2)"), std::string::npos) << outcome.err;
}

TEST_F(TwoTurns, FullEqualsAPotThatNeverFills) {
  using test::operator+;
  const Arguments answer{"--answer", "", "--answer", " marigold."};
  Arguments roomy = turns(answer);
  *(std::find(roomy.begin(), roomy.end(), "--pot") + 1) = "1500";
  const json full = report_of(turns(answer + Arguments{"--policy", "full"})), expected = report_of(roomy);
  EXPECT_EQ(full.at("distillations"), 0);
  EXPECT_EQ(expected.at("distillations"), 0);
  for (const char* field : {"prompt_tokens", "pot_entries", "hit_rate", "full_cache_bytes"})
    EXPECT_EQ(full.at(field), expected.at(field)) << field;
  for (const std::size_t k : {0U, 1U})
    EXPECT_EQ(full.at("turns").at(k).at("answer_text"), expected.at("turns").at(k).at("answer_text"));
  EXPECT_NEAR(full.at("answer_nll"), expected.at("answer_nll"), 1e-4);
}

TEST_F(TwoTurns, PoliciesThatWatchInOtherWaysRun) {
  for (const char* policy : {"streaming_llm", "snapkv", "h2o", "expected_attention"}) {
    const json r = report_of(turns({"--policy", policy, "--max-tokens", "120", "--window", "16"}));
    EXPECT_GT(r.at("distillations"), 0) << policy;
    EXPECT_EQ(r.at("turns").size(), 2U) << policy;
    EXPECT_EQ(r.at("document_tokens"), 240) << policy;
  }
}

}  // namespace
}  // namespace reading
