#include "chat_input.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "interrupt.hpp"

namespace reading {
namespace {

using Questions = std::vector<std::string>;

/// A pipe that is written to from another thread, piece by piece.
class Pipe {
 public:
  explicit Pipe(std::vector<std::string> pieces) {
    if (pipe(ends_.data()) != 0) throw std::bad_alloc();
    writer_ = std::thread([this, pieces = std::move(pieces)] {
      for (const std::string& piece : pieces)
        for (std::size_t at = 0; at < piece.size();)
          at += static_cast<std::size_t>(::write(ends_[1], piece.data() + at, piece.size() - at));
      close(ends_[1]);
    });
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    writer_.join();
    close(ends_[0]);
  }

  int end() const { return ends_[0]; }

 private:
  std::array<int, 2> ends_{};
  std::thread writer_;
};

Questions asked(std::vector<std::string> pieces) {
  const Pipe pipe(std::move(pieces));
  ChatInput input(pipe.end());
  Questions questions;
  while (const std::optional<std::string> question = input.next()) questions.push_back(*question);
  EXPECT_FALSE(input.next().has_value());
  return questions;
}

TEST(ChatInput, EveryLineIsAQuestion) {
  EXPECT_EQ(asked({"why?\nhow?\n"}), (Questions{"why?", "how?"}));
  EXPECT_EQ(asked({"w", "hy?\nho", "w", "?"}), (Questions{"why?", "how?"}));
  EXPECT_EQ(asked({}), Questions{});
  EXPECT_EQ(asked({"\n"}), Questions{});
}

TEST(ChatInput, LinesMayEndAsOnOtherSystems) {
  EXPECT_EQ(asked({"why?\r\nhow?\r\n"}), (Questions{"why?", "how?"}));
  EXPECT_EQ(asked({"a\rb\r\n"}), (Questions{"a\rb"}));
}

TEST(ChatInput, WhiteSpaceIsNoQuestion) {
  EXPECT_EQ(asked({"\n \t\n\r\n\v\f\n"}), Questions{});
  EXPECT_EQ(asked({"\n\n  why? \n\n"}), Questions{"  why? "});
}

TEST(ChatInput, BytesStayAsTheyAre) {
  using namespace std::string_literals;
  EXPECT_EQ(asked({"caf\xe9 \0 \xff\n"s, "\xe2\x82", "\xac"}),
            (Questions{"caf\xe9 \0 \xff"s, "\xe2\x82\xac"}));
}

TEST(ChatInput, LinesMayBeLong) {
  const std::string long_line(3000000, 'x');
  EXPECT_EQ(asked({long_line + "\n" + long_line}), (Questions{long_line, long_line}));
}

TEST(ChatInput, ASignalEndsIt) {
  const InterruptGuard guard;
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  ChatInput input(ends[0]);
  std::raise(SIGINT);
  EXPECT_FALSE(input.next().has_value());
  forget_interrupt();
  EXPECT_EQ(interrupt_signal(), 0);
  ASSERT_EQ(::write(ends[1], "why?\n", 5), 5);
  EXPECT_EQ(input.next(), "why?");
  std::raise(SIGINT);  // is noted again
  EXPECT_FALSE(input.next().has_value());
  for (const int end : ends) close(end);
}

}  // namespace
}  // namespace reading
