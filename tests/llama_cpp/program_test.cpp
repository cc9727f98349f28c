// The program infinipot-llama, on a tiny model that makes no sense.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "programs.hpp"
#include "read/long_text.hpp"
#include "text.hpp"
#include "tiny_models.hpp"
#include "vocabularies.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using reading::test::long_text;
using reading::test::TemporaryFile;
using test::Arguments;
using test::infinipot_llama;
using test::infinipot_read;
using test::Outcome;
using test::report_of;
using test::run;
using test::TemporaryModel;
using test::operator+;

void expect_refusal(const Outcome& outcome, const std::string& cause) {
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find(cause), std::string::npos) << "found: " << outcome.err << "\nwanted: " << cause;
  EXPECT_EQ(outcome.err.rfind("infinipot-llama: ", 0), 0U) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

class LlamaProgram : public testing::Test {
 protected:
  /// All that is needed, and more; one thread is enough.
  Arguments arguments(const Arguments& more = {}) const {
    Arguments all = Arguments{"--question", "what is it", "--threads", "1"} + more;
    for (const auto& [option, value] :
         {std::pair("--model", model_.path()), {"--document", text_.path()}, {"--pot", "200"}})
      if (std::find(all.begin(), all.end(), option) == all.end()) all = all + Arguments{option, value};
    return all;
  }
  Outcome run(const Arguments& more) const { return test::run(infinipot_llama, arguments(more)); }
  json report(const Arguments& more) const { return report_of(infinipot_llama, arguments(more)); }

  const TemporaryModel model_{test::tiny_chatting_file(), "chatting"};
  const TemporaryFile text_{long_text()};
};

TEST_F(LlamaProgram, HelpNamesWhatOnlyItHas) {
  const Outcome help = test::run(infinipot_llama, {"--help"}), other = test::run(infinipot_read, {"--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* part :
       {"--cache-type f32|f16|bf16|q8_0|q5_1|q5_0|q4_1|q4_0", "--flash-attention on|off",
        "--rpc HOST:PORT,...", "context_shift", "--policy context_shift is what llama.cpp itself does"}) {
    EXPECT_NE(help.out.find(part), std::string::npos) << part;
    EXPECT_EQ(other.out.find(part), std::string::npos) << part;
  }
  EXPECT_NE(other.out.find("--granularity head"), std::string::npos);
  EXPECT_NE(help.out.find("--granularity head"), std::string::npos);
}

TEST_F(LlamaProgram, RefusesOptions) {
  expect_refusal(run({"--cache-type", "q4_K"}),
                 "--cache-type: must be one of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, not 'q4_K'");
  expect_refusal(run({"--flash-attention", "auto"}), "--flash-attention: must be one of on, off, not 'auto'");
  expect_refusal(run({"--policy", "context_shift", "--granularity", "head"}),
                 "--policy context_shift: needs --granularity shared: llama.cpp drops whole cells");
  expect_refusal(run({"--policy", "context_shift", "--keep", "100"}), "--keep: context_shift keeps");
  expect_refusal(run({"--policy", "context_shift", "--sinks", "199"}),
                 "--pot 200 is too small; it must be at least 201");
}

TEST_F(LlamaProgram, ChecksItsAdapter) {
  for (const char* type : {"f32", "f16"})
    for (const char* flash_attention : {"on", "off"}) {
      const Outcome outcome =
          test::run(infinipot_llama, {"--model", model_.path(), "--check", "--pot", "200", "--threads", "1",
                                      "--cache-type", type, "--flash-attention", flash_attention});
      EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
      EXPECT_EQ(outcome.out.rfind("the adapter does what it says\n", 0), 0U) << outcome.out;
    }
  expect_refusal(run({"--check"}), "--check: reads no --document");
}

TEST_F(LlamaProgram, RefusesModelsWithTheCause) {
  const auto expect_cause = [&](const std::string& model, const std::string& cause) {
    expect_refusal(run({"--model", model}), "llama.cpp cannot load " + model + ": " + cause);
  };
  expect_cause("/no/such/model.gguf", "No such file or directory");
  expect_cause(std::filesystem::temp_directory_path(), "it is a folder, not a GGUF file");
  const TemporaryFile empty, text(std::string(5000, 'x')), head(std::string("GGUF\3\0\0\0\1\0\0", 11));
  expect_cause(empty.path(), "it is empty");
  expect_cause(text.path(), "invalid magic characters: 'xxxx', expected 'GGUF'");
  expect_cause(head.path(), "failed to read ");
  std::vector<std::byte> whole = test::tiny_chatting_file();
  whole.resize(whole.size() - 1000);
  expect_cause(TemporaryModel(whole, "cut").path(), "tensor 'token_embd.weight' data is not within the file");
  smollm2::test::GgufWriter unknown;
  unknown.string("general.architecture", "abacus");
  expect_cause(TemporaryModel(unknown.build(), "unknown").path(), "unknown model architecture: 'abacus'");
  smollm2::test::TinyLlama fewer = test::tiny_llama();
  fewer.tensors.erase("blk.1.attn_k.weight");
  expect_cause(TemporaryModel(test::tiny_file(fewer), "fewer").path(),
               "tensor 'blk.1.attn_k.weight' not found");
}

TEST_F(LlamaProgram, RefusesModelsWithoutAVocabulary) {
  const TemporaryModel model(test::tiny_file(test::tiny_llama()), "no_vocabulary");
  expect_refusal(run({"--model", model.path()}), "the model's file has no vocabulary");
}

TEST_F(LlamaProgram, RefusesServers) {
  for (const char* server : {"nonsense", ":50052", "127.0.0.1:", "127.0.0.1:50052,nonsense"})
    EXPECT_EQ(run({"--rpc", server}).status, 2) << server;
  expect_refusal(run({"--rpc", "nonsense"}), "RPC server 'nonsense' is not of the form host:port");
  expect_refusal(run({"--rpc", "127.0.0.1:1"}), "RPC server 127.0.0.1:1 cannot be reached");
  expect_refusal(run({"--rpc", "no.such.host.invalid:50052"}), "RPC server no.such.host.invalid:50052: ");
}

// Heads of this model have 6 numbers.
TEST_F(LlamaProgram, RefusesQuantisedCachesOfHeadsThatDoNotFit) {
  for (const char* flash_attention : {"on", "off"})
    expect_refusal(run({"--cache-type", "q8_0", "--flash-attention", flash_attention}),
                   "llama.cpp cannot hold keys of type q8_0: heads of this model have 6 numbers, which is no "
                   "multiple of 32");
}

// llama.cpp's own shifting made the mean NLL of a text 8.16, where it is 3.10.
TEST_F(LlamaProgram, ReadsModelsWhoseKeysLlamaCppMovesWrongly) {
  auto writer = test::tiny_chatting_writer();
  writer.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
  const TemporaryModel yarn(writer.u32("llama.rope.scaling.original_context_length", 128).build(), "yarn");
  const auto answer_nll = [&](const char* policy) {
    const json r = report({"--model", yarn.path(), "--policy", policy, "--pot", "200", "--answer", " so",
                           "--cache-type", "f32"});
    return r.at("answer_nll").get<double>();
  };
  const double pot = answer_nll("streaming_llm"), full = answer_nll("full");
  EXPECT_NEAR(pot, full, 1);
  EXPECT_GT(std::abs(answer_nll("context_shift") - pot), 1e-3) << "the text does not tell";
}

std::set<std::string> keys(const json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

TEST_F(LlamaProgram, ReportHasWhatTheOtherProgramsHas) {
  const json found = report({"--report-kept"});
  const json expected = report_of(infinipot_read, arguments({"--report-kept"}));
  EXPECT_EQ(keys(found), keys(expected));
  EXPECT_EQ(keys(found.at("turns").at(0)), keys(expected.at("turns").at(0)));
  std::set<std::string> settings = keys(expected.at("settings"));
  settings.insert({"cache_type", "flash_attention", "rpc", "conversations", "parallel"});
  settings.erase("positions");  // of infinipot-read alone
  EXPECT_EQ(keys(found.at("settings")), settings);
}

TEST_F(LlamaProgram, ReportsItsOwnSettings) {
  const json usual = report({}).at("settings");
  EXPECT_EQ(usual.at("cache_type"), "f16");
  EXPECT_EQ(usual.at("flash_attention"), "on");
  EXPECT_EQ(usual.at("rpc"), "");
  EXPECT_EQ(usual.at("granularity"), "shared");
  const json given = report({"--cache-type", "f32", "--flash-attention", "off"}).at("settings");
  EXPECT_EQ(given.at("cache_type"), "f32");
  EXPECT_EQ(given.at("flash_attention"), "off");
}

TEST_F(LlamaProgram, AgreesWithTheOtherProgram) {
  for (const char* policy : {"infinipot", "streaming_llm", "truncation", "snapkv", "tova", "h2o", "sirllm"}) {
    SCOPED_TRACE(policy);
    const Arguments more{"--policy", policy,          "--granularity", "shared", "--keep",
                         "170",      "--report-kept", "--chunk",       "50",     "--window",
                         "16",       "--answer",      "it is a bakery"};
    const json found = report(more + Arguments{"--cache-type", "f32", "--flash-attention", "off"});
    const json expected = report_of(infinipot_read, arguments(more));
    EXPECT_GT(found.at("distillations"), 10);
    for (const char* field : {"prompt_tokens", "document_tokens", "distillations", "kept", "pot_entries"})
      EXPECT_EQ(found.at(field), expected.at(field)) << field;
    EXPECT_NEAR(found.at("answer_nll"), expected.at("answer_nll"), 1e-3);
  }
}

TEST_F(LlamaProgram, AllPoliciesRun) {
  for (const std::string policy : {"infinipot", "streaming_llm", "truncation", "snapkv", "tova", "h2o",
                                   "sirllm", "context_shift", "full"})
    for (const char* flash_attention : {"on", "off"}) {
      const json r = report(
          {"--policy", policy, "--flash-attention", flash_attention, "--pot", "400", "--generate", "3"});
      EXPECT_EQ(r.at("distillations").get<int>() > 0, policy != "full") << policy;
      EXPECT_EQ(r.at("nan_scores"), 0) << policy;
    }
}

TEST_F(LlamaProgram, PotTakesWhatAContextTakesWhateverIsRead) {
  const TemporaryFile longer(long_text() + long_text() + long_text() + long_text());
  // Two layers of two heads with six keys and six values.
  const std::size_t numbers = 2 * 2 * (6 + 6);
  for (const auto& [pot, cells] : {std::pair(200U, 256U), std::pair(256U, 256U), std::pair(257U, 512U)})
    for (const auto& [type, bytes] : {std::pair("f16", 2U), std::pair("f32", 4U)})
      for (const std::string& document : {text_.path(), longer.path()}) {
        const json r =
            report_of(infinipot_llama,
                      {"--model", model_.path(), "--document", document, "--question", "what is it", "--pot",
                       std::to_string(pot), "--cache-type", type, "--generate", "1", "--threads", "1"});
        EXPECT_EQ(r.at("pot_bytes"), cells * numbers * bytes);
        EXPECT_EQ(r.at("pot_capacity"), pot);
        const auto read = r.at("prompt_tokens").get<std::size_t>() + r.at("answer_tokens").get<std::size_t>();
        EXPECT_EQ(r.at("full_cache_bytes"), read * numbers * bytes);
        EXPECT_GT(r.at("distillations"), 0);
      }
}

/// Positions that llama.cpp's own context shift has after it read this many tokens.
std::vector<std::uint64_t> shifted(std::uint64_t tokens, std::size_t pot, std::size_t keep_first) {
  std::vector<std::uint64_t> positions;
  for (std::uint64_t position = 0; position < tokens; ++position) {
    if (positions.size() == pot) {
      const std::size_t left = pot - keep_first;
      const auto from = positions.begin() + static_cast<std::ptrdiff_t>(keep_first);
      positions.erase(from, from + static_cast<std::ptrdiff_t>(left / 2));
    }
    positions.push_back(position);
  }
  return positions;
}

TEST_F(LlamaProgram, ContextShiftKeepsTheFirstAndTheNewestHalf) {
  const llama_model_ptr vocabulary = test::load_vocabulary(model_.path());
  const std::size_t header = Text(*vocabulary, model_.path()).chat().user.tokens.size();
  ASSERT_GT(header, 4U);
  for (const std::size_t pot : {200U, 201U, 256U})
    for (const std::size_t sinks : {std::size_t{0}, header - 1, header + 10}) {
      const json r = report({"--policy", "context_shift", "--pot", std::to_string(pot), "--sinks",
                             std::to_string(sinks), "--report-kept"});
      EXPECT_GT(r.at("distillations"), 5);
      EXPECT_EQ(r.at("kept").get<std::vector<std::uint64_t>>(),
                shifted(r.at("prompt_tokens").get<std::uint64_t>(), pot, std::max(header, sinks)));
    }
}

TEST_F(LlamaProgram, MeasuringAnAnswerLeavesTheConversationAlone) {
  const Arguments turns{"--document",    text_.path(), "--document", text_.path(), "--question",
                        "and now",       "--keep",     "170",        "--generate", "70",
                        "--report-kept", "--chunk",    "30"};
  // So long that its measuring distils.
  std::string answer;
  for (int i = 0; i < 20; ++i) answer += " it is a bakery";
  for (const char* flash_attention : {"on", "off"}) {
    const Arguments all = turns + Arguments{"--flash-attention", flash_attention};
    const json without = report(all);
    const json with = report(all + Arguments{"--answer", answer, "--answer", answer});
    EXPECT_TRUE(without.at("answer_nll").is_null());
    EXPECT_GT(with.at("answer_nll"), 0);
    for (const char* field : {"kept", "distillations", "prompt_tokens", "full_cache_bytes", "pot_bytes"})
      EXPECT_EQ(with.at(field), without.at(field)) << field;
    for (const std::size_t turn : {0U, 1U}) {
      const json &found = with.at("turns").at(turn), &expected = without.at("turns").at(turn);
      EXPECT_EQ(found.at("answer_text"), expected.at("answer_text"));
      EXPECT_EQ(found.at("answer_tokens"), expected.at("answer_tokens"));
    }
  }
}

TEST_F(LlamaProgram, AnyBytesAreADocument) {
  std::string bytes;
  for (int i = 0; i < 2000; ++i) bytes += static_cast<char>(i * 37 % 251 + i % 5);
  for (const std::string& text : {bytes, std::string(2000, '\0'), std::string(100'000, '\n'),
                                  std::string(100'000, 'a'), std::string()}) {
    const TemporaryFile document(text);
    const json r = report_of(
        infinipot_llama, {"--model", model_.path(), "--document", document.path(), "--question", "what is it",
                          "--pot", "200", "--max-tokens", "300", "--generate", "1", "--threads", "1"});
    EXPECT_LE(r.at("document_tokens"), 300);
  }
}

}  // namespace
}  // namespace llama_cpp
