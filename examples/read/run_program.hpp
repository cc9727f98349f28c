// A reading program, all but its engine.
#pragma once

#include <unistd.h>

#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapter_check.hpp"
#include "answer_stream.hpp"
#include "backend.hpp"
#include "document.hpp"
#include "interrupt.hpp"
#include "options.hpp"
#include "outputs.hpp"
#include "report.hpp"
#include "session.hpp"

namespace reading {

/// Says on standard error, in one line, why the program ends. Returns its exit status.
int fail(const Program& program, const std::string& message);

/// Exit status after an interrupt, as a shell has it: 130 after Ctrl-C.
int interrupted_status();

/// Makes writing to a closed pipe, and past the largest size that a file may have, an error instead of the
/// end.
void expect_output_errors();

/// Prints figures and writes what the options ask for, one after the other even if one fails. Says on
/// standard error what failed. Returns the program's exit status.
int finish(const Program& program, const Options& options, const Report& report,
           const std::string& answer_error);

/// Reads the documents, answers the questions and reports. `make_backend(Options&)` loads the model and
/// returns the Backend by value; it may fill in options.threads. It is called once the documents are known
/// to open. Or checks the adapter, if that is asked for. Whatever is thrown becomes a message on standard
/// error.
///
///     int main(int argc, char** argv) {
///       return reading::run_program(program, argc, argv,
///                                   [](reading::Options& options) { return MyBackend(options); });
///     }
template <class MakeBackend>
int run_program(const Program& program, int argc, const char* const* argv, const MakeBackend& make_backend) {
  expect_output_errors();
  try {
    std::optional<Options> options = parse_options(program, argc, argv);
    if (!options) return std::cout.flush() ? 0 : fail(program, "cannot write to standard output");
    std::vector<Document> documents = open_documents(*options);
    check_outputs(*options);
    auto backend = make_backend(*options);
    if (options->check) return check(backend, *options);
    if constexpr (requires { backend.converse(program, *options); })
      if (!options->conversations.empty()) return backend.converse(program, *options);
    const InterruptGuard interrupts;  // before this there is nothing to lose
    const bool files = !options->json.empty() || !options->report.empty() || !options->save.empty() ||
                       !options->archive.empty();
    AnswerStream answers(options->json == "-" ? -1 : STDOUT_FILENO, files ? Unread::goes_on : Unread::ends);
    const Report report = run_session(backend, *options, std::move(documents), answers);
    return finish(program, *options, report, answers.error());
  } catch (const Interrupted& interrupted) {
    fail(program, interrupted.what());
    return interrupted_status();
  } catch (const std::bad_alloc&) {
    return fail(program, "not enough memory for the model and a pot of that size");
  } catch (const std::exception& error) {
    return fail(program, error.what());
  }
}

}  // namespace reading
