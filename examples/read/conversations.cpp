#include "conversations.hpp"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

namespace reading {
namespace {

using Json = nlohmann::json;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw UsageError("--conversations: " + path + ": " + why + " (see --help)");
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()) || file.bad()) refuse(path, "cannot be read, or is empty");
  return text.str();
}

/// A member of an object that is a text; empty if there is none.
std::string text_of(const Json& object, const char* name, const std::string& path, const std::string& where) {
  const auto found = object.find(name);
  if (found == object.end()) return {};
  if (!found->is_string()) refuse(path, where + ": \"" + name + "\" must be a text");
  return found->get<std::string>();
}

void refuse_others(const Json& object, std::initializer_list<std::string_view> known, const std::string& path,
                   const std::string& where) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    std::string what = where;
    refuse(path, what.append(": there is no \"").append(name).append("\""));
  }
}

Turn turn_of(const Json& json, const std::string& path, const std::string& where) {
  if (!json.is_object()) refuse(path, where + " must be an object");
  refuse_others(json, {"document", "question", "terms", "answer_prefix"}, path, where);
  Turn turn{.document = text_of(json, "document", path, where),
            .question = text_of(json, "question", path, where),
            .answer_prefix = text_of(json, "answer_prefix", path, where),
            .terms = text_of(json, "terms", path, where)};
  if (turn.document.empty() && turn.question.empty())
    refuse(path, where + " has no document and no question");
  if (turn.question.empty() && !turn.answer_prefix.empty())
    refuse(path, where + " has an answer_prefix but no question");
  if (turn.document == "-") refuse(path, where + ": a document must be a file; one of that name is ./-");
  return turn;
}

NamedConversation conversation_of(const Json& json, const std::string& path, std::size_t number) {
  const std::string where = "conversation " + std::to_string(number);
  if (!json.is_object()) refuse(path, where + " must be an object");
  refuse_others(json, {"name", "turns"}, path, where);
  NamedConversation conversation{text_of(json, "name", path, where), {}};
  if (conversation.name.empty()) conversation.name = std::to_string(number);
  const auto turns = json.find("turns");
  if (turns == json.end() || !turns->is_array() || turns->empty())
    refuse(path, where + " needs \"turns\", an array of at least one");
  for (const Json& turn : *turns)
    conversation.turns.push_back(
        turn_of(turn, path, where + ", turn " + std::to_string(conversation.turns.size() + 1)));
  return conversation;
}

}  // namespace

std::vector<NamedConversation> conversations_in(const std::string& path) {
  Json json;
  try {
    json = Json::parse(content_of(path));
  } catch (const Json::parse_error& error) {
    refuse(path, "is no JSON: at byte " + std::to_string(error.byte));
  }
  if (!json.is_array() || json.empty()) refuse(path, "must be an array of at least one conversation");
  std::vector<NamedConversation> conversations;
  for (const Json& one : json) conversations.push_back(conversation_of(one, path, conversations.size() + 1));
  return conversations;
}

}  // namespace reading
