#include "text.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <utility>

#include "deep_stack.hpp"
#include "plain_vocabulary.hpp"
#include "smollm2/chat.hpp"

namespace llama_cpp {
namespace {

using reading::Token;

/// llama.cpp's regular expressions take 321 bytes of stack for each character of a word (gcc 12, -O3), so
/// that one of 27,000 letters overflows eight megabytes. Builds of other kinds may take more.
constexpr std::size_t stack_per_byte = 2048, short_text = 1024;

enum class Specials { as_text, parse };

const llama_vocab& vocabulary_of(const llama_model& model) {
  const llama_vocab& vocabulary = *llama_model_get_vocab(&model);
  if (llama_vocab_type(&vocabulary) == LLAMA_VOCAB_TYPE_NONE)
    throw std::invalid_argument("the model's file has no vocabulary (tokenizer.ggml.model is no_vocab)");
  return vocabulary;
}

bool puts_space_first(const llama_model& model) {
  if (llama_vocab_type(llama_model_get_vocab(&model)) != LLAMA_VOCAB_TYPE_SPM) return false;
  char text[8] = {};
  return llama_model_meta_val_str(&model, "tokenizer.ggml.add_space_prefix", text, sizeof text) < 0 ||
         std::string_view(text) == "true";
}

std::string filled(const char* chat_template, std::span<const llama_chat_message> messages) {
  std::string text(4096, '\0');
  for (;;) {
    const std::int32_t length =
        llama_chat_apply_template(chat_template, messages.data(), messages.size(), true, text.data(),
                                  static_cast<std::int32_t>(text.size()));
    if (length < 0) throw std::invalid_argument("llama.cpp does not know the model's chat template");
    const bool fits = static_cast<std::size_t>(length) <= text.size();
    text.resize(static_cast<std::size_t>(length));
    if (fits) return text;
  }
}

/// Stands for a text while a template is taken apart: nothing that the template says.
std::string placeholder_for(std::string_view chat_template) {
  std::string placeholder = "infinipot";
  while (chat_template.find(placeholder) != std::string_view::npos) placeholder += 'x';
  return placeholder;
}

/// What stands before, between and after the placeholders of a conversation: user, assistant, user.
std::array<std::string, 4> around_placeholders(const std::string& text, const std::string& placeholder) {
  std::array<std::string, 4> parts;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t end = i + 1 < parts.size() ? text.find(placeholder, begin) : text.size();
    if (end == std::string::npos)
      throw std::invalid_argument("the model's chat template leaves out or changes what is said");
    parts[i] = text.substr(begin, end - begin);
    begin = end + placeholder.size();
  }
  return parts;
}

/// Appends llama.cpp's tokens of a text.
void tokenize(const llama_vocab& vocabulary, std::string_view text, Specials specials,
              std::vector<Token>& out) {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw std::invalid_argument("a text of " + std::to_string(text.size()) +
                                " bytes is too long for llama.cpp");
  const auto into = [&](Token* tokens, std::size_t most) {
    return llama_tokenize(&vocabulary, text.data(), static_cast<std::int32_t>(text.size()), tokens,
                          static_cast<std::int32_t>(most), false, specials == Specials::parse);
  };
  const std::size_t before = out.size();
  // A token spells one byte or more; the other two are for a space in front.
  out.resize(before + text.size() + 2);
  std::int32_t count = into(out.data() + before, text.size() + 2);
  if (count < 0 && count != std::numeric_limits<std::int32_t>::min()) {
    out.resize(before + static_cast<std::size_t>(-count));
    count = into(out.data() + before, out.size() - before);
  }
  if (count < 0)
    throw std::runtime_error("llama.cpp cannot tokenize a text of " + std::to_string(text.size()) + " bytes");
  out.resize(before + static_cast<std::size_t>(count));
}

/// The same, wherever the text's length may lead.
void tokenize_any(const llama_vocab& vocabulary, std::string_view text, Specials specials,
                  std::vector<Token>& out) {
  if (text.size() <= short_text) return tokenize(vocabulary, text, specials, out);
  on_deep_stack(text.size() * stack_per_byte, [&] { tokenize(vocabulary, text, specials, out); });
}

}  // namespace

Text::Text(const llama_model& model, std::string path)
    : vocabulary_(vocabulary_of(model)),
      path_(std::move(path)),
      space_prefix_(puts_space_first(model)),
      markers_(chat_markers(model)) {
  const char* const chat_template = llama_model_chat_template(&model, nullptr);
  if (chat_template == nullptr) {
    chat_.assistant.space = "\n";
    chat_.next_user.space = "\n\n";
  } else {
    // llama.cpp does not run the template but recognizes it, and so misses the template's own system
    // message.
    const std::string system = smollm2::own_system_message(chat_template),
                      text = placeholder_for(chat_template);
    std::vector<llama_chat_message> messages;
    if (!system.empty()) messages.push_back({"system", system.c_str()});
    for (const char* role : {"user", "assistant", "user"}) messages.push_back({role, text.c_str()});
    const auto parts = around_placeholders(filled(chat_template, messages), text);
    chat_ = {piece(parts[0], true), piece(parts[3]), piece(parts[2])};
  }
  if (const Token bos = llama_vocab_bos(&vocabulary_);
      llama_vocab_get_add_bos(&vocabulary_) && bos != LLAMA_TOKEN_NULL &&
      (chat_.user.tokens.empty() || chat_.user.tokens.front() != bos))
    chat_.user.tokens.insert(chat_.user.tokens.begin(), bos);
}

reading::ChatPiece Text::piece(std::string_view text, bool first) const {
  reading::ChatPiece piece;
  // encode() puts it there again.
  if (!first && space_prefix_ && text.starts_with(' ')) text.remove_prefix(1);
  const std::size_t last = text.find_last_not_of(" \t\r\n");
  const std::size_t length = last == std::string_view::npos ? 0 : last + 1;
  piece.space = text.substr(length);
  tokenize_any(vocabulary_, text.substr(0, length), Specials::parse, piece.tokens);
  return piece;
}

bool Text::has_marker(std::span<const Token> tokens) const {
  return std::ranges::any_of(tokens, [&](Token token) { return markers_[static_cast<std::size_t>(token)]; });
}

void Text::encode(std::string_view text, std::vector<Token>& out) const {
  const std::size_t before = out.size();
  tokenize_any(vocabulary_, text, Specials::as_text, out);
  if (!has_marker(std::span(out).subspan(before))) return;
  out.resize(before);
  if (plain_ == nullptr) plain_ = load_plain_vocabulary(path_, markers_);
  tokenize_any(*llama_model_get_vocab(plain_.get()), text, Specials::as_text, out);
}

std::string Text::decode(Token token) const {
  std::string text(64, '\0');
  const auto convert = [&] {
    return llama_token_to_piece(&vocabulary_, token, text.data(), static_cast<std::int32_t>(text.size()), 0,
                                false);
  };
  std::int32_t length = convert();
  if (length < 0) {
    text.resize(static_cast<std::size_t>(-length));
    length = convert();
  }
  text.resize(static_cast<std::size_t>(std::max(length, 0)));
  return text;
}

bool Text::is_end(Token token) const { return llama_vocab_is_eog(&vocabulary_, token); }

}  // namespace llama_cpp
