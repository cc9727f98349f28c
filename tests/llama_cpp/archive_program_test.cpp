// infinipot-llama with an archive of tokens, on a tiny model.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "programs.hpp"
#include "read/temporary_folder.hpp"
#include "smollm2/tiny_chatting.hpp"

namespace llama_cpp {
namespace {

using nlohmann::json;
using test::Arguments;
using test::infinipot_llama;
using test::infinipot_read;
using test::report_of;
using test::run;
using test::operator+;

class LlamaArchive : public testing::Test {
 protected:
  Arguments archived(const Arguments& more) const {
    return Arguments{"--model", model_,      "--threads", "1",        "--pot",
                     "600",     "--archive", archive_,    "--recall", "2"} +
           more;
  }
  json asked(const std::string& program, const std::string& question, const Arguments& more = {}) const {
    return report_of(program, archived(Arguments{"--question", question, "--generate", "12"} + more));
  }

  const reading::test::TemporaryFolder folder_;
  const std::string model_ = folder_.file("model.gguf", [] {
    const std::vector<std::byte> bytes = smollm2::test::tiny_chatting_file(smollm2::test::Answers::never_end);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }());
  const std::string book_ = folder_.file("book.txt", [] {
    std::string text;
    for (int i = 0; i < 600; ++i) text += i % 7 == 0 ? "abba " : i % 3 == 0 ? "cab " : "a bc ";
    return text + "end.";
  }());
  const std::string archive_ = folder_.path("read.archive");
};

TEST_F(LlamaArchive, IsRecalledForAQuestion) {
  const auto read = run(infinipot_llama, archived({"--document", book_}));
  ASSERT_EQ(read.status, 0) << read.err;
  for (const char* question : {"why?", "how?"}) {
    const json r = asked(infinipot_llama, question), &turn = r.at("turns").at(0);
    EXPECT_EQ(r.at("settings").at("archive_type"), "int8");
    EXPECT_EQ(r.at("settings").at("policy"), "streaming_llm");
    EXPECT_GT(turn.at("archive_tokens"), 1500);
    EXPECT_EQ(turn.at("recall_steps"), 2);
    EXPECT_GT(turn.at("recall_distillations"), 4);
    EXPECT_EQ(turn.at("recalled_positions").size(), 220U);  // 300 without the header's 80
    EXPECT_EQ(turn.at("answer_tokens"), 12);
  }
  const json measured = asked(infinipot_llama, "why?", {"--answer", "cab", "--read-anew", "yes"});
  EXPECT_GT(measured.at("answer_nll"), 0);
}

TEST_F(LlamaArchive, GoesOnInTheSameRun) {
  const json r = report_of(infinipot_llama, archived({"--document", book_, "--question", "why?", "--question",
                                                      "how?", "--generate", "9"}));
  for (const json& turn : r.at("turns")) EXPECT_GT(turn.at("recalled_positions").size(), 100U);
  EXPECT_EQ(report_of(infinipot_llama, archived({"--document", book_, "--question", "why?"}))
                .at("turns")
                .at(0)
                .at("recall_steps"),
            2);
}

TEST_F(LlamaArchive, IsTheOtherProgramsToo) {
  ASSERT_EQ(run(infinipot_llama, archived({"--document", book_})).status, 0);
  EXPECT_EQ(asked(infinipot_read, "why?").at("turns").at(0).at("recalled_positions").size(), 220U);
}

TEST_F(LlamaArchive, OfRowsIsTheOtherProgramsToo) {
  for (const char* type : {"int8", "int4", "f16", "f32"}) {
    SCOPED_TRACE(type);
    std::filesystem::remove(archive_);
    ASSERT_EQ(run(infinipot_llama, archived({"--document", book_, "--archive-type", type})).status, 0);
    for (const std::string& program : {infinipot_llama, infinipot_read}) {
      const json r = asked(program, "why?");
      EXPECT_EQ(r.at("settings").at("archive_type"), type);
      EXPECT_EQ(r.at("turns").at(0).at("recalled_positions").size(), 220U);
    }
  }
}

TEST_F(LlamaArchive, IsRecalledInAPotOfItsOwn) {
  ASSERT_EQ(run(infinipot_llama, archived({"--document", book_, "--archive-type", "int8"})).status, 0);
  for (const char* anew : {"no", "yes"})
    EXPECT_EQ(asked(infinipot_llama, "why?", {"--recall-pot", "900", "--read-anew", anew})
                  .at("turns")
                  .at(0)
                  .at("recalled_positions")
                  .size(),
              220U);
}

TEST_F(LlamaArchive, PotsAreSavedAndGoOn) {
  const std::string file = folder_.path("pot");
  for (const char* type : {"f16", "f32"}) {
    const Arguments all{"--model",      model_, "--pot",         "600",  "--threads",  "1",
                        "--cache-type", type,   "--granularity", "head", "--generate", "9"};
    const json both = report_of(
        infinipot_llama, all + Arguments{"--document", book_, "--question", "why?", "--question", "how?"});
    ASSERT_EQ(run(infinipot_llama, all + Arguments{"--document", book_, "--question", "why?", "--save", file})
                  .status,
              0);
    const json later = report_of(infinipot_llama, all + Arguments{"--load", file, "--question", "how?"});
    EXPECT_EQ(later.at("turns").at(0).at("answer_text"), both.at("turns").at(1).at("answer_text"));
  }
}

}  // namespace
}  // namespace llama_cpp
