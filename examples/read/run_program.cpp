#include "run_program.hpp"

#include <algorithm>
#include <cstdio>

namespace reading {
namespace {

/// Keeps a message to one line, whatever it quotes, such as the name of a file.
std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
  return text;
}

}  // namespace

int fail(const Program& program, const std::string& message) {
  std::fprintf(stderr, "%s: %s\n", program.name.c_str(), one_line(message).c_str());
  return 2;
}

}  // namespace reading
