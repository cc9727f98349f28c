// An answer on its way to the reader, token by token.
#pragma once

#include <string>
#include <string_view>

namespace reading {

/// What happens to the work when nobody can read the answer.
enum class Unread { ends, goes_on };

/// Prints answers while they are generated. What it prints is valid UTF-8: a character that is not complete
/// waits for its rest, and bytes that make none become U+FFFD.
class AnswerStream {
 public:
  /// Prints nothing if `descriptor` is negative.
  explicit AnswerStream(int descriptor, Unread unread = Unread::ends)
      : descriptor_(descriptor), unread_(unread) {}
  AnswerStream(const AnswerStream&) = delete;
  AnswerStream& operator=(const AnswerStream&) = delete;
  /// Ends the line of an answer that an error cut short.
  ~AnswerStream();

  /// The next token's bytes. Throws UsageError if they cannot be printed, unless the work goes on.
  void push(std::string_view bytes);

  /// Ends the answer, and its line. Returns all of its text. Throws as push() does.
  std::string end();

  /// Why an answer could not be printed while the work went on; empty if all were.
  const std::string& error() const { return error_; }

 private:
  void take(std::size_t bytes);
  void print(std::string_view text);

  int descriptor_;
  Unread unread_;
  std::string held_;  // the beginning of a character
  std::string text_;
  std::string error_;
};

}  // namespace reading
