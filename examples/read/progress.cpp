#include "progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace reading {
namespace {

std::string percent(double done) {
  return std::to_string(static_cast<int>(100 * std::clamp(done, 0.0, 1.0))) + "%  ";
}

std::string bar(double done) {
  constexpr std::size_t width = 24;
  std::string text(width, '.');
  std::fill_n(text.begin(), static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(width)),
              '#');
  return text + " ";
}

}  // namespace

Progress::Progress(std::chrono::milliseconds every)
    : terminal_(isatty(STDERR_FILENO) != 0),
      every_(terminal_ ? std::chrono::milliseconds(100) : every),
      start_(Clock::now()),
      last_(start_) {}

void Progress::show(std::optional<double> done, std::uint64_t tokens, std::uint64_t distillations) {
  const auto now = Clock::now();
  if (now - last_ < every_) return;
  last_ = now;
  drawn_ = terminal_;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string share = done ? (terminal_ ? bar(*done) : "") + percent(*done) : "";
  std::fprintf(stderr, "%s%s%llu tokens, %.0f tokens/s, %llu distillations%s", terminal_ ? "\r\033[K" : "",
               share.c_str(), static_cast<unsigned long long>(tokens), static_cast<double>(tokens) / seconds,
               static_cast<unsigned long long>(distillations), terminal_ ? "" : "\n");
}

void Progress::say(const std::string& text) {
  const auto now = Clock::now();
  if (!terminal_ || now - last_ < every_) return;
  last_ = now;
  drawn_ = true;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

void Progress::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace reading
