// How far reading has come, on standard error. No C++ progress-bar library is packaged for Debian, hence
// these few lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace reading {

/// Redraws one line, a few times a second, if standard error is a terminal; else prints another one now and
/// then.
class Progress {
 public:
  /// `every` is the time from one line to the next where there is no terminal.
  explicit Progress(std::chrono::milliseconds every = std::chrono::seconds(10));
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` is 0 .. 1 where it is known.
  void show(std::optional<double> done, std::uint64_t tokens, std::uint64_t distillations);
  /// A line of another kind, on a terminal only.
  void say(const std::string& text);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  bool terminal_;
  std::chrono::milliseconds every_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace reading
