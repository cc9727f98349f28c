// Several conversations, from a file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "options.hpp"
#include "report.hpp"

namespace reading {

struct NamedConversation {
  std::string name;  ///< as its answers are headed; its number, from 1 on, if the file has none
  std::vector<Turn> turns;
};

/// What --help says of the file.
inline constexpr const char* about_conversations =
    "--conversations FILE has a JSON array of conversations, each an object with \"turns\" and, if you like, "
    "a\n"
    "\"name\". A turn is an object with \"document\" (a file), \"question\", \"terms\" and "
    "\"answer_prefix\", as the options\n"
    "of these names; a turn needs a document or a question; those with a question are answered:\n"
    "  [{\"name\": \"tea\", \"turns\": [{\"document\": \"tea.txt\", \"question\": \"Who drank it?\"},\n"
    "                             {\"question\": \"And when?\"}]}]\n"
    "Each has a pot of its own; --parallel of them run in one batch, the others wait for their turn.\n";

/// Throws UsageError, naming the place in the file, for what is no such file.
std::vector<NamedConversation> conversations_in(const std::string& path);

/// How one of them ended.
struct ConversationReport {
  std::string name;
  std::string error;  ///< empty if all of it was read and answered
  Options options;    ///< with its turns
  Report report;
};

/// All of them, and what they took together.
struct ConversationsReport {
  std::vector<ConversationReport> conversations;
  double seconds = 0;         ///< from the first pass to the last
  std::uint64_t tokens = 0;   ///< read, answers included
  std::uint64_t batches = 0;  ///< forward passes
};

/// As write_json() for one. Throws UsageError.
void write_json(const std::string& path, const ConversationsReport& report, const Program& program);

}  // namespace reading
