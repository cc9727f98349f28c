// Tokens of texts that are longer than memory or still arriving.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text_model.hpp"

namespace reading {

/// Appends the tokens of a text that continues another one. Where encode() puts a space in front of every
/// text, this puts none, unless the text begins in the middle of a word, which then stands alone.
void encode_after(const TextModel& model, std::string_view text, std::vector<Token>& out);

/// Tokenizes a text that arrives in pieces, cut anywhere (within a word or a UTF-8 character too), with the
/// same result as encoding it at once, in bounded memory.
///
/// Text is held back until a place where the tokens of what precedes cannot depend on what follows, nor the
/// other way round, in any of the usual vocabularies: before a space after a character that is not white
/// space, because their words have a space only at the start. With space_prefix() that is the only such
/// place, and what follows is encoded without that space, which encode() puts there again. Other
/// vocabularies also let a text be cut before other ASCII white space, if it follows an ASCII letter or
/// digit (punctuation may form a token with line breaks).
class StreamingTokenizer {
 public:
  /// `model` must outlive the object. At most `max_buffered` bytes (4 or more, or std::invalid_argument is
  /// thrown) are held back: a stretch of that length without such a place is cut at its end, between two
  /// characters, where tokens may differ from those of the whole text; with space_prefix() such a cut within
  /// a word puts a space there that the text does not have.
  explicit StreamingTokenizer(const TextModel& model, std::size_t max_buffered = std::size_t{1} << 20);

  /// The next text continues one that was encoded elsewhere (see encode_after).
  void start_after() { after_ = true; }

  /// Takes the next piece and appends the tokens that have become certain to `out`.
  void push(std::string_view piece, std::vector<Token>& out);

  /// Ends the text: appends the tokens of what is still held back. Another text may follow.
  void finish(std::vector<Token>& out);

  /// How often text had to be cut for want of memory so far; if never, no token can differ.
  std::size_t forced_cuts() const { return forced_cuts_; }

 private:
  bool is_safe_cut(std::size_t at) const;
  std::size_t last_safe_cut() const;
  void drain(std::vector<Token>& out);
  void emit(std::size_t length, std::vector<Token>& out);

  const TextModel* model_;
  std::size_t max_buffered_;
  std::string buffer_;
  std::size_t searched_ = 0;  // no place to cut at lies before this byte of buffer_
  bool after_ = false;        // whether text goes before what is emitted next
  std::size_t forced_cuts_ = 0;
};

}  // namespace reading
