// --archive and --recall: the whole program on a tiny model.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "infinipot/archive/file_archive.hpp"
#include "options.hpp"
#include "tiny_reader.hpp"

namespace reading {
namespace {

using infinipot::ArchiveInfo;
using infinipot::ArchiveType;
using infinipot::FileArchive;
using nlohmann::json;
using test::Arguments;
using test::for_the_shell;
using test::Outcome;
using test::run_program;
using test::RunningProgram;
using test::TinyReader;
using test::operator+;

std::string words(std::size_t count, std::size_t seed) {
  const char* const all[] = {"cab ", "a ", "bac ", "bc ", "abba ", "cc "};
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += all[(i * i + i * seed / 3 + seed) % 6];
  return text + "end.";
}

class Archives : public TinyReader {
 protected:
  /// The header has 80 tokens.
  Arguments with(const Arguments& more) const {
    return Arguments{"--model", model_, "--threads", "1", "--pot", "600"} + more;
  }
  Arguments archived(const Arguments& more) const { return with(Arguments{"--archive", archive_} + more); }
  /// Reads a document and asks nothing.
  Outcome read(const std::string& document, const Arguments& more = {}) const {
    return run_program(archived(Arguments{"--document", document} + more));
  }
  json asked(const std::string& question, const Arguments& more = {}) const {
    return report(archived(Arguments{"--question", question} + more));
  }
  json report(const Arguments& arguments) const {
    const Outcome outcome = run_program(arguments + Arguments{"--generate", "20", "--json", "-"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.status == 0 ? outcome.json() : json::object();
  }
  std::string refusal(const Arguments& arguments) const {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  }
  ArchiveInfo info() const { return FileArchive::inspect(archive_); }
  std::vector<infinipot::Entry> entries() const {
    auto archive = FileArchive::open(archive_, info().settings, infinipot::Access::read);
    std::vector<infinipot::Entry> all;
    FileArchive::Block block;
    for (std::uint64_t at = 0; archive.read(at, block); at = all.back().position + 1)
      all.insert(all.end(), block.entries().begin(), block.entries().end());
    return all;
  }

  const std::string archive_ = folder_.path("read.archive");
  const std::string book_ = folder_.file("book.txt", words(900, 1)),
                    sequel_ = folder_.file("sequel.txt", words(500, 2));
};

TEST_F(Archives, HaveAllThatWasRead) {
  const json r = report(archived({"--document", book_, "--question", "why?"}));
  const json& turn = r.at("turns").at(0);
  EXPECT_EQ(r.at("settings").at("policy"), "streaming_llm");
  EXPECT_EQ(r.at("settings").at("granularity"), "shared");
  EXPECT_EQ(r.at("settings").at("archive_type"), "int8");
  EXPECT_EQ(r.at("settings").at("recall"), usual_recall);
  const std::uint64_t read =
      r.at("prompt_tokens").get<std::uint64_t>() + turn.at("answer_tokens").get<std::uint64_t>();
  EXPECT_EQ(turn.at("archive_tokens"), read);
  EXPECT_EQ(info().stats.entries, read);
  EXPECT_EQ(turn.at("archive_bytes"), info().stats.bytes);
  EXPECT_GT(turn.at("archive_seconds"), 0);
  EXPECT_EQ(turn.at("archive_ended"), nullptr);
  const auto all = entries();
  ASSERT_EQ(all.size(), read);
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].position, i);
  EXPECT_TRUE(all.front().pinned);
  EXPECT_FALSE(all.back().pinned);
}

TEST_F(Archives, OfEveryTypeAnswer) {
  for (const char* type : {"int8", "int4", "f16", "f32", "tokens"}) {
    EXPECT_EQ(read(book_, {"--archive-type", type}).status, 0);
    const json r = asked("why?");
    EXPECT_EQ(r.at("settings").at("archive_type"), type);
    const json& turn = r.at("turns").at(0);
    EXPECT_GT(turn.at("recalled_positions").size(), 50U) << type;
    EXPECT_EQ(turn.at("recall_steps"), usual_recall);
    EXPECT_GT(turn.at("recall_distillations"), 1);
    EXPECT_GT(turn.at("recall_seconds"), 0);
    EXPECT_LE(turn.at("recall_seconds"), turn.at("ttft_seconds"));
    std::filesystem::remove(archive_);
  }
}

// With its rows as they were, it is the same whether the program ended in between.
TEST_F(Archives, AreAskedInAnotherRun) {
  const Arguments exact{"--archive-type", "f32"};
  const json at_once = report(archived(exact + Arguments{"--document", book_, "--question", "why?"}));
  std::filesystem::remove(archive_);
  read(book_, exact);
  const std::string before = folder_.content("read.archive");
  const json later = asked("why?");
  EXPECT_EQ(folder_.content("read.archive"), before);
  EXPECT_EQ(later.at("answer_text"), at_once.at("answer_text"));
  for (const char* field : {"recalled_positions", "recall_distillations", "needle_tokens"})
    EXPECT_EQ(later.at("turns").at(0).at(field), at_once.at("turns").at(0).at(field)) << field;
  EXPECT_EQ(asked("why?").at("answer_text"), later.at("answer_text"));
}

TEST_F(Archives, ReadOnInAnotherRun) {
  read(book_);
  const std::size_t first = entries().size();
  const json r = report(archived({"--document", sequel_, "--question", "why?"}));
  const auto all = entries();
  EXPECT_GT(all.size(), first + 500);
  for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i].position, i);
  // One header is pinned, once.
  const auto pinned = std::count_if(all.begin(), all.end(), [](const auto& e) { return e.pinned; });
  EXPECT_TRUE(all[static_cast<std::size_t>(pinned) - 1].pinned);
  const auto recalled = r.at("turns").at(0).at("recalled_positions").get<std::vector<std::uint64_t>>();
  EXPECT_LT(recalled.front(), first);
  EXPECT_GE(recalled.back(), first);
  EXPECT_EQ(r.at("turns").at(0).at("document_position"), first + 2);  // after a blank line
}

TEST_F(Archives, KeepWhatIsPinned) {
  const auto pinned = [&] {
    const auto all = entries();
    return std::count_if(all.begin(), all.end(), [](const auto& entry) { return entry.pinned; });
  };
  read(book_);
  const auto header = pinned();
  std::filesystem::remove(archive_);
  EXPECT_EQ(read(book_, {"--pin", "cab bac"}).status, 0);
  EXPECT_GE(pinned(), header + 2);
  EXPECT_EQ(asked("why?").at("settings").at("pin"), nullptr);
  EXPECT_EQ(refusal(archived({"--question", "why?", "--pin", "cab"})),
            "infinipot-read: --pin: goes before all that is read, and something was already\n");
}

TEST_F(Archives, StepsAreOptional) {
  read(book_);
  const json none = asked("why?", {"--recall", "0"}), one = asked("why?", {"--recall", "1"}),
             three = asked("why?", {"--recall", "3"}),
             anew = asked("why?", {"--recall", "1", "--read-anew", "yes"});
  EXPECT_EQ(none.at("turns").at(0).at("recall_steps"), nullptr);
  EXPECT_EQ(none.at("turns").at(0).at("recalled_positions"), nullptr);
  EXPECT_EQ(one.at("turns").at(0).at("recall_steps"), 1);
  EXPECT_EQ(three.at("turns").at(0).at("recall_steps"), 3);
  // At least, because a draft takes room.
  EXPECT_GE(three.at("turns").at(0).at("recall_distillations"),
            3 * one.at("turns").at(0).at("recall_distillations").get<int>());
  EXPECT_EQ(anew.at("turns").at(0).at("recalled_positions"), one.at("turns").at(0).at("recalled_positions"));
  EXPECT_EQ(anew.at("settings").at("read_anew"), "yes");
  EXPECT_NE(anew.at("answer_text"), "");
}

TEST_F(Archives, RecallsCanHaveAPotOfTheirOwn) {
  read(book_);
  const json own = asked("why?"), same = asked("why?", {"--recall-pot", "600"}),
             larger = asked("why?", {"--recall-pot", "1500"});
  EXPECT_EQ(same.at("answer_text"), own.at("answer_text"));
  EXPECT_EQ(same.at("turns").at(0).at("recalled_positions"), own.at("turns").at(0).at("recalled_positions"));
  EXPECT_LT(larger.at("turns").at(0).at("recall_distillations"),
            own.at("turns").at(0).at("recall_distillations"));
  EXPECT_EQ(refusal(archived({"--question", "why?", "--recall-pot", "290"})),
            "infinipot-read: --recall-pot 290 is too small for a recall; with --keep 300 it must be at least "
            "303\n");
}

TEST_F(Archives, ChatsRecallForEveryQuestion) {
  read(book_);
  const Outcome outcome =
      run_program(archived({"--chat", "--generate", "30", "--json", folder_.path("r.json")}),
                  "<" + for_the_shell(folder_.file("lines", "why?\nhow do they do that?\nwhy?\n")));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json r = json::parse(folder_.content("r.json"));
  ASSERT_EQ(r.at("turns").size(), 3U);
  for (const json& turn : r.at("turns")) {
    EXPECT_EQ(turn.at("recall_steps"), usual_recall);
    EXPECT_GT(turn.at("recalled_positions").size(), 40U);
  }
  // A quarter of what is kept may be the conversation's own.
  EXPECT_LT(r.at("turns").at(2).at("recalled_positions").size(),
            r.at("turns").at(0).at("recalled_positions").size());
}

TEST_F(Archives, PlainChatsNeedNone) {
  read(book_);
  const std::string lines = "<" + for_the_shell(folder_.file("lines", "why?\n"));
  const Outcome outcome =
      run_program(archived({"--chat", "--recall", "0", "--generate", "5", "--json", "-"}), lines);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.json().at("turns").at(0).at("recall_steps"), nullptr);
}

TEST_F(Archives, ExpectedAnswersAreMeasuredAfterTheRecall) {
  read(book_);
  const json without = asked("why?", {"--recall", "0", "--answer", "cab"}),
             with_recall = asked("why?", {"--answer", "cab"});
  EXPECT_NE(without.at("answer_nll"), with_recall.at("answer_nll"));
  EXPECT_GT(with_recall.at("answer_nll"), 0);
}

TEST_F(Archives, EveryPolicyAndCacheTypeCan) {
  for (const char* policy : {"infinipot", "reread", "snapkv", "h2o", "keydiff", "expected_attention"})
    for (const char* type : {"f32", "int4"}) {
      const json r = report(archived({"--document", book_, "--question", "why?", "--question", "how?",
                                      "--policy", policy, "--cache-type", type}));
      EXPECT_GT(r.at("turns").at(1).at("recalled_positions").size(), 40U) << policy << " " << type;
      std::filesystem::remove(archive_);
    }
  for (const char* granularity : {"head", "layer"}) {
    const json r =
        report(archived({"--document", book_, "--question", "why?", "--granularity", granularity}));
    EXPECT_GT(r.at("turns").at(0).at("recalled_positions").size(), 40U) << granularity;
    std::filesystem::remove(archive_);
  }
}

TEST_F(Archives, APageShowsWhatCameBack) {
  const std::string page = folder_.path("page.html");
  read(book_);
  asked("why?", {"--report", page, "--nuc"});
  const std::string html = folder_.content("page.html"), begin = "id=\"data\">";
  const std::size_t at = html.find(begin) + begin.size();
  const json data = json::parse(html.substr(at, html.find("</script>", at) - at));
  ASSERT_EQ(data.at("distillations").size(), 2U);  // the recall, and the end
  EXPECT_GT(data.at("distillations").at(0).at("recalled").get<std::string>().size(), 100U);
  EXPECT_EQ(data.at("distillations").at(1).at("recalled"), "");
  // Texts of what another run read, as far as it came back.
  std::size_t known = 0;
  for (std::size_t i = 80; i < entries().size(); ++i)
    if (data.at("texts").at(i) != "") ++known;
  EXPECT_EQ(known, 220U);
}

TEST_F(Archives, ALimitDropsTheOldest) {
  ASSERT_EQ(read(folder_.file("long.txt", words(4000, 3)), {"--archive-limit", "200K"}).status, 0);
  const ArchiveInfo limited = info();
  EXPECT_EQ(limited.settings.limit, 200U << 10U);
  EXPECT_GT(limited.stats.dropped, 0U);
  EXPECT_LE(std::filesystem::file_size(archive_), 200U << 10U);
  EXPECT_FALSE(entries().front().pinned);  // the header is gone
  for (int run = 0; run < 2; ++run) {
    const json r = report(archived({"--document", sequel_, "--question", "why?"}));
    EXPECT_GT(r.at("turns").at(0).at("recalled_positions").size(), 40U);
  }
  EXPECT_EQ(refusal(archived({"--document", sequel_, "--archive-limit", "2M"})),
            "infinipot-read: --archive-limit: " + archive_ + " has a limit of 204800 bytes, which stays\n");
  EXPECT_NE(
      refusal(with({"--archive", folder_.path("other"), "--document", sequel_, "--archive-limit", "9K"}))
          .find("--archive: the archive " + folder_.path("other") +
                " with a limit of 9216 bytes is too small"),
      std::string::npos);
}

TEST_F(Archives, RefuseOthers) {
  EXPECT_EQ(
      refusal(archived({"--question", "why?"})),
      "infinipot-read: --archive: " + archive_ + " does not exist; to make one, name a --document to read\n");
  read(book_);
  EXPECT_EQ(refusal(archived({"--question", "why?", "--archive-type", "f16"})),
            "infinipot-read: --archive-type f16: " + archive_ + " is of type int8\n");
  std::string other = folder_.content("model.gguf");
  other[other.size() - 4] = static_cast<char>(other[other.size() - 4] ^ 1);  // of a weight
  Arguments foreign = archived({"--question", "why?"});
  foreign[1] = folder_.file("other.gguf", other);
  const std::string error = refusal(foreign);
  EXPECT_EQ(
      error.find("infinipot-read: --archive: " + archive_ + " is of another model: its fingerprint is '"), 0U)
      << error;
  foreign[1] = folder_.file("renamed.gguf", folder_.content("model.gguf"));
  EXPECT_EQ(run_program(foreign).status, 0);
  EXPECT_EQ(refusal(with({"--archive", document_, "--question", "why?"})).find("infinipot-read: --archive: "),
            0U);
  EXPECT_EQ(refusal(with({"--archive", model_, "--document", book_})),
            "infinipot-read: --archive: " + model_ + " is the model\n");
  EXPECT_EQ(refusal(archived({"--document", book_, "--json", archive_})),
            "infinipot-read: --json: " + archive_ + " is that of --archive\n");
  EXPECT_NE(refusal(with({"--archive", folder_.path("none/a"), "--document", book_})).find("--archive: "),
            std::string::npos);
}

TEST_F(Archives, CanBeAskedWhereTheyCannotBeWritten) {
  read(book_);
  std::filesystem::permissions(archive_, std::filesystem::perms::owner_read);
  EXPECT_GT(asked("why?").at("turns").at(0).at("recalled_positions").size(), 40U);
}

/// Until a file has been there and of the same size for a while.
void wait_until_still(const std::string& file) {
  using std::chrono::steady_clock;
  std::uintmax_t size = 0;
  auto changed = steady_clock::now();
  const auto start = changed;
  while (steady_clock::now() - start < std::chrono::minutes(2)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::error_code none;
    const std::uintmax_t now = std::filesystem::file_size(file, none);
    if (none || now != size) {
      size = none ? 0 : now;
      changed = steady_clock::now();
    } else if (size > 0 && steady_clock::now() - changed > std::chrono::milliseconds(1500)) {
      return;
    }
  }
}

TEST_F(Archives, InterruptedReadingKeepsWhatWasRead) {
  for (const int signal : {SIGINT, SIGKILL}) {
    RunningProgram program(archived({"--document", "-", "--question", "why?"}));
    program.write(words(12000, 4));
    wait_until_still(archive_);  // it waits for more, flushed or not
    program.write(words(10, 5));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    program.send(signal);
    const Outcome outcome = program.wait();
    EXPECT_EQ(outcome.status, signal == SIGKILL ? -SIGKILL : 130) << outcome.err;
    EXPECT_EQ(outcome.err.find("; --archive has what was read\n") != std::string::npos, signal == SIGINT);
    const std::size_t kept = entries().size();
    EXPECT_GT(kept, 20000U);
    EXPECT_GT(asked("why?").at("turns").at(0).at("recalled_positions").size(), 40U);
    std::filesystem::remove(archive_);
  }
}

TEST_F(Archives, AFullDiskEndsTheArchiveAlone) {
  // A process may write no file longer than this; standard error and the JSON are shorter.
  const std::string limited = "ulimit -f 200; exec " + for_the_shell(INFINIPOT_READ);
  std::string command = limited;
  for (const std::string& argument : archived({"--document", book_, "--question", "why?", "--generate", "5",
                                               "--archive-type", "f32", "--json", folder_.path("r.json")}))
    command += " " + for_the_shell(argument);
  const std::string err = folder_.path("err");
  ASSERT_EQ(std::system(("(" + command + ") 2>" + for_the_shell(err) + " >/dev/null").c_str()), 0);
  const std::string said = folder_.content("err");
  EXPECT_NE(said.find("--archive: " + archive_ +
                      ": the archive cannot be written: File too large; what is read "
                      "from now on is not in it\n"),
            std::string::npos)
      << said;
  const json turn = json::parse(folder_.content("r.json")).at("turns").at(0);
  EXPECT_EQ(turn.at("archive_ended"), "the archive cannot be written: File too large");
  EXPECT_GT(turn.at("archive_tokens"), 0);
  EXPECT_GT(turn.at("recalled_positions").size(), 0U);
}

TEST_F(Archives, GoWithSavedPots) {
  const std::string pot = folder_.path("saved.pot");
  read(book_, {"--save", pot});
  const json loaded = asked("why?", {"--load", pot}), fresh = asked("why?");
  EXPECT_GT(loaded.at("turns").at(0).at("recalled_positions").size(), 40U);
  EXPECT_EQ(loaded.at("full_cache_bytes"), fresh.at("full_cache_bytes"));
  EXPECT_EQ(run_program(archived({"--load", pot, "--document", sequel_})).status, 0);
  EXPECT_NE(refusal(archived({"--load", pot, "--document", sequel_}))
                .find(" tokens when it was saved, but --archive has gone on to "),
            std::string::npos);
}

}  // namespace
}  // namespace reading
