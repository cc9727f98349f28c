#include "chat_input.hpp"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "interrupt.hpp"
#include "options.hpp"

namespace reading {

std::optional<std::string> question_in(std::string_view line) {
  while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
  if (line.find_first_not_of(" \t\v\f\r") == std::string_view::npos) return std::nullopt;
  return std::string(line);
}

ChatInput::ChatInput(int descriptor) : descriptor_(descriptor), terminal_(isatty(descriptor) != 0) {}

std::optional<std::string> ChatInput::next() {
  ask();
  for (;;) {
    if (const std::optional<std::string> line = take_line()) {
      if (std::optional<std::string> question = question_in(*line)) return question;
      ask();
    } else if (ended_ || !fill()) {
      if (terminal_) std::fputs("\n", stderr);
      return std::nullopt;
    }
  }
}

void ChatInput::ask() const {
  if (terminal_) std::fputs("> ", stderr);
}

/// Waits for more input. False if a signal came instead.
bool ChatInput::fill() {
  // Looks now and then, because a signal just before poll() does not end it.
  constexpr int milliseconds = 200;
  for (pollfd ready{descriptor_, POLLIN, 0}; interrupt_signal() == 0;) {
    if (poll(&ready, 1, milliseconds) <= 0) continue;
    std::array<char, 4096> bytes{};
    const ssize_t got = read(descriptor_, bytes.data(), bytes.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw UsageError(std::string("--chat: cannot read standard input: ") + std::strerror(errno));
    ended_ = got == 0;
    buffer_.append(bytes.data(), static_cast<std::size_t>(got));
    return true;
  }
  return false;
}

/// The next line; at the end, what there is without one.
std::optional<std::string> ChatInput::take_line() {
  const std::size_t end = buffer_.find('\n', searched_);
  searched_ = buffer_.size();
  if (end == std::string::npos && (!ended_ || buffer_.empty())) return std::nullopt;
  const std::size_t length = end == std::string::npos ? buffer_.size() : end + 1;
  std::string line = buffer_.substr(0, length);
  buffer_.erase(0, length);
  searched_ = 0;
  return line;
}

}  // namespace reading
