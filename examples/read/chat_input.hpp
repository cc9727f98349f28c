// Questions from standard input, one a line.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace reading {

/// The line's text without what ends it (CR too); nothing if there is but white space.
std::optional<std::string> question_in(std::string_view line);

class ChatInput {
 public:
  /// Reads from a descriptor, which it leaves open. If that is a terminal, a prompt on standard error asks
  /// for each question.
  explicit ChatInput(int descriptor);

  /// Waits for the next question: a line of any length, whatever its bytes; lines of white space alone are
  /// passed over. Nothing at the end, and once a signal was noted (interrupt_signal()). Throws UsageError if
  /// reading fails.
  std::optional<std::string> next();

 private:
  void ask() const;
  bool fill();
  std::optional<std::string> take_line();

  int descriptor_;
  bool terminal_;
  bool ended_ = false;
  std::string buffer_;
  std::size_t searched_ = 0;  // no line ends before this byte of it
};

}  // namespace reading
