// Runs both reading programs as a user does.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "read/program.hpp"
#include "read/temporary_file.hpp"

namespace llama_cpp::test {

using reading::test::Arguments;
using reading::test::for_the_shell;
using reading::test::Outcome;
using reading::test::operator+;

inline const std::string infinipot_read = INFINIPOT_READ, infinipot_llama = INFINIPOT_LLAMA;

/// What a status of exit means: the program had to be ended after `limit_seconds`.
inline constexpr int took_too_long = 124;
inline constexpr int limit_seconds = 300;

inline Outcome run(const std::string& program, const Arguments& arguments) {
  const reading::test::TemporaryFile out, err;
  std::ostringstream command;
  command << "timeout -k 5 " << limit_seconds << " " << for_the_shell(program);
  for (const std::string& argument : arguments) command << " " << for_the_shell(argument);
  command << " </dev/null >" << for_the_shell(out.path()) << " 2>" << for_the_shell(err.path());
  const int result = std::system(command.str().c_str());
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, out.content(), err.content()};
}

/// What --json - writes.
inline nlohmann::json report_of(const std::string& program, const Arguments& arguments) {
  const Outcome outcome = run(program, arguments + Arguments{"--json", "-"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.status == 0 ? outcome.json() : nlohmann::json::object();
}

}  // namespace llama_cpp::test
