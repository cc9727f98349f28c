#include "option_checks.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace reading {
namespace {

bool any(const Options& options, std::string Turn::*text) {
  return std::ranges::any_of(options.turns, [text](const Turn& turn) { return !(turn.*text).empty(); });
}

/// Throws UsageError if there is more to do than to check the adapter.
void check_checks_alone(const Options& options) {
  if (any(options, &Turn::document) || any(options, &Turn::question) || options.chat)
    throw UsageError("--check: reads no --document and asks no --question (see --help)");
  for (const auto& [name, file] :
       {std::pair("--archive", &options.archive), {"--save", &options.save}, {"--load", &options.load}})
    if (!file->empty()) throw UsageError("--check: uses no " + std::string(name) + " (see --help)");
}

void check_archive(const Options& options) {
  const auto needs = [](bool given, const std::string& name) {
    if (given) throw UsageError(name + ": belongs to an archive, so it needs --archive");
  };
  if (options.archive.empty()) {
    needs(!options.archive_type.empty(), "--archive-type");
    needs(options.archive_limit > 0, "--archive-limit");
    needs(options.recall.value_or(0) > 0, "--recall");
    needs(options.read_anew == "yes", "--read-anew");
    needs(options.recall_pot > 0, "--recall-pot");
  } else if (options.archive == "-") {
    throw UsageError("--archive: must be a file; one of that name is ./-");
  }
}

}  // namespace

void check_turns(const Options& options) {
  if (options.check) return check_checks_alone(options);
  const bool remembers = !options.archive.empty() || !options.load.empty();
  if (!any(options, &Turn::document) && !remembers && !options.chat)
    throw UsageError("--document is required (see --help)");
  if (!any(options, &Turn::question) && !options.chat &&
      (!asks_later(options) || !any(options, &Turn::document)))
    throw UsageError("--question is required (see --help)");
  if (std::ranges::count(options.turns, "-", &Turn::document) > 1)
    throw UsageError("--document: standard input (-) can be read only once");
  if (options.chat && std::ranges::count(options.turns, "-", &Turn::document) > 0)
    throw UsageError("--chat: reads questions from standard input, so it cannot be a --document too");
}

void check_conversations(const Options& options) {
  for (const auto& [name, given] : {std::pair("--chat", options.chat),
                                    {"--check", options.check},
                                    {"--archive", !options.archive.empty()},
                                    {"--save", !options.save.empty()},
                                    {"--load", !options.load.empty()},
                                    {"--report", !options.report.empty()},
                                    {"--report-kept", options.report_kept},
                                    {"--nuc", options.nuc},
                                    {"--timeline", options.timeline > 0}})
    if (given)
      throw UsageError(std::string(name) + ": not with --conversations, which are several (see --help)");
  if (options.policy == "full" || options.policy == "context_shift")
    throw UsageError("--policy " + options.policy +
                     ": not with --conversations, whose pots are made before their texts are known");
}

void check_needs(const Options& options) {
  const bool json = !options.json.empty();
  if (options.report_kept && !json) throw UsageError("--report-kept: adds to the JSON, so it needs --json");
  if (options.timeline > 0 && !json) throw UsageError("--timeline: adds to the JSON, so it needs --json");
  if (options.nuc && !json && options.report.empty())
    throw UsageError("--nuc: adds to the JSON or to the page, so it needs --json or --report");
  if (options.report == "-") throw UsageError("--report: must be a file; one of that name is ./-");
  if (options.save == "-") throw UsageError("--save: must be a file; one of that name is ./-");
  if (options.parallel > 0 && options.conversations.empty())
    throw UsageError("--parallel: is of conversations, so it needs --conversations");
  check_archive(options);
  if (options.policy != "full") return;
  for (const auto& [name, given] : {std::pair("--chat", options.chat),
                                    {"--archive", !options.archive.empty()},
                                    {"--load", !options.load.empty()}})
    if (given)
      throw UsageError(std::string(name) +
                       ": not with --policy full, whose pot is made for the texts on the command line");
}

}  // namespace reading
