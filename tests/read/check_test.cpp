// --check: the whole program on a tiny model, and on the real one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "smollm2/test_files.hpp"
#include "tiny_reader.hpp"

namespace reading {
namespace {

using test::Arguments;
using test::Outcome;
using test::run_program;
using test::TinyReader;
using test::operator+;

constexpr const char* right = "the adapter does what it says\n";

TEST_F(TinyReader, ChecksItsAdapterWithEveryCacheType) {
  for (const char* type : {"f32", "f16", "bf16", "int8", "int4"}) {
    const Outcome outcome = run_program(with({"--check", "--cache-type", type}));
    EXPECT_EQ(outcome.status, 0) << type << "\n" << outcome.out << outcome.err;
    EXPECT_EQ(outcome.out.rfind(right, 0), 0U) << type << "\n" << outcome.out;
    EXPECT_EQ(outcome.err, "");
  }
}

TEST_F(TinyReader, ACheckThatFindsSomethingExitsWith1) {
  std::vector<std::byte> bytes = smollm2::test::tiny_chatting_file();
  std::fill_n(bytes.end() - 64, 64, std::byte{0xFF});  // NaN: the embedding of the last token, tied to logits
  const std::string model =
      folder_.file("nan.gguf", std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  const Outcome outcome = run_program({"--model", model, "--check", "--threads", "1", "--pot", "200"});
  EXPECT_EQ(outcome.status, 1) << outcome.out << outcome.err;
  EXPECT_EQ(outcome.out.rfind("the adapter is wrong:\n- the logits after token 0 of the text hold", 0), 0U)
      << outcome.out;
}

TEST_F(TinyReader, ACheckReadsNothing) {
  const Outcome outcome = run_program(asked({"--check"}));
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("--check: reads no --document"), std::string::npos) << outcome.err;
  const Outcome growing = run_program(with({"--check", "--positions", "growing"}));
  EXPECT_EQ(growing.status, 2);
  EXPECT_NE(growing.err.find("--check: needs --positions reindexed"), std::string::npos) << growing.err;
}

TEST(ReadProgram, ChecksItsAdapterOnTheRealModel) {
  const auto path = smollm2::test::model_path();
  if (!path) GTEST_SKIP() << smollm2::test::no_model;
  for (const char* type : {"f32", "f16", "bf16", "int8", "int4"}) {
    const Outcome outcome =
        run_program({"--model", path->string(), "--check", "--cache-type", type, "--pot", "256"});
    EXPECT_EQ(outcome.status, 0) << type << "\n" << outcome.out << outcome.err;
    EXPECT_EQ(outcome.out.rfind(right, 0), 0U) << type << "\n" << outcome.out;
    EXPECT_EQ(outcome.out.find("not judged"), std::string::npos) << type << "\n" << outcome.out;
  }
}

}  // namespace
}  // namespace reading
