#include "chat.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

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

/// The quote that a literal around `at` begins with; none outside of any expression.
char quote_around(std::string_view chat_template, std::size_t at) {
  const std::string_view before = chat_template.substr(0, at);
  const auto last = [&](std::string_view a, std::string_view b) {
    const std::size_t of_a = before.rfind(a), of_b = before.rfind(b);
    return of_a == std::string_view::npos   ? of_b
           : of_b == std::string_view::npos ? of_a
                                            : std::max(of_a, of_b);
  };
  const std::size_t open = last("{{", "{%"), closed = last("}}", "%}");
  if (open == std::string_view::npos || (closed != std::string_view::npos && closed > open)) return '\0';
  char quote = '\0';
  for (std::size_t i = open; i < at; ++i) {
    if (quote != '\0' && before[i] == '\\')
      ++i;
    else if (quote == '\0' && (before[i] == '\'' || before[i] == '"'))
      quote = before[i];
    else if (before[i] == quote)
      quote = '\0';
  }
  return quote;
}

/// The text after "<|im_start|>system" and a line break, if it ends with "<|im_end|>" before the literal
/// does, which `quote` ends (none: an expression does); with its escapes resolved.
std::string literal_message(std::string_view text, char quote) {
  std::string message;
  for (bool first = true; !text.empty(); first = false) {
    const bool escape = text.front() == '\\' && text.size() > 1;
    if (first) {  // the line break
      if (!text.starts_with("\n") && !text.starts_with("\\n")) return {};
    } else if (text.starts_with("<|im_end|>")) {
      return message;
    } else if (text.starts_with("<|im_start|>") || text.front() == '{' || text.front() == '}' ||
               (quote != '\0' && text.front() == quote)) {
      return {};
    } else if (!escape) {
      message += text.front();
    } else {
      const char escaped = text[1];
      message += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped == 'r' ? '\r' : escaped;
    }
    text.remove_prefix(escape ? 2 : 1);
  }
  return {};
}

std::optional<std::string> own_message(const GgufFile& file) {
  if (!file.has(template_key)) return std::nullopt;
  std::string message = own_system_message(file.string_value(template_key));
  return message.empty() ? std::nullopt : std::optional(std::move(message));
}

}  // namespace

std::string own_system_message(std::string_view chat_template) {
  constexpr std::string_view opening = "<|im_start|>system";
  for (std::size_t at = 0; (at = chat_template.find(opening, at)) != std::string_view::npos;
       at += opening.size()) {
    const char quote = quote_around(chat_template, at);
    if (std::string message = literal_message(chat_template.substr(at + opening.size()), quote);
        !message.empty())
      return message;
  }
  return {};
}

ChatTemplate::ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer)
    : ChatTemplate(file, tokenizer, own_message(file)) {}

ChatTemplate::ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer,
                           std::optional<std::string_view> system_message) {
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
  if (system_message) {
    open_turn("system\n" + std::string(*system_message), user_);
    close_turn(user_);
  }
  open_turn("user", user_);
  close_turn(assistant_);
  open_turn("assistant", assistant_);
  close_turn(next_user_);
  open_turn("user", next_user_);
  if (file.bool_value("tokenizer.ggml.add_bos_token", false) && user_.front() != tokenizer.bos())
    user_.insert(user_.begin(), tokenizer.bos());
}

}  // namespace smollm2
