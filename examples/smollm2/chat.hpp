#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "tokenizer.hpp"

namespace smollm2 {

/// What SmolLM2's chat template says when a conversation brings no system message of its own.
inline constexpr std::string_view default_system_message =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// The system message that a ChatML template says itself in a conversation that brings none; empty if it says
/// none. The template is not run: this is the first literal text (in quotes, or outside of any expression)
/// between
/// "<|im_start|>system", a line break and "<|im_end|>". Its length does not matter.
std::string own_system_message(std::string_view chat_template);

/// SmolLM2's chat template in pieces, so that texts of any length can stand between them:
///
///     user       <|im_start|>system\n{system message}<|im_end|>\n<|im_start|>user
///                \n{text}
///     assistant  <|im_end|>\n<|im_start|>assistant
///                \n{answer}
///     next_user  <|im_end|>\n<|im_start|>user
///                \n{text} ...
///
/// The line breaks before the texts are not part of the pieces, because they may form tokens with white space
/// that the texts begin with. Tokenized together with these, all tokens equal those of the whole conversation
/// tokenized at once, except that messages are plain text: control tokens written out in them are not parsed.
/// Without a system message there is no system turn. If the file wants a beginning-of-sequence token in front
/// (tokenizer.ggml.add_bos_token), it stands there once, even where the template begins with it.
class ChatTemplate {
 public:
  using Tokens = std::vector<std::int32_t>;

  /// With the template's own system message. Throws GgufError when the file's tokenizer.chat_template is
  /// missing or does not use "<|im_start|>" and
  /// "<|im_end|>", or these are no control tokens.
  ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer);
  ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer,
               std::optional<std::string_view> system_message);

  const Tokens& user() const { return user_; }
  const Tokens& assistant() const { return assistant_; }
  const Tokens& next_user() const { return next_user_; }

 private:
  Tokens user_, assistant_, next_user_;
};

}  // namespace smollm2
