#include "run_program.hpp"

#include <algorithm>
#include <csignal>
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

int interrupted_status() { return 128 + interrupt_signal(); }

void expect_output_errors() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

int finish(const Program& program, const Options& options, const Report& report,
           const std::string& answer_error) {
  print(report, options);
  int status = report.interrupted.empty() ? 0 : interrupted_status();
  const auto attempt = [&](const auto& write) {
    try {
      write();
    } catch (const UsageError& error) {
      status = fail(program, error.what());
    }
  };
  if (!options.json.empty()) attempt([&] { write_json(options.json, report, options, program); });
  if (report.log) attempt([&] { write_page(options.report, *report.log, page_title(options, program)); });
  return answer_error.empty() ? status : fail(program, answer_error);
}

}  // namespace reading
