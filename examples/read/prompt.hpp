// The prompt around a document, as a stream of tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "document.hpp"
#include "infinipot/concepts.hpp"
#include "options.hpp"
#include "smollm2/chat.hpp"
#include "smollm2/streaming_tokenizer.hpp"
#include "smollm2/tokenizer.hpp"

namespace reading {

using infinipot::Token;

/// What a token of the prompt belongs to: system turn and user header; the document; or the blank line, the
/// question, the assistant header and the answer's prefix.
enum class Part { header, document, question };

/// The model's chat template around a document, which is tokenized as it is read. One use only: either
/// feed_to(), or record() and then feed_to().
class Prompt {
 public:
  /// All but the document must outlive the prompt.
  Prompt(const smollm2::Tokenizer& tokenizer, const smollm2::ChatTemplate& chat, const Options& options,
         Document document)
      : tokenizer_(tokenizer),
        chat_(chat),
        options_(options),
        document_(std::move(document)),
        limit_(options.max_tokens ? *options.max_tokens + line_break : SIZE_MAX) {}

  /// Calls feed(tokens, part) with one piece after the other, none of the document's longer than a chunk.
  template <class Feed>
  void feed_to(const Feed& feed) {
    if (recorded_.empty()) return read(feed);
    fed_ = 0;
    for (const Piece& piece : recorded_) {
      fed_ += piece.tokens.size();
      feed(std::span<const Token>(piece.tokens), piece.part);
    }
  }

  /// Reads all of it into memory, so that its length is known before it is fed. Returns that, in tokens.
  std::size_t record() {
    read([&](std::span<const Token> tokens, Part part) {
      recorded_.push_back({{tokens.begin(), tokens.end()}, part});
      recorded_tokens_ += tokens.size();
    });
    return recorded_tokens_;
  }

  /// Tokens of the header, which are fed first.
  std::size_t header_tokens() const {
    smollm2::StreamingTokenizer stream(tokenizer_);
    std::vector<Token> tokens;
    open(stream, tokens);
    return tokens.size();
  }

  /// How much was fed, 0 .. 1; nothing while the length is unknown.
  std::optional<double> progress() const {
    if (recorded_tokens_ > 0) return static_cast<double>(fed_) / static_cast<double>(recorded_tokens_);
    const std::optional<double> of_file = document_.progress();
    if (!options_.max_tokens) return of_file;
    return std::max(of_file.value_or(0), static_cast<double>(fed_) / static_cast<double>(limit_));
  }

  /// Tokens that the document adds to the prompt. Known at the end.
  std::uint64_t document_tokens() const { return document_tokens_; }

 private:
  /// The token behind the user header. It comes out of the stream, before the document's: white space at the
  /// document's beginning may merge with it.
  static constexpr std::size_t line_break = 1;

  struct Piece {
    std::vector<Token> tokens;
    Part part;
  };

  void open(smollm2::StreamingTokenizer& stream, std::vector<Token>& out) const {
    chat_.system_turn(out);
    chat_.begin_user_turn(stream, out);
  }

  void close(smollm2::StreamingTokenizer& stream, std::vector<Token>& out) const {
    stream.push("\n\n" + options_.question, out);
    chat_.end_user_turn(stream, out, options_.answer_prefix);
  }

  template <class Feed>
  void read(const Feed& feed) {
    smollm2::StreamingTokenizer stream(tokenizer_);
    std::vector<Token> tokens;
    open(stream, tokens);
    feed(std::span<const Token>(tokens), Part::header);

    tokens.clear();
    while (fed_ + tokens.size() < limit_) {
      const std::string_view piece = document_.next();
      if (piece.empty()) break;
      stream.push(piece, tokens);
      tokens.resize(std::min(tokens.size(), limit_ - fed_));
      feed_chunks(tokens, feed);
    }

    const std::size_t own = end_document(stream, tokens);
    const auto rest = std::span<const Token>(tokens);
    fed_ += own;
    document_tokens_ = fed_ - std::min(fed_, line_break);
    feed(rest.first(own), Part::document);
    feed(rest.subspan(own), Part::question);
  }

  /// Feeds whole chunks and takes them out of `tokens`.
  template <class Feed>
  void feed_chunks(std::vector<Token>& tokens, const Feed& feed) {
    std::size_t done = 0;
    for (; tokens.size() - done >= options_.chunk; done += options_.chunk) {
      fed_ += options_.chunk;
      feed(std::span<const Token>(tokens).subspan(done, options_.chunk), Part::document);
    }
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(done));
  }

  /// Appends what the stream still holds of the document, no more than may be, and all that follows it.
  /// Returns how many of the tokens are the document's.
  std::size_t end_document(smollm2::StreamingTokenizer& stream, std::vector<Token>& tokens) const {
    std::vector<Token> question;
    smollm2::StreamingTokenizer alone(tokenizer_);
    close(alone, question);
    close(stream, tokens);
    // White space at the document's end may have merged with the blank line.
    const std::size_t own = tokens.size() - std::min(tokens.size(), question.size());
    if (own <= limit_ - fed_) return own;
    tokens.resize(limit_ - fed_);
    tokens.insert(tokens.end(), question.begin(), question.end());
    return limit_ - fed_;
  }

  const smollm2::Tokenizer& tokenizer_;
  const smollm2::ChatTemplate& chat_;
  const Options& options_;
  Document document_;
  std::size_t limit_;  // most tokens from the line break to the document's end
  std::size_t fed_ = 0;
  std::vector<Piece> recorded_;
  std::size_t recorded_tokens_ = 0;
  std::uint64_t document_tokens_ = 0;
};

}  // namespace reading
