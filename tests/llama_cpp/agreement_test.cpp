// Both reading programs keep the same and predict the same, as exactly as llama.cpp's settings allow. All of
// it needs the real model and skips without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "programs.hpp"
#include "smollm2/test_files.hpp"
#include "unpack.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using reading::test::TemporaryFile;
using test::Arguments;
using test::infinipot_llama;
using test::infinipot_read;
using test::report_of;
using test::operator+;

std::string day(std::size_t number) {
  const std::vector<std::string> things{"river", "mountain", "harbour", "garden", "library", "bakery"};
  return "On day " + std::to_string(number) + " they saw the " + things[number % things.size()] +
         " and wrote home.";
}

/// Some 780 tokens.
constexpr std::size_t length = 56;
std::string journey() {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) {
    text += day(i) + "\n";
    if (i == 24) text += "The password of the lighthouse is marigold.\n";
  }
  return text;
}

/// How it goes on after these words.
const std::string beginning = "On day " + std::to_string(length) + " they saw";
std::string continuation() {
  std::string text = day(length);
  for (std::size_t i = length + 1; i < length + 3; ++i) text += " " + day(i);
  return text.substr(beginning.size());
}

std::vector<std::uint64_t> kept(const json& report) {
  return report.at("kept").get<std::vector<std::uint64_t>>();
}

double share_of(const std::vector<std::uint64_t>& positions, const std::vector<std::uint64_t>& others) {
  std::vector<std::uint64_t> both;
  std::ranges::set_intersection(positions, others, std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(std::max(positions.size(), others.size()));
}

/// By policy. On one thread each: llama.cpp's threads wait for one another by spinning, which takes ten times
/// as long beside other tests.
class Agreement : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    packed_ = path->string();
    unpacked_ = std::make_unique<TemporaryFile>();
    test::unpack(packed_, unpacked_->path());
  }

  std::string unpacked() const { return unpacked_->path(); }
  const std::string& packed() const { return packed_; }

  json report(const std::string& program, const std::string& model, const Arguments& more) const {
    return report_of(program,
                     Arguments{"--model",         model,
                               "--document",      document_.path(),
                               "--question",      "What is the password of the lighthouse?",
                               "--needle",        "lighthouse is marigold",
                               "--answer-prefix", "They saw the mountain and wrote home. " + beginning,
                               "--answer",        continuation(),
                               "--policy",        GetParam(),
                               "--granularity",   "shared",
                               "--pot",           "400",
                               "--keep",          "300",
                               "--generate",      "0",
                               "--threads",       "1",
                               "--report-kept"} +
                         settings() + more);
  }

  /// Smooth scores, and all that a policy may need. The tolerances below were measured with these.
  static Arguments settings() {
    if (GetParam() != std::string("infinipot")) return {};
    return {"--catalyst", "@question", "--over-queries", "sum", "--over-heads", "max_share",
            "--kernel",   "9",         "--alpha",        "0.25"};
  }

  /// By the example engine.
  json expected() const { return report(infinipot_read, unpacked(), {}); }

  json found(const std::string& model, const char* cache_type, const char* flash_attention) const {
    return report(infinipot_llama, model, {"--cache-type", cache_type, "--flash-attention", flash_attention});
  }

 private:
  std::string packed_;
  std::unique_ptr<TemporaryFile> unpacked_;
  const TemporaryFile document_{journey()};
};

INSTANTIATE_TEST_SUITE_P(Of, Agreement,
                         testing::Values("infinipot", "snapkv", "h2o", "tova", "streaming_llm"),
                         [](const auto& policy) { return std::string(policy.param); });

struct Tolerance {
  double nll;          // of the answer, nats per token
  double least_share;  // of kept positions that are the same
};

void expect_agreement(const json& found, const json& expected, const Tolerance& tolerance) {
  SCOPED_TRACE(found.at("settings").dump());
  EXPECT_EQ(found.at("distillations"), expected.at("distillations"));
  EXPECT_NEAR(found.at("answer_nll"), expected.at("answer_nll"), tolerance.nll);
  EXPECT_GE(share_of(kept(found), kept(expected)), tolerance.least_share);
}

TEST_P(Agreement, OfBothPrograms) {
  const json expected = this->expected();
  ASSERT_GE(expected.at("distillations"), 4);
  ASSERT_FALSE(expected.at("hit_rate").is_null());

  const json exact = found(unpacked(), "f32", "off");
  expect_agreement(exact, expected, {.nll = 1e-3, .least_share = 1});
  EXPECT_EQ(kept(exact), kept(expected));
  EXPECT_EQ(exact.at("hit_rate"), expected.at("hit_rate"));
  const auto compare = [&](const char* cache_type, const char* flash_attention) {
    expect_agreement(found(unpacked(), cache_type, flash_attention), expected,
                     {.nll = 0.05, .least_share = 0.95});
  };
  compare("f16", "on");
  if (GetParam() != std::string("infinipot")) return;  // other caches and weights are nothing to a policy
  compare("f16", "off");
  compare("q8_0", "on");
  // With packed weights llama.cpp also rounds what they are multiplied with.
  expect_agreement(found(packed(), "f16", "on"), expected, {.nll = 0.05, .least_share = 0});
}

}  // namespace
}  // namespace llama_cpp
