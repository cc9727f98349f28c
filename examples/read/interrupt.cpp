#include "interrupt.hpp"

#include <atomic>

namespace reading {
namespace {

std::atomic<int> noted{0};
static_assert(std::atomic<int>::is_always_lock_free, "or a signal handler must not use it");

extern "C" void note_signal(int signal) {
  int none = 0;
  if (!noted.compare_exchange_strong(none, signal)) std::raise(signal);  // ends the program: SA_RESETHAND
}

/// Without SA_RESTART, so that waiting for input ends.
void handle(int signal) noexcept {
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(signal, &action, nullptr);
}

void install(int signal, struct sigaction& before) noexcept {
  sigaction(signal, nullptr, &before);
  if (before.sa_handler != SIG_IGN) handle(signal);
}

}  // namespace

InterruptGuard::InterruptGuard() noexcept {
  noted = 0;
  install(SIGINT, interrupt_);
  install(SIGTERM, terminate_);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

int interrupt_signal() noexcept { return noted; }

void forget_interrupt() noexcept {
  if (const int signal = interrupt_signal(); signal != 0) handle(signal);
  noted = 0;
}

void check_interrupt() {
  if (interrupt_signal() != 0) throw Interrupted("interrupted before an answer began");
}

}  // namespace reading
