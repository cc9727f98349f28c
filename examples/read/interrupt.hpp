// Ctrl-C as a wish to end in order.
#pragma once

#include <csignal>
#include <stdexcept>

namespace reading {

/// Thrown where an interrupt ends the program before there is an answer; what() says how far it came.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// While one lives, the first SIGINT (Ctrl-C) or SIGTERM is only noted, and the next of either ends the
/// program at once. What was ignored stays ignored, as a shell wants it of programs in the background. One at
/// a time.
class InterruptGuard {
 public:
  InterruptGuard() noexcept;
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
};

/// The signal that was noted; 0 if there was none.
int interrupt_signal() noexcept;

/// As if no signal had come yet: while an InterruptGuard lives, the next one is only noted again.
void forget_interrupt() noexcept;

/// Throws Interrupted if a signal was noted.
void check_interrupt();

}  // namespace reading
