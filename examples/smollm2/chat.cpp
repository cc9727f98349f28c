#include "chat.hpp"

#include <optional>
#include <string>

namespace smollm2 {
namespace {

constexpr std::string_view template_key = "tokenizer.chat_template";

[[noreturn]] void fail(const GgufFile& file, const std::string& problem) {
  throw GgufError(file.name() + ": metadata key " + quoted(template_key) + ": " + problem);
}

std::int32_t required_mark(const GgufFile& file, const Tokenizer& tokenizer, std::string_view mark) {
  if (file.string_value(template_key).find(mark) == std::string_view::npos) {
    fail(file, "the template does not use " + quoted(mark) + "; only ChatML templates are supported");
  }
  const std::optional<std::int32_t> id = tokenizer.control_token(mark);
  if (!id) fail(file, "the template uses " + quoted(mark) + ", which is no control token of the vocabulary");
  return *id;
}

}  // namespace

ChatTemplate::ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer,
                           std::string_view system_message) {
  const std::int32_t start = required_mark(file, tokenizer, "<|im_start|>");
  const std::int32_t end = required_mark(file, tokenizer, "<|im_end|>");
  Tokenizer::Workspace workspace = tokenizer.make_workspace();
  const auto open_turn = [&](std::string_view text, Tokens& out) {
    out.push_back(start);
    tokenizer.encode(text, Specials::as_text, workspace, out);
  };
  const auto close_turn = [&](Tokens& out) {
    out.push_back(end);
    tokenizer.encode("\n", Specials::as_text, workspace, out);
  };
  open_turn("system\n" + std::string(system_message), user_);
  for (Tokens* const piece : {&user_, &assistant_, &next_user_}) {
    close_turn(*piece);
    open_turn(piece == &assistant_ ? "assistant" : "user", *piece);
  }
}

}  // namespace smollm2
