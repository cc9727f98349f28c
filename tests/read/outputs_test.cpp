#include "outputs.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "options.hpp"
#include "temporary_folder.hpp"

namespace reading {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

class Outputs : public testing::Test {
 protected:
  std::string refusal(const std::string& json, const std::string& report = {}) const {
    Options options;
    options.model = model_;
    options.turns = {{.document = first_}, {.document = second_}, {}};
    options.json = json;
    options.report = report;
    try {
      check_outputs(options);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  }

  const TemporaryFolder folder_;
  const std::string first_ = folder_.file("first.txt", "a"), second_ = folder_.file("second.txt", "b");
  std::string model_ = folder_.file("model.gguf", "m");
};

TEST_F(Outputs, AreNoInputs) {
  EXPECT_EQ(refusal(model_), "--json: " + model_ + " is the model");
  EXPECT_EQ(refusal("", second_), "--report: " + second_ + " is a document");
  for (const char* name : {"first.txt", "second.txt"}) {
    const std::string other = folder_.path("./") + "../" +
                              fs::path(folder_.path("")).parent_path().filename().string() + "/" + name;
    EXPECT_EQ(refusal(other), "--json: " + other + " is a document");
  }
  EXPECT_EQ(refusal(folder_.path("fresh.json"), folder_.path("fresh.html")), "accepted");
  EXPECT_EQ(refusal(folder_.file("old.json", "old"), folder_.file("old.html", "old")), "accepted");
}

TEST_F(Outputs, AreNoInputsThroughLinks) {
  const std::string soft = folder_.path("soft"), hard = folder_.path("hard");
  fs::create_symlink("first.txt", soft);
  fs::create_hard_link(model_, hard);
  EXPECT_EQ(refusal(soft), "--json: " + soft + " is a document");
  EXPECT_EQ(refusal("", hard), "--report: " + hard + " is the model");
}

TEST_F(Outputs, AreNoPartsOfTheModel) {
  model_ = folder_.file("big-00001-of-00003.gguf", "1");
  const std::string third = folder_.file("big-00003-of-00003.gguf", "3"),
                    other = folder_.file("big-00004-of-00004.gguf", "4");
  EXPECT_EQ(refusal(model_), "--json: " + model_ + " is the model");
  EXPECT_EQ(refusal(third), "--json: " + third + " is a part of the model");
  EXPECT_EQ(refusal(other), "accepted");
  for (const char* name : {"x00001-of-00003.gguf", "big-0000x-of-00003.gguf", "-00001-of-99999.gguf",
                           "big-00001-of-0000x.gguf", "big-00001xof-00003.gguf"}) {
    model_ = folder_.file(name, "1");
    EXPECT_EQ(refusal(third), "accepted") << name;
  }
}

TEST_F(Outputs, AreNotTheSame) {
  const std::string old = folder_.file("old", ""), fresh = folder_.path("fresh"), link = folder_.path("link");
  EXPECT_EQ(refusal(old, folder_.path("./old")), "--report: " + folder_.path("./old") + " is that of --json");
  EXPECT_EQ(refusal(fresh, folder_.path("./fresh")),
            "--report: " + folder_.path("./fresh") + " is that of --json");
  fs::create_symlink("fresh", link);
  EXPECT_EQ(refusal(link, fresh), "--report: " + fresh + " is that of --json");
  EXPECT_EQ(refusal("/dev/null", "/dev/null"), "accepted");
  EXPECT_EQ(refusal("-", fresh), "accepted");
  EXPECT_EQ(refusal("", ""), "accepted");
}

TEST_F(Outputs, MustBeWritable) {
  EXPECT_EQ(refusal("/no/such/file").find("--json: cannot write /no/such/file: "), 0U);
  EXPECT_EQ(refusal("", "/no/such/file").find("--report: cannot write /no/such/file: "), 0U);
}

}  // namespace
}  // namespace reading
