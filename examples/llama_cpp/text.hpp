// llama.cpp's vocabulary and chat templates, for the reading programs.
#pragma once

#include <llama.h>

#include <string>
#include <string_view>
#include <vector>

#include "text_model.hpp"

namespace llama_cpp {

/// The text side of any model that llama.cpp can load. The model must outlive it.
class Text final : public reading::TextModel {
 public:
  /// Texts go into the model's chat template, or, if it has none, stand one after the other. Throws
  /// std::invalid_argument if llama_chat_apply_template() does not know the template.
  explicit Text(const llama_model& model);

  void encode(std::string_view text, std::vector<reading::Token>& out) const override;
  std::string decode(reading::Token token) const override;
  bool is_end(reading::Token token) const override;
  const reading::ChatTemplate& chat() const override { return chat_; }
  bool space_prefix() const override { return space_prefix_; }

 private:
  enum class Specials { as_text, parse };

  void encode(std::string_view text, Specials specials, std::vector<reading::Token>& out) const;
  reading::ChatPiece piece(std::string_view text, bool first = false) const;

  const llama_vocab& vocabulary_;
  bool space_prefix_;
  reading::ChatTemplate chat_;
};

/// The system message that a ChatML template adds to a conversation without one; empty if it adds none.
std::string default_system_message(std::string_view chat_template);

}  // namespace llama_cpp
