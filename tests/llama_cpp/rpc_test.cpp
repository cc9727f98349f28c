// Layers on other machines: two RPC servers of llama.cpp. It needs those and the real model and skips
// without.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "programs.hpp"
#include "read/long_text.hpp"
#include "read/temporary_folder.hpp"
#include "rpc_server.hpp"
#include "smollm2/test_files.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using reading::test::long_text;
using reading::test::TemporaryFile;
using test::Arguments;
using test::infinipot_llama;
using test::Outcome;
using test::RpcServer;
using test::operator+;

/// More than a server needs to take its part of the weights.
constexpr double seconds_of_computing = 1;

class Rpc : public testing::Test {
 protected:
  void SetUp() override {
    const auto model = smollm2::test::model_path();
    if (!model) GTEST_SKIP() << smollm2::test::no_model;
    const auto binary = test::installed("bin/rpc-server");
    if (!binary) GTEST_SKIP() << test::no_llama_cpp;
    model_ = model->string();
    // Where there is a debugger, llama.cpp has it print to standard output when a server is gone.
    setenv("GGML_NO_BACKTRACE", "1", 1);
    for (auto& server : servers_) server = std::make_unique<RpcServer>(*binary);
  }

  Arguments arguments(const Arguments& more = {}) const {
    return Arguments{"--model",         model_,
                     "--document",      text_.path(),
                     "--question",      "What is the password?",
                     "--answer-prefix", "The password is",
                     "--answer",        " marigold.",
                     "--pot",           "128",
                     "--generate",      "8",
                     "--threads",       "1"} +
           more;
  }

  Arguments remote() const { return {"--rpc", servers_[0]->address() + "," + servers_[1]->address()}; }

  std::string model_;
  std::unique_ptr<RpcServer> servers_[2];
  const TemporaryFile text_{long_text()};
};

TEST_F(Rpc, GivesWhatOneMachineGives) {
  const auto expect_same = [&](const char* flash_attention, const char* granularity, const char* type) {
    SCOPED_TRACE(testing::Message() << flash_attention << " " << granularity << " " << type);
    const Arguments all = arguments({"--report-kept", "--flash-attention", flash_attention, "--granularity",
                                     granularity, "--cache-type", type});
    const json alone = test::report_of(infinipot_llama, all);
    const json shared = test::report_of(infinipot_llama, all + remote());
    EXPECT_GT(shared.at("distillations"), 4);
    for (const char* field : {"kept", "answer_text", "distillations", "pot_bytes"})
      EXPECT_EQ(shared.at(field), alone.at(field)) << field;
    EXPECT_NEAR(shared.at("answer_nll"), alone.at("answer_nll"), 1e-4);
  };
  expect_same("on", "shared", "f16");
  expect_same("off", "shared", "f16");
  expect_same("on", "head", "f16");
  expect_same("off", "head", "f16");
  expect_same("on", "head", "q8_0");
}

TEST_F(Rpc, ServerThatIsGoneIsNamed) {
  for (auto& server : servers_) {
    server->stop();
    const Outcome outcome = test::run(infinipot_llama, arguments(remote()));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.err, "infinipot-llama: RPC server " + server->address() + " cannot be reached\n");
    server = std::make_unique<RpcServer>(*test::installed("bin/rpc-server"));
  }
}

// The layers are really there: both servers compute, and without either of them nothing goes on.
TEST_F(Rpc, EndsWithAServerThatHasLayers) {
  const std::string chapter = long_text();
  std::string book;
  for (int i = 0; i < 40; ++i) book += chapter;
  const TemporaryFile document(book);
  for (const std::size_t k : {0U, 1U}) {
    std::future<Outcome> reading = std::async(std::launch::async, [&] {
      return test::run(infinipot_llama, Arguments{"--model", model_, "--document", document.path(),
                                                  "--question", "Why?", "--pot", "128", "--threads", "1"} +
                                            remote());
    });
    EXPECT_TRUE(test::wait_until([&] {
      return servers_[0]->seconds_of_work() > seconds_of_computing &&
             servers_[1]->seconds_of_work() > seconds_of_computing;
    }));
    servers_[k]->stop();
    const Outcome outcome = reading.get();
    EXPECT_NE(outcome.status, 0);
    EXPECT_NE(outcome.status, test::took_too_long);
    EXPECT_EQ(outcome.out, "");
    for (auto& server : servers_) server = std::make_unique<RpcServer>(*test::installed("bin/rpc-server"));
  }
}

TEST_F(Rpc, SharesTheLayersOfManyConversations) {
  json conversations = json::array();
  for (const char* question : {"What is the password?", "What did they see on day 29?", "Where was it?"})
    conversations.push_back({{"turns", json::array({{{"document", text_.path()}, {"question", question}}})}});
  const TemporaryFile file(conversations.dump());
  const Arguments all{"--model",       model_, "--conversations", file.path(), "--parallel", "3",
                      "--pot",         "128",  "--generate",      "8",         "--threads",  "1",
                      "--granularity", "head"};
  const json alone = test::report_of(infinipot_llama, all);
  const json shared = test::report_of(infinipot_llama, all + remote());
  for (std::size_t i = 0; i < conversations.size(); ++i)
    for (const char* field : {"answer_text", "distillations", "prompt_tokens"})
      EXPECT_EQ(shared.at("conversations").at(i).at(field), alone.at("conversations").at(i).at(field))
          << field;
}

/// All tokens of an archive, which is of all that was read.
std::vector<infinipot::Token> tokens_of(const std::string& path) {
  const auto info = infinipot::FileArchive::inspect(path);
  EXPECT_EQ(info.stats.damaged, 0U);
  auto archive = infinipot::FileArchive::open(path, info.settings, infinipot::Access::read);
  infinipot::FileArchive::Block block;
  std::vector<infinipot::Token> tokens;
  while (archive.read(tokens.size(), block))
    for (const infinipot::Entry& entry : block.entries()) {
      EXPECT_EQ(entry.position, tokens.size());
      tokens.push_back(entry.token);
    }
  return tokens;
}

// llama.cpp ends the program when a server is gone. What was in the archive's file then stays there.
TEST_F(Rpc, ServerThatEndsLosesNothingThatWasArchived) {
  const reading::test::TemporaryFolder folder;
  const std::string archive = folder.path("read.archive"), whole = folder.path("whole.archive");
  std::string book;
  for (int i = 0; i < 40; ++i) book += long_text();
  const TemporaryFile document(book);
  const Arguments reading{"--model", model_, "--document", document.path(), "--pot", "128", "--threads", "1"};
  std::uintmax_t written = 0;
  std::future<Outcome> running = std::async(std::launch::async, [&] {
    return test::run(infinipot_llama, reading + Arguments{"--archive", archive} + remote());
  });
  EXPECT_TRUE(test::wait_until([&] {
    std::error_code error;
    written = std::filesystem::file_size(archive, error);
    return !error && written > 3'000'000;  // hundreds of tokens
  }));
  servers_[1]->stop();
  const Outcome outcome = running.get();
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("infinipot-llama: llama.cpp has given up: "), std::string::npos) << outcome.err;

  const std::vector<infinipot::Token> archived = tokens_of(archive);
  EXPECT_GE(std::filesystem::file_size(archive), written);
  EXPECT_GT(archived.size(), 200U);
  ASSERT_EQ(test::run(infinipot_llama, reading + Arguments{"--archive", whole, "--archive-type", "tokens",
                                                           "--max-tokens", std::to_string(archived.size())})
                .status,
            0);
  const std::vector<infinipot::Token> all = tokens_of(whole);
  ASSERT_GE(all.size(), archived.size());
  EXPECT_TRUE(std::equal(archived.begin(), archived.end(), all.begin()));
  const json asked =
      test::report_of(infinipot_llama, {"--model", model_, "--archive", archive, "--pot", "128", "--threads",
                                        "1", "--question", "What is the password?", "--answer-prefix",
                                        "The password is", "--generate", "4"});
  EXPECT_EQ(asked.at("turns").at(0).at("archive_tokens"), archived.size());
  EXPECT_GT(asked.at("turns").at(0).at("recalled_positions").size(), 0U);
}

}  // namespace
}  // namespace llama_cpp
