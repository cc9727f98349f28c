// Reads each text once by each policy, with an archive, and answers questions from the pot and from the
// archive: what does each way to recall lose, and what does it cost? The driver is infinipot-recall.
#include <CLI/CLI.hpp>
#include <cstddef>
#include <exception>
#include <iostream>
#include <string>

#include "conversation_trial.hpp"
#include "job.hpp"
#include "lab.hpp"
#include "nlohmann/json.hpp"
#include "reading_trial.hpp"

namespace {

using recall_trials::json;

constexpr const char* about =
    "Standard input has a JSON object per line: document (a file) or archive (a file), reading (full, "
    "known,\n"
    "streaming_llm, reread), pot, keep, questions [{name, question, answer_prefix, answer, gold: [phrases]}] "
    "and\n"
    "variants [{name, steps, next, read_anew, type, prefix, pot, recent, landmark, run, over, share}]; or, "
    "of a\n"
    "conversation, conversation: true, and documents of the first questions; a variant without a name then\n"
    "recalls nothing. Standard output answers each line with one: tokens, pot_bytes, read_seconds, and "
    "answers\n"
    "[{question, variant, nll, seconds, bytes, gold_kept, answer_kept}], where the variant without a name "
    "is\n"
    "the pot as it was read; or error, which says what is wrong with the line.";

json run(recall_trials::Lab& lab, const std::string& line) {
  try {
    const recall_trials::Job job = recall_trials::job_of(json::parse(line));
    if (job.conversation) return recall_trials::ConversationTrial(lab, job).run();
    return recall_trials::ReadingTrial(lab, job).run();
  } catch (const std::exception& error) {
    return {{"error", error.what()}};
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string model;
  std::size_t threads = 0;
  CLI::App app("Answers questions from what was read blind, by many ways to recall.",
               "infinipot-recall-trials");
  app.footer(about);
  app.add_option("--model", model, "GGUF file of a Llama model")->required()->check(CLI::ExistingFile);
  app.add_option("--threads", threads, "Threads; 0 is one per core")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    recall_trials::Lab lab(model, threads);
    for (std::string line; std::getline(std::cin, line);)
      std::cout << run(lab, line).dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "infinipot-recall-trials: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
