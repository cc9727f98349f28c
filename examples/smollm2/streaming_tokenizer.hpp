#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer.hpp"

namespace smollm2 {

/// Tokenizes a text that arrives in pieces, cut anywhere (within a word or a UTF-8 character too), with
/// the same result as encoding it at once with Specials::as_text, in bounded memory.
///
/// Text is held back until a place where the tokens of what precedes cannot depend on what follows, nor
/// the other way round: before ASCII white space after a character that is not white space (no word of
/// the pre-tokenizer has white space but at its start), or before an ASCII digit (numbers stand alone and
/// end what precedes them as the text's end would).
class StreamingTokenizer {
 public:
  /// `tokenizer` must outlive the object. At most `max_buffered` bytes (4 or more, or
  /// std::invalid_argument is thrown) are held back: a stretch of that length without such a place is cut
  /// at its end, between two characters, where tokens may differ from those of the whole text.
  explicit StreamingTokenizer(const Tokenizer& tokenizer, std::size_t max_buffered = std::size_t{1} << 20);

  /// Takes the next piece and appends the tokens that have become certain to `out`.
  void push(std::string_view piece, std::vector<std::int32_t>& out);

  /// Ends the text: appends the tokens of what is still held back. Another text may follow.
  void finish(std::vector<std::int32_t>& out);

  /// How often text had to be cut for want of memory since construction; 0: no token can differ.
  std::size_t forced_cuts() const { return forced_cuts_; }

 private:
  void drain(std::vector<std::int32_t>& out);
  void emit(std::size_t length, std::vector<std::int32_t>& out);

  const Tokenizer* tokenizer_;
  Tokenizer::Workspace workspace_;
  std::size_t max_buffered_;
  std::string buffer_;
  std::size_t searched_ = 0;  // no place to cut at lies before this byte of buffer_
  std::size_t forced_cuts_ = 0;
};

}  // namespace smollm2
