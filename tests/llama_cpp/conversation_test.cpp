// A conversation with infinipot-llama. It needs the real model and skips without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "programs.hpp"
#include "read/long_text.hpp"
#include "smollm2/test_files.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using reading::test::long_text;
using reading::test::TemporaryFile;
using test::Arguments;
using test::infinipot_llama;
using test::report_of;
using test::operator+;

/// Two documents, of which the first tells the password, which is asked for after the second.
class LlamaConversation : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    model_ = path->string();
  }

  json report(const Arguments& more) const {
    return report_of(infinipot_llama, Arguments{"--model",         model_,
                                                "--pot",           "240",
                                                "--threads",       "1",
                                                "--generate",      "16",
                                                "--document",      text_.path(),
                                                "--question",      "What did they see on day 3?",
                                                "--document",      other_.path(),
                                                "--question",      "What is the password of the lighthouse?",
                                                "--answer-prefix", "",
                                                "--answer-prefix", "The password of the lighthouse is",
                                                "--needle",        "",
                                                "--needle",        "lighthouse is marigold",
                                                "--report-kept"} +
                                          more);
  }

  std::string model_;
  const TemporaryFile text_{long_text()};
  const TemporaryFile other_{long_text().substr(0, 540)};  // which does not reach as far as the password
};

TEST_F(LlamaConversation, TheSecondAnswerIsFromTheFirstDocumentWhateverIsMeasured) {
  ASSERT_EQ(other_.content().find("marigold"), std::string::npos);
  const json without = report({}), by_attention = report({"--flash-attention", "off"});
  for (const json& r : {without, by_attention}) {
    const json &first = r.at("turns").at(0), &second = r.at("turns").at(1);
    EXPECT_NE(second.at("answer_text").get<std::string>().find("marigold"), std::string::npos) << second;
    EXPECT_GT(second.at("hit_rate"), 0.5);
    EXPECT_LT(second.at("needle_position"), first.at("document_tokens"));
    EXPECT_GT(first.at("document_tokens"), 240);   // more than the pot has
    EXPECT_GT(second.at("document_tokens"), 100);  // more than a distillation leaves free
    const auto kept = r.at("kept").get<std::vector<std::uint64_t>>();
    EXPECT_EQ(kept.size(), r.at("pot_entries"));
    EXPECT_TRUE(std::ranges::is_sorted(kept));
    EXPECT_TRUE(std::ranges::binary_search(kept, second.at("needle_position").get<std::uint64_t>()));
  }

  const json with = report({"--answer", " wrong", "--answer", " marigold."});
  for (const char* field : {"kept", "distillations", "prompt_tokens", "answer_text"})
    EXPECT_EQ(with.at(field), without.at(field)) << field;
  EXPECT_EQ(with.at("turns").at(0).at("answer_text"), without.at("turns").at(0).at("answer_text"));
  EXPECT_LT(with.at("turns").at(1).at("answer_nll"), with.at("turns").at(0).at("answer_nll"));
}

// Blocks of q8_0 are 32 numbers in 34 bytes; values can be such only with flash attention.
TEST_F(LlamaConversation, PotTakesWhatItsCacheTypeTakes) {
  const auto bytes = [&](const char* type, const char* flash_attention) {
    return report({"--cache-type", type, "--flash-attention", flash_attention, "--max-tokens", "20"})
        .at("pot_bytes")
        .get<std::uint64_t>();
  };
  const std::uint64_t rows = 256 * 30 * 3;
  EXPECT_EQ(bytes("f32", "on"), rows * 64 * (4 + 4));
  EXPECT_EQ(bytes("f16", "on"), rows * 64 * (2 + 2));
  EXPECT_EQ(bytes("q8_0", "on"), rows * (68 + 68));
  EXPECT_EQ(bytes("q8_0", "off"), rows * (68 + 128));
}

}  // namespace
}  // namespace llama_cpp
