// Finds a phrase, and an answer within it, in streams of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace reading {

/// Where `words` stand in a text, in bytes: whole words, as they are written, overlaps included. The text's
/// own ends are borders of words.
std::vector<std::size_t> occurrences(std::string_view text, std::string_view words);

/// Looks for the first occurrence of a phrase in the texts that tokens spell. Holds little more than a
/// phrase's length of them.
///
/// A token belongs to what its middle byte is in, and what has no such token has the one that its own middle
/// byte is in. Tokens without text belong to nothing.
class Needle {
 public:
  /// The answer is looked for in the phrase; may be empty.
  explicit Needle(std::string phrase, std::string answer = {})
      : phrase_(std::move(phrase)), answer_(std::move(answer)) {}

  bool wanted() const { return !phrase_.empty(); }
  bool found() const { return !positions_.empty(); }

  /// The next token of the stream, which spells `text` and stands at `position` of it.
  void push(std::uint64_t position, std::string_view text);

  /// Ends the text: no match spans what was pushed before and what comes after.
  void end_text();

  /// As it was asked for.
  const std::string& phrase() const { return phrase_; }

  /// Positions of the phrase's tokens, ascending; none if it was not found.
  const std::vector<std::uint64_t>& positions() const { return positions_; }

  /// The same of each occurrence of the answer in it; see occurrences().
  const std::vector<std::vector<std::uint64_t>>& answers() const { return answers_; }

 private:
  struct Piece {
    std::uint64_t position;
    std::uint64_t begin;  // of its bytes in all text
  };

  void note_match(std::uint64_t begin);
  /// Tokens of bytes begin .. end - 1.
  std::vector<std::uint64_t> tokens_of(std::uint64_t begin, std::uint64_t end) const;
  /// Whole tokens that can no longer be part of a match.
  void drop_needless();

  std::string phrase_, answer_;
  std::string text_;           // the latest text
  std::uint64_t dropped_ = 0;  // bytes before it
  std::deque<Piece> pieces_;   // the tokens that spell it
  std::vector<std::uint64_t> positions_;
  std::vector<std::vector<std::uint64_t>> answers_;
};

}  // namespace reading
