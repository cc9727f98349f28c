// Runs infinipot-read as a user does.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "temporary_file.hpp"

namespace reading::test {

using Arguments = std::vector<std::string>;

struct Outcome {
  int status = -1;  // of exit
  std::string out, err;

  nlohmann::json json() const { return nlohmann::json::parse(out); }
};

inline std::string for_the_shell(const std::string& text) {
  std::string quoted("'");
  for (const char c : text) {
    if (c == '\'')
      quoted += "'\\''";
    else
      quoted += c;
  }
  quoted += '\'';
  return quoted;
}

/// `redirection` is the shell's and overrules that standard input is empty and what is caught.
inline Outcome run_program(const Arguments& arguments, const std::string& redirection = {}) {
  const TemporaryFile out, err;
  std::ostringstream command;
  command << for_the_shell(INFINIPOT_READ);
  for (const std::string& argument : arguments) command << " " << for_the_shell(argument);
  command << " </dev/null >" << for_the_shell(out.path()) << " 2>" << for_the_shell(err.path()) << " "
          << redirection;
  const int result = std::system(command.str().c_str());
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, out.content(), err.content()};
}

inline Arguments operator+(Arguments first, const Arguments& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

}  // namespace reading::test
