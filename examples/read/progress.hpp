// A progress line on a terminal. No C++ progress-bar library is packaged for Debian, hence these few lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace reading {

/// Redraws one line on standard error, a few times a second, if that is a terminal; else prints nothing.
class Progress {
 public:
  Progress();
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` is 0 .. 1 where it is known.
  void show(std::optional<double> done, std::uint64_t tokens, std::uint64_t distillations);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace reading
