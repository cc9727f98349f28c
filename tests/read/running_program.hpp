// A reading program while it runs: what it says so far, and signals.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "program.hpp"
#include "temporary_file.hpp"

namespace reading::test {

class RunningProgram {
 public:
  explicit RunningProgram(const Arguments& arguments, const std::string& program = INFINIPOT_READ) {
    std::array<int, 2> in{}, out{};
    if (pipe2(in.data(), O_CLOEXEC) != 0 || pipe2(out.data(), O_CLOEXEC) != 0) throw std::bad_alloc();
    std::vector<char*> argv{const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const std::string err = err_.path();
    process_ = fork();
    if (process_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(open(err.c_str(), O_WRONLY | O_TRUNC), STDERR_FILENO);
      for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) std::signal(signal, SIG_DFL);
      alarm(120);  // a program that hangs does not hang the tests
      execv(argv.front(), argv.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    input_ = in[1];
    output_ = out[0];
  }
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;
  ~RunningProgram() {
    close_input();
    close_output();
    if (process_ > 0) {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
  }

  /// Gives it all of the text on standard input, which takes until it has read nearly all.
  void write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = ::write(input_, text.data(), text.size());
      ASSERT_GT(written, 0);
      text.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  void close_input() { close(std::exchange(input_, -1)); }

  /// Waits until so much of its standard output has come, or the end of it. Returns all that came so far.
  const std::string& read(std::size_t bytes) {
    std::array<char, 4096> buffer{};
    while (read_.size() < bytes) {
      const ssize_t got = ::read(output_, buffer.data(), std::min(buffer.size(), bytes - read_.size()));
      if (got <= 0) break;
      read_.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return read_;
  }
  void close_output() { close(std::exchange(output_, -1)); }

  void send(int signal) const { kill(process_, signal); }

  /// Waits for its end. The status is negative for the signal that ended it.
  Outcome wait() {
    if (output_ >= 0) read(static_cast<std::size_t>(-1));
    int status = 0;
    waitpid(std::exchange(process_, -1), &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read_, err_.content()};
  }

 private:
  const TemporaryFile err_;
  pid_t process_ = -1;
  int input_ = -1, output_ = -1;
  std::string read_;
};

}  // namespace reading::test
