#include "document.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "options.hpp"
#include "temporary_file.hpp"

namespace reading {
namespace {

using test::TemporaryFile;

std::string all_of(Document& document) {
  std::string text;
  for (std::string_view piece = document.next(); !piece.empty(); piece = document.next()) text += piece;
  return text;
}

std::string refusal(const std::string& path) {
  try {
    Document document(path);
    all_of(document);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

/// Every byte there is, NUL among them.
std::string bytes(std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += static_cast<char>(i * 7 % 256);
  return text;
}

/// Standard input reads from somewhere else while this lives.
class StandardInput {
 public:
  explicit StandardInput(int descriptor) : before_(dup(STDIN_FILENO)) {
    dup2(descriptor, STDIN_FILENO);
    close(descriptor);
    std::clearerr(stdin);
  }
  StandardInput(const StandardInput&) = delete;
  StandardInput& operator=(const StandardInput&) = delete;
  ~StandardInput() {
    dup2(before_, STDIN_FILENO);
    close(before_);
    std::clearerr(stdin);
  }

 private:
  int before_;
};

TEST(Document, IsReadInPiecesOfBoundedLength) {
  const std::string text = bytes(100'000);
  const TemporaryFile file(text);
  Document document(file.path());
  std::string found;
  for (std::string_view piece = document.next(); !piece.empty(); piece = document.next()) {
    EXPECT_LE(piece.size(), 1U << 16);
    found += piece;
  }
  EXPECT_EQ(found, text);
  EXPECT_TRUE(document.next().empty());
}

TEST(Document, KnowsHowMuchOfAFileWasRead) {
  const TemporaryFile file(bytes(100'000));
  Document document(file.path());
  EXPECT_EQ(document.progress(), 0.0);
  double before = 0;
  std::size_t read = 0;
  for (std::string_view piece = document.next(); !piece.empty(); piece = document.next()) {
    read += piece.size();
    EXPECT_GT(document.progress().value(), before);
    before = document.progress().value();
    EXPECT_DOUBLE_EQ(before, static_cast<double>(read) / 100'000);
  }
  EXPECT_EQ(document.progress(), 1.0);
}

TEST(Document, GoesOnWhereItWasMoved) {
  const TemporaryFile file(bytes(20'000));
  Document first(file.path());
  std::string text(first.next());
  Document second(std::move(first));
  text += all_of(second);
  EXPECT_EQ(text, bytes(20'000));
}

TEST(Document, MayBeEmpty) {
  const TemporaryFile file;
  Document empty(file.path()), null("/dev/null");
  EXPECT_TRUE(empty.next().empty());
  EXPECT_TRUE(null.next().empty());
  EXPECT_FALSE(empty.progress().has_value());
  EXPECT_FALSE(null.progress().has_value());
}

TEST(Document, MayBeStandardInput) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string text = bytes(10'000);  // fits into the pipe
  ASSERT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  close(ends[1]);
  const StandardInput input(ends[0]);
  Document document("-");
  EXPECT_EQ(all_of(document), text);
  EXPECT_FALSE(document.progress().has_value());
}

TEST(Document, ThoseOfTheTurnsAreOpened) {
  const TemporaryFile first("one"), second("two");
  Options options;
  options.turns = {{.document = first.path()}, {.document = second.path()}, {}};
  std::vector<Document> documents = open_documents(options);
  ASSERT_EQ(documents.size(), 2U);
  EXPECT_EQ(all_of(documents[0]), "one");
  EXPECT_EQ(all_of(documents[1]), "two");
  options.turns[1].document = "/no/such/file";
  EXPECT_THROW(open_documents(options), UsageError);
}

TEST(Document, RefusesWhatCannotBeRead) {
  EXPECT_EQ(refusal("/no/such/file"), "--document: cannot open /no/such/file: No such file or directory");
  EXPECT_EQ(refusal(testing::TempDir()), "--document: " + testing::TempDir() + " is a directory");
  const StandardInput input(open(testing::TempDir().c_str(), O_RDONLY));
  EXPECT_EQ(refusal("-"), "--document: cannot read standard input: Is a directory");
}

}  // namespace
}  // namespace reading
