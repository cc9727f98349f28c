// --save and --load: the whole program on a tiny model.
#include "saved_pot.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "infinipot/pot/pot_file.hpp"
#include "tiny_reader.hpp"

namespace reading {
namespace {

using nlohmann::json;
using test::Arguments;
using test::Outcome;
using test::run_program;
using test::TinyReader;
using test::operator+;

class SavedPots : public TinyReader {
 protected:
  Arguments first(const Arguments& more) const {
    return with(Arguments{"--document", document_, "--question", "why?", "--generate", "60"} + more);
  }
  Arguments second(const Arguments& more) const {
    return with(Arguments{"--question", "how?", "--generate", "60", "--json", "-"} + more);
  }
  json report(const Arguments& arguments) const {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.status == 0 ? outcome.json() : json::object();
  }
  std::string refusal(const Arguments& arguments) const {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  }

  const std::string pot_ = folder_.path("saved.pot");
};

TEST_F(SavedPots, GoOnAsIfNothingHadHappened) {
  for (const char* type : {"f32", "f16", "bf16", "int8", "int4"})
    for (const char* policy : {"streaming_llm", "infinipot", "tova"}) {
      // With the second question's catalyst from the start, which --load cannot have.
      const Arguments settings{"--cache-type", type, "--policy", policy, "--catalyst", "@generic"};
      const json whole = report(first(settings + Arguments{"--question", "how?", "--json", "-"}));
      report(first(settings + Arguments{"--save", pot_, "--json", "-"}));
      const json rest = report(second(settings + Arguments{"--load", pot_}));
      EXPECT_EQ(rest.at("answer_text"), whole.at("answer_text")) << type << " " << policy;
      EXPECT_GT(whole.at("distillations"), 0) << policy;
      for (const char* field : {"pot_entries", "distillations", "full_cache_bytes"})
        EXPECT_EQ(rest.at(field), whole.at(field)) << type << " " << policy << " " << field;
    }
}

TEST_F(SavedPots, GoOnAfterADocument) {
  const Arguments blind{"--policy", "streaming_llm"};
  run_program(with(blind + Arguments{"--document", document_, "--save", pot_}));
  const json rest = report(second(blind + Arguments{"--load", pot_}));
  const json whole = report(with(
      blind + Arguments{"--document", document_, "--question", "how?", "--generate", "60", "--json", "-"}));
  EXPECT_EQ(rest.at("answer_text"), whole.at("answer_text"));
  EXPECT_EQ(rest.at("full_cache_bytes"), whole.at("full_cache_bytes"));
}

TEST_F(SavedPots, CanBeSavedWhereTheyWereLoaded) {
  run_program(first({"--save", pot_}));
  const auto before = folder_.content("saved.pot");
  const json rest = report(second({"--load", pot_, "--save", pot_}));
  EXPECT_NE(folder_.content("saved.pot"), before);
  const json again = report(second({"--load", pot_}));
  EXPECT_GT(again.at("full_cache_bytes"), rest.at("full_cache_bytes"));
}

TEST_F(SavedPots, RefuseOtherSettings) {
  run_program(first({"--save", pot_}));
  const auto expect_refused = [&](const Arguments& more, const std::string& part) {
    const std::string error = refusal(second(more + Arguments{"--load", pot_}));
    EXPECT_EQ(error.find("infinipot-read: --load: " + pot_ + ": "), 0U) << error;
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect_refused({"--cache-type", "f16"}, "another element type");
  expect_refused({"--granularity", "head"}, "another granularity");
  expect_refused({"--policy", "expected_attention", "--granularity", "shared"},
                 "by infinipot; one by expected_attention cannot go on");
  Arguments larger = second({"--load", pot_}), smaller = larger;
  *(std::find(larger.begin(), larger.end(), "--pot") + 1) = "250";
  EXPECT_EQ(run_program(larger).status, 0);
  *(std::find(smaller.begin(), smaller.end(), "--pot") + 1) = "190";
  EXPECT_NE(refusal(smaller).find("of a pot of 200 entries, more than this one's 190"), std::string::npos)
      << refusal(smaller);
}

TEST_F(SavedPots, RefuseOtherFiles) {
  const auto expect_error = [&](const std::string& path, const std::string& error) {
    EXPECT_EQ(refusal(second({"--load", path})), "infinipot-read: --load: " + error + "\n");
  };
  expect_error(document_, document_ + ": this is not a pot file");
  expect_error(folder_.path("none"),
               folder_.path("none") + ": cannot open the file: No such file or directory");
  run_program(first({"--save", pot_}));
  std::string damaged = folder_.content("saved.pot");
  damaged[damaged.size() - 100] = static_cast<char>(damaged[damaged.size() - 100] ^ 1);
  EXPECT_NE(refusal(second({"--load", folder_.file("damaged", damaged)})).find("checksum"),
            std::string::npos);
  damaged.pop_back();
  EXPECT_NE(refusal(second({"--load", folder_.file("short", damaged)})).find(" bytes, but should have "),
            std::string::npos);

  std::string other = folder_.content("model.gguf");
  other[other.size() - 4] = static_cast<char>(other[other.size() - 4] ^ 1);  // of a weight
  Arguments foreign = second({"--load", pot_});
  foreign[1] = folder_.file("other.gguf", other);
  EXPECT_NE(refusal(foreign).find(pot_ + " is of another model, "), std::string::npos);
  foreign[1] = folder_.file("renamed.gguf", folder_.content("model.gguf"));
  EXPECT_EQ(run_program(foreign).status, 0);
}

TEST_F(SavedPots, AreWrittenWholeOrNotAtAll) {
  EXPECT_NE(refusal(first({"--save", folder_.path("none/p")})).find("--save: cannot write "),
            std::string::npos);
  EXPECT_EQ(refusal(first({"--save", model_})), "infinipot-read: --save: " + model_ + " is the model\n");
  EXPECT_EQ(refusal(first({"--save", pot_, "--json", pot_})),
            "infinipot-read: --save: " + pot_ + " is that of --json\n");
  if (!std::filesystem::exists("/dev/full")) return;
  const std::string plain = run_program(first({})).out;
  const Outcome full = run_program(first({"--save", "/dev/full"}));
  EXPECT_EQ(full.status, 2);
  EXPECT_EQ(full.out, plain);
  EXPECT_NE(full.err.find("--save: cannot write /dev/full: No space left on device\n"), std::string::npos);
}

TEST_F(SavedPots, InterruptedReadingSavesNothing) {
  test::RunningProgram program(with({"--document", "-", "--question", "why?", "--save", pot_}));
  std::string text;
  while (text.size() < 90000) text += "cab a bac bc ";
  program.write(text);
  program.send(SIGINT);
  EXPECT_EQ(program.wait().status, 130);
  EXPECT_FALSE(std::filesystem::exists(pot_));
}

TEST_F(SavedPots, OfOtherProgramsAreSaidToBe) {
  infinipot::Pot<float> pot({.shape = {1, 1, 1, 2}, .capacity = 4});
  {
    std::ofstream file(pot_, std::ios::binary);
    infinipot::save_pot(pot, file);
  }
  EXPECT_EQ(refusal(second({"--load", pot_})),
            "infinipot-read: --load: " + pot_ + " is a pot file, but not one of --save\n");
}

}  // namespace
}  // namespace reading
