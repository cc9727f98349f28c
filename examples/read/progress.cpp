#include "progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace reading {
namespace {

std::string bar(double done) {
  constexpr std::size_t width = 24;
  done = std::clamp(done, 0.0, 1.0);
  std::string text(width, '.');
  std::fill_n(text.begin(), static_cast<std::size_t>(done * static_cast<double>(width)), '#');
  text += " ";
  text += std::to_string(static_cast<int>(100 * done));
  text += "%  ";
  return text;
}

}  // namespace

Progress::Progress() : terminal_(isatty(STDERR_FILENO) != 0), start_(Clock::now()), last_(start_) {}

void Progress::show(std::optional<double> done, std::uint64_t tokens, std::uint64_t distillations) {
  const auto now = Clock::now();
  if (!terminal_ || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::fprintf(stderr, "\r\033[K%s%llu tokens, %.0f tokens/s, %llu distillations",
               done ? bar(*done).c_str() : "", static_cast<unsigned long long>(tokens),
               static_cast<double>(tokens) / seconds, static_cast<unsigned long long>(distillations));
}

void Progress::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace reading
