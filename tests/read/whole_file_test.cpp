#include "whole_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>

#include "options.hpp"
#include "run_program.hpp"
#include "temporary_folder.hpp"

namespace reading {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;
using Names = std::set<std::string>;

std::string refusal(const std::string& path, const std::string& text = "new") {
  try {
    write_whole("--json", path, text);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "written";
}

std::string early_refusal(const std::string& path) {
  try {
    check_path("--json", path);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

ino_t inode(const std::string& path) {
  struct stat found {};
  stat(path.c_str(), &found);
  return found.st_ino;
}

mode_t permissions(const std::string& path) {
  struct stat found {};
  stat(path.c_str(), &found);
  return found.st_mode & 07777U;
}

/// Makes the disk full, as it were, for as long as it lives.
class SmallFiles {
 public:
  explicit SmallFiles(rlim_t bytes) {
    expect_output_errors();
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit small{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
  }
  SmallFiles(const SmallFiles&) = delete;
  SmallFiles& operator=(const SmallFiles&) = delete;
  ~SmallFiles() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(WholeFile, ReplacesWhatWasThere) {
  const TemporaryFolder folder;
  const std::string path = folder.file("report", "an older and longer text");
  write_whole("--json", path, "new");
  EXPECT_EQ(folder.content("report"), "new");
  write_whole("--json", folder.path("other"), std::string("\0binary\n", 8));
  EXPECT_EQ(folder.content("other"), std::string("\0binary\n", 8));
  write_whole("--json", path, "");
  EXPECT_EQ(folder.content("report"), "");
  EXPECT_EQ(folder.names(), (Names{"report", "other"}));
}

TEST(WholeFile, WhoReadsTheOlderOneReadsItToItsEnd) {
  const TemporaryFolder folder;
  const std::string path = folder.file("report", "older");
  std::ifstream reader(path);
  write_whole("--json", path, "new");
  std::string text;
  EXPECT_TRUE(std::getline(reader, text));
  EXPECT_EQ(text, "older");
}

TEST(WholeFile, KeepsPermissions) {
  const TemporaryFolder folder;
  const std::string path = folder.file("report", "older");
  for (const mode_t mode : {0600U, 0664U, 0755U}) {
    chmod(path.c_str(), mode);
    write_whole("--json", path, "new");
    EXPECT_EQ(permissions(path), mode);
  }
  const mode_t mask = umask(027);
  write_whole("--json", folder.path("fresh"), "new");
  umask(mask);
  EXPECT_EQ(permissions(folder.path("fresh")), 0640U);
}

TEST(WholeFile, FollowsLinks) {
  const TemporaryFolder folder;
  folder.file("there", "older");
  fs::create_symlink("there", folder.path("one"));
  fs::create_symlink(folder.path("one"), folder.path("two"));
  fs::create_symlink("not yet", folder.path("three"));
  write_whole("--json", folder.path("two"), "new");
  EXPECT_EQ(folder.content("there"), "new");
  write_whole("--json", folder.path("three"), "newer");
  EXPECT_EQ(folder.content("not yet"), "newer");
  for (const char* link : {"one", "two", "three"}) EXPECT_TRUE(fs::is_symlink(folder.path(link))) << link;
}

TEST(WholeFile, OrNothing) {
  const TemporaryFolder folder;
  const std::string path = folder.file("report", "older"), large(20000, 'x');
  {
    const SmallFiles small(8192);
    EXPECT_EQ(refusal(path, large), "--json: cannot write " + path + ": File too large");
    EXPECT_EQ(refusal(folder.path("fresh"), large),
              "--json: cannot write " + folder.path("fresh") + ": File too large");
  }
  EXPECT_EQ(folder.content("report"), "older");
  EXPECT_EQ(folder.names(), Names{"report"});
}

TEST(WholeFile, SaysWhyItIsNotWritten) {
  const TemporaryFolder folder;
  const std::string nowhere = folder.path("nowhere/report"), loop = folder.path("loop");
  EXPECT_EQ(refusal(nowhere), "--json: cannot write " + nowhere + ": No such file or directory");
  EXPECT_NE(refusal(folder.path("")), "written");
  fs::create_symlink("loop", loop);
  EXPECT_EQ(refusal(loop), "--json: cannot write " + loop + ": Too many levels of symbolic links");
  EXPECT_EQ(early_refusal(loop), refusal(loop));
  EXPECT_EQ(folder.names(), Names{"loop"});
}

TEST(WholeFile, DevicesAndPipesAreWrittenAsTheyAre) {
  write_whole("--json", "/dev/null", "new");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  if (fs::exists("/dev/full")) {
    EXPECT_EQ(refusal("/dev/full"), "--json: cannot write /dev/full: No space left on device");
  }

  const TemporaryFolder folder;
  const std::string pipe = folder.path("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  write_whole("--json", pipe, "new");
  std::string text(10, '\0');
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, read(reader, text.data(), text.size()))));
  close(reader);
  EXPECT_EQ(text, "new");
  EXPECT_TRUE(fs::is_fifo(pipe));
}

// As with `--json /dev/stdout >file`.
TEST(WholeFile, FollowsWhatADescriptorHasWritten) {
  const TemporaryFolder folder;
  const std::string path = folder.file("out", "");
  const int out = open(path.c_str(), O_WRONLY);
  ASSERT_EQ(write(out, "answer\n", 7), 7);
  const ino_t before = inode(path);
  for (const std::string& name : {"/dev/fd/" + std::to_string(out), "/proc/self/fd/" + std::to_string(out)}) {
    if (!fs::exists(name)) continue;
    EXPECT_TRUE(is_written_directly(name));
    write_whole("--json", name, "new\n");
  }
  close(out);
  EXPECT_EQ(inode(path), before);
  EXPECT_EQ(folder.content("out"), "answer\nnew\nnew\n");
}

TEST(WholeFile, IsCheckedBeforeWithoutATrace) {
  const TemporaryFolder folder;
  const std::string path = folder.file("report", "older");
  EXPECT_EQ(early_refusal(path), "accepted");
  EXPECT_EQ(early_refusal(folder.path("fresh")), "accepted");
  EXPECT_EQ(early_refusal("/dev/null"), "accepted");
  EXPECT_EQ(early_refusal(folder.path("")),
            "--json: cannot write " + folder.path("") + ": it is a directory");
  EXPECT_EQ(early_refusal(path + "/x"), "--json: cannot write " + path + "/x: Not a directory");
  const std::string nowhere = folder.path("no/such");
  EXPECT_EQ(early_refusal(nowhere), "--json: cannot write " + nowhere + ": no file can be made in " +
                                        folder.path("no") + ": No such file or directory");
  if (geteuid() != 0) {  // who may do anything
    chmod(path.c_str(), 0400);
    EXPECT_EQ(early_refusal(path), "--json: cannot write " + path + ": Permission denied");
    chmod(path.c_str(), 0600);
    chmod(folder.path("").c_str(), 0500);
    EXPECT_NE(early_refusal(path).find("no file can be made in"), std::string::npos);
    chmod(folder.path("").c_str(), 0700);
  }
  EXPECT_EQ(folder.content("report"), "older");
  EXPECT_EQ(folder.names(), Names{"report"});
}

}  // namespace
}  // namespace reading
