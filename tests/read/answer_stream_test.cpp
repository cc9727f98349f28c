#include "answer_stream.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

#include "options.hpp"
#include "run_program.hpp"

namespace reading {
namespace {

/// A pipe, of which a test reads what has been written so far.
class Pipe {
 public:
  Pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::bad_alloc();
    from_ = ends[0];
    to_ = ends[1];
    fcntl(from_, F_SETFL, O_NONBLOCK);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_reader();
    close(to_);
  }

  int writer() const { return to_; }
  void close_reader() {
    if (from_ >= 0) close(from_);
    from_ = -1;
  }
  std::string read_all() const {
    std::array<char, 1000> buffer{};
    const ssize_t got = ::read(from_, buffer.data(), buffer.size());
    return {buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
  }

 private:
  int from_ = -1, to_ = -1;
};

TEST(AnswerStream, PrintsEveryTokenAtOnce) {
  const Pipe pipe;
  AnswerStream answers(pipe.writer());
  answers.push("It");
  EXPECT_EQ(pipe.read_all(), "It");
  answers.push("");
  EXPECT_EQ(pipe.read_all(), "");
  answers.push(" is\n");
  EXPECT_EQ(pipe.read_all(), " is\n");
  EXPECT_EQ(answers.end(), "It is\n");
  EXPECT_EQ(pipe.read_all(), "\n");
  answers.push("Next");
  EXPECT_EQ(answers.end(), "Next");
  EXPECT_EQ(pipe.read_all(), "Next\n");
}

TEST(AnswerStream, CharactersWaitForTheirRest) {
  const Pipe pipe;
  AnswerStream answers(pipe.writer());
  answers.push("caf\xC3");
  EXPECT_EQ(pipe.read_all(), "caf");
  answers.push("\xA9 \xF0\x9F");
  EXPECT_EQ(pipe.read_all(), "\xC3\xA9 ");
  answers.push("\x8C");
  EXPECT_EQ(pipe.read_all(), "");
  answers.push("\x8D!");
  EXPECT_EQ(pipe.read_all(), "\xF0\x9F\x8C\x8D!");
  EXPECT_EQ(answers.end(), "caf\xC3\xA9 \xF0\x9F\x8C\x8D!");
}

TEST(AnswerStream, WhatIsNoCharacterIsReplaced) {
  const Pipe pipe;
  AnswerStream answers(pipe.writer());
  for (const char* piece : {"a\xFF", "b\xE4\xB8", "c", "\xA9", "d\xE4\xB8"}) answers.push(piece);
  const std::string text =
      "a\xEF\xBF\xBD"
      "b\xEF\xBF\xBD"
      "c\xEF\xBF\xBD"
      "d\xEF\xBF\xBD";
  EXPECT_EQ(answers.end(), text);
  EXPECT_EQ(pipe.read_all(), text + "\n");
}

TEST(AnswerStream, AnErrorsMessageStandsOnALineOfItsOwn) {
  const Pipe pipe;
  AnswerStream(pipe.writer()).push("It is");
  EXPECT_EQ(pipe.read_all(), "It is\n");
  AnswerStream(pipe.writer()).push("");
  EXPECT_EQ(pipe.read_all(), "");
}

TEST(AnswerStream, CanPrintNothing) {
  AnswerStream answers(-1);
  answers.push("text");
  EXPECT_EQ(answers.end(), "text");
  EXPECT_EQ(answers.error(), "");
}

TEST(AnswerStream, EndsWhereNobodyReads) {
  expect_output_errors();
  Pipe pipe;
  pipe.close_reader();
  AnswerStream answers(pipe.writer());
  answers.push("");  // nothing to lose yet
  try {
    answers.push("text");
    ADD_FAILURE() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "cannot write to standard output: Broken pipe");
  }
}

TEST(AnswerStream, GoesOnWhereNobodyReadsIfTheTextIsNeeded) {
  expect_output_errors();
  Pipe pipe;
  pipe.close_reader();
  AnswerStream answers(pipe.writer(), Unread::goes_on);
  answers.push("te");
  answers.push("xt");
  EXPECT_EQ(answers.end(), "text");
  EXPECT_EQ(answers.error(), "cannot write to standard output: Broken pipe");
}

}  // namespace
}  // namespace reading
