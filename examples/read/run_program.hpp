// A reading program, all but its engine.
#pragma once

#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"
#include "document.hpp"
#include "options.hpp"
#include "report.hpp"
#include "session.hpp"

namespace reading {

/// Says on standard error, in one line, why the program ends. Returns its exit status.
int fail(const Program& program, const std::string& message);

/// Reads the documents, answers the questions and reports. `make_backend(Options&)` loads the model and
/// returns the Backend by value; it may fill in options.threads. It is called once the documents are known
/// to open. Whatever is thrown becomes a message on standard error.
///
///     int main(int argc, char** argv) {
///       return reading::run_program(program, argc, argv,
///                                   [](reading::Options& options) { return MyBackend(options); });
///     }
template <class MakeBackend>
int run_program(const Program& program, int argc, const char* const* argv, const MakeBackend& make_backend) {
  try {
    if (std::optional<Options> options = parse_options(program, argc, argv)) {
      std::vector<Document> documents = open_documents(*options);
      if (options->json != "-") check_path("--json", options->json);
      check_path("--report", options->report);
      auto backend = make_backend(*options);
      const Report report = run_session(backend, *options, std::move(documents));
      if (!options->json.empty()) write_json(options->json, report, *options, program);
      if (report.log) write_page(options->report, *report.log, page_title(*options, program));
      print(report, *options);
    }
    if (!std::cout.flush()) return fail(program, "cannot write to standard output");
    return 0;
  } catch (const std::bad_alloc&) {
    return fail(program, "not enough memory for the model and a pot of that size");
  } catch (const std::exception& error) {
    return fail(program, error.what());
  }
}

}  // namespace reading
