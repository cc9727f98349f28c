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

ChatTemplate::ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer)
    : tokenizer_(&tokenizer),
      start_(required_mark(file, tokenizer, "<|im_start|>")),
      end_(required_mark(file, tokenizer, "<|im_end|>")) {}

void ChatTemplate::system_turn(std::vector<std::int32_t>& out, std::string_view message) const {
  turn_opening(out, "system\n" + std::string(message));
  turn_closing(out);
}

void ChatTemplate::begin_user_turn(StreamingTokenizer& stream, std::vector<std::int32_t>& out) const {
  turn_opening(out, "user");
  stream.push("\n", out);
}

void ChatTemplate::end_user_turn(StreamingTokenizer& stream, std::vector<std::int32_t>& out,
                                 std::string_view answer_prefix) const {
  stream.finish(out);
  turn_closing(out);
  turn_opening(out, "assistant\n" + std::string(answer_prefix));
}

void ChatTemplate::turn_opening(std::vector<std::int32_t>& out, std::string_view text) const {
  out.push_back(start_);
  plain(out, text);
}

void ChatTemplate::turn_closing(std::vector<std::int32_t>& out) const {
  out.push_back(end_);
  plain(out, "\n");
}

void ChatTemplate::plain(std::vector<std::int32_t>& out, std::string_view text) const {
  Tokenizer::Workspace workspace = tokenizer_->make_workspace();
  tokenizer_->encode(text, Specials::as_text, workspace, out);
}

}  // namespace smollm2
