// The text side of SmolLM2, as the reading programs need it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "smollm2/chat.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/tokenizer.hpp"
#include "text_model.hpp"

namespace reading {

/// Independent of the file once constructed. Not for several threads at once: encode() has one cache of
/// words.
class Smollm2Text : public TextModel {
 public:
  /// Throws GgufError.
  explicit Smollm2Text(const smollm2::GgufFile& file)
      : tokenizer_(file), workspace_(tokenizer_.make_workspace()) {
    const smollm2::ChatTemplate chat(file, tokenizer_);
    chat_ = {{chat.user(), "\n"}, {chat.assistant(), "\n"}, {chat.next_user(), "\n"}};
  }

  void encode(std::string_view text, std::vector<Token>& out) const override {
    tokenizer_.encode(text, smollm2::Specials::as_text, workspace_, out);
  }
  std::string decode(Token token) const override { return tokenizer_.decode(token); }
  bool is_end(Token token) const override { return tokenizer_.is_end(token); }
  const ChatTemplate& chat() const override { return chat_; }

 private:
  smollm2::Tokenizer tokenizer_;
  mutable smollm2::Tokenizer::Workspace workspace_;
  ChatTemplate chat_;
};

}  // namespace reading
