// llama.cpp's vocabulary and chat templates, for the reading programs.
#pragma once

#include <llama-cpp.h>
#include <llama.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text_model.hpp"

namespace llama_cpp {

/// The text side of any model that llama.cpp can load. The model must outlive it. Not for several threads at
/// once.
class Text final : public reading::TextModel {
 public:
  /// Texts go into the model's chat template, or, if it has none, stand one after the other. `path` is the
  /// file that the model was loaded from, which is read again once a text spells a chat marker that llama.cpp
  /// would make a control token of. Throws std::invalid_argument if the model has no vocabulary or
  /// llama_chat_apply_template() does not know its template.
  Text(const llama_model& model, std::string path);

  /// llama.cpp's tokens of the whole text, but for chat markers (chat_markers()): they are what llama.cpp
  /// makes of them if the vocabulary does not have them. Throws std::runtime_error if it cannot tokenize the
  /// text.
  void encode(std::string_view text, std::vector<reading::Token>& out) const override;
  std::string decode(reading::Token token) const override;
  bool is_end(reading::Token token) const override;
  const reading::ChatTemplate& chat() const override { return chat_; }
  bool space_prefix() const override { return space_prefix_; }

 private:
  reading::ChatPiece piece(std::string_view text, bool first = false) const;
  bool has_marker(std::span<const reading::Token> tokens) const;

  const llama_vocab& vocabulary_;
  std::string path_;
  bool space_prefix_;
  std::vector<bool> markers_;      // by token
  mutable llama_model_ptr plain_;  // without them; null until it is needed
  reading::ChatTemplate chat_;
};

}  // namespace llama_cpp
