// What the reading programs need to know about a model's texts: the seam between them and an engine's
// tokenizer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "infinipot/pot/entries.hpp"

namespace reading {

using infinipot::Token;

/// Tokens of a chat template that stand between two texts, and the white space at their end, which is
/// tokenized together with the text that follows, because it may merge with it.
struct ChatPiece {
  std::vector<Token> tokens;
  std::string space;
};

/// A chat template around texts: user, text, assistant, answer, next_user, text, assistant, answer ...
struct ChatTemplate {
  ChatPiece user;       ///< before the first text: system turn and user header
  ChatPiece assistant;  ///< from the end of a text to the beginning of the answer
  ChatPiece next_user;  ///< from the end of an answer to the beginning of the next text
};

/// The text side of a model: its vocabulary and its chat template.
class TextModel {
 public:
  virtual ~TextModel() = default;

  /// Appends the tokens of a plain text: control tokens written out in it are text.
  virtual void encode(std::string_view text, std::vector<Token>& out) const = 0;

  /// The bytes that a token stands for: none for control tokens.
  virtual std::string decode(Token token) const = 0;

  /// Whether a token ends an answer.
  virtual bool is_end(Token token) const = 0;

  virtual const ChatTemplate& chat() const = 0;

  /// Whether encode() puts a space in front of every text, as SentencePiece vocabularies do.
  virtual bool space_prefix() const { return false; }

 protected:
  TextModel() = default;
  TextModel(const TextModel&) = default;
  TextModel& operator=(const TextModel&) = default;
};

}  // namespace reading
