#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "streaming_tokenizer.hpp"
#include "tokenizer.hpp"

namespace smollm2 {

/// What SmolLM2's chat template says when a conversation brings no system message of its own.
inline constexpr std::string_view default_system_message =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// SmolLM2's chat template in pieces, so that a user turn of any length can be streamed between them:
///
///     <|im_start|>system\n{system message}<|im_end|>\n
///     <|im_start|>user\n{streamed text}<|im_end|>\n
///     <|im_start|>assistant\n{answer prefix}
///
/// The tokens equal those of the whole prompt tokenized at once, except that messages are plain text:
/// control tokens written out in them are not parsed. All functions append to `out`.
class ChatTemplate {
 public:
  /// `tokenizer` must outlive the object. Throws GgufError when the file's tokenizer.chat_template is
  /// missing or does not use "<|im_start|>" and "<|im_end|>", or these are no control tokens.
  ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer);

  /// A whole system turn.
  void system_turn(std::vector<std::int32_t>& out, std::string_view message = default_system_message) const;

  /// Opens a user turn; push its text to `stream` afterwards. The line break after "user" goes through
  /// the stream too, because it may form a token with white space that the text begins with.
  void begin_user_turn(StreamingTokenizer& stream, std::vector<std::int32_t>& out) const;

  /// Finishes the stream, closes the user turn and opens the assistant's, which starts with
  /// `answer_prefix`.
  void end_user_turn(StreamingTokenizer& stream, std::vector<std::int32_t>& out,
                     std::string_view answer_prefix = {}) const;

 private:
  void turn_opening(std::vector<std::int32_t>& out, std::string_view text) const;
  void turn_closing(std::vector<std::int32_t>& out) const;
  void plain(std::vector<std::int32_t>& out, std::string_view text) const;

  const Tokenizer* tokenizer_;
  std::int32_t start_;
  std::int32_t end_;
};

}  // namespace smollm2
