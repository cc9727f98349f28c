// The prompt of one turn, around a document, as a stream of tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "document.hpp"
#include "options.hpp"
#include "streaming_tokenizer.hpp"
#include "text_model.hpp"

namespace reading {

/// What a token of a prompt belongs to: what the chat template opens the turn with; the document; or the
/// blank line, the question, the assistant header and the answer's prefix.
enum class Part { header, document, question };

/// Appends what stands from the end of a question to the beginning of the answer.
inline void append_answer_header(const TextModel& model, const Turn& turn, std::vector<Token>& out) {
  const ChatPiece& piece = model.chat().assistant;
  out.insert(out.end(), piece.tokens.begin(), piece.tokens.end());
  if (const std::string text = piece.space + turn.answer_prefix; !text.empty())
    encode_after(model, text, out);
}

/// Where a conversation stands, which says how its next prompt begins.
enum class Place {
  start,     ///< nothing was read
  header,    ///< a turn was opened
  document,  ///< in a turn, after a document that no question followed
  answer     ///< after an answer
};

/// What a prompt begins with.
struct Opening {
  Opening(ChatPiece begin, bool goes_on = false) : piece(std::move(begin)), within_text(goes_on) {}

  /// At the start, `pin` belongs to what the chat template begins with, and a line break follows it.
  static Opening at(Place place, const TextModel& model, const std::string& pin = {}) {
    const ChatTemplate& chat = model.chat();
    if (place == Place::start) return pin.empty() ? chat.user : pinned(model, pin);
    if (place == Place::answer) return chat.next_user;
    if (place == Place::header) return ChatPiece{{}, pin.empty() ? chat.user.space : "\n"};
    return {ChatPiece{{}, "\n\n"}, true};
  }

  ChatPiece piece;
  bool within_text;  ///< the piece goes on with the text before

 private:
  static Opening pinned(const TextModel& model, const std::string& pin) {
    ChatPiece piece = model.chat().user;
    encode_after(model, piece.space + pin, piece.tokens);
    piece.space = "\n";
    return {std::move(piece), true};
  }
};

/// The model's chat template around a turn's document, which is tokenized as it is read, and its question,
/// if it has one. One use only: either feed_to(), or record() and then feed_to().
class Prompt {
 public:
  /// `model` and `options` must outlive the prompt.
  Prompt(const TextModel& model, Opening opening, const Options& options, Turn turn,
         std::optional<Document> document)
      : model_(model), options_(options), turn_(std::move(turn)), document_(std::move(document)) {
    open(std::move(opening));
  }

  /// Calls feed(tokens, part) piece by piece; no piece of the document is longer than a chunk.
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

  /// Begins otherwise, if nothing was recorded or fed yet.
  void open(Opening opening) {
    header_ = std::move(opening.piece);
    within_text_ = opening.within_text;
    lead_ = tokens_of(header_.space);
    limit_ = options_.max_tokens ? *options_.max_tokens + lead_ : SIZE_MAX;
  }

  const Turn& turn() const { return turn_; }
  bool has_question() const { return !turn_.question.empty(); }

  /// Tokens of the header, which are fed first.
  std::size_t header_tokens() const { return header_.tokens.size(); }

  /// Tokens before the document.
  std::size_t tokens_before_document() const { return header_tokens() + lead_; }

  /// Share that was fed, 0 .. 1; nothing while the length is unknown.
  std::optional<double> progress() const {
    if (recorded_tokens_ > 0) return static_cast<double>(fed_) / static_cast<double>(recorded_tokens_);
    if (!document_) return std::nullopt;
    const std::optional<double> of_file = document_->progress();
    if (!options_.max_tokens) return of_file;
    return std::max(of_file.value_or(0), static_cast<double>(fed_) / static_cast<double>(limit_));
  }

  /// Tokens that the document adds to the prompt. Known at the end.
  std::uint64_t document_tokens() const { return document_tokens_; }

 private:
  struct Piece {
    std::vector<Token> tokens;
    Part part;
  };

  std::size_t tokens_of(std::string_view text) const {
    std::vector<Token> tokens;
    if (!text.empty()) model_.encode(text, tokens);
    return tokens.size();
  }

  std::string blank_line() const { return document_ && has_question() ? "\n\n" : ""; }

  template <class Feed>
  void read(const Feed& feed) {
    if (!header_.tokens.empty()) feed(std::span<const Token>(header_.tokens), Part::header);
    StreamingTokenizer stream(model_);
    // Such a space is the header's own, and no other goes in front of it.
    if (within_text_ || header_.space.starts_with(' ')) stream.start_after();
    std::vector<Token> tokens;
    stream.push(header_.space, tokens);
    while (document_ && fed_ + tokens.size() < limit_) {
      const std::string_view piece = document_->next();
      if (piece.empty()) break;
      stream.push(piece, tokens);
      tokens.resize(std::min(tokens.size(), limit_ - fed_));
      const std::size_t done = feed_chunks(tokens, feed);
      tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(done));
    }

    const std::size_t own = end_document(stream, tokens);
    const auto rest = std::span<const Token>(tokens);
    const std::size_t done = feed_chunks(rest.first(own), feed);
    fed_ += own - done;
    document_tokens_ = fed_ - std::min(fed_, lead_);
    if (own > done) feed(rest.subspan(done, own - done), Part::document);
    if (has_question()) feed(rest.subspan(own), Part::question);
  }

  /// Feeds those of the document's tokens that make whole chunks. Returns how many.
  template <class Feed>
  std::size_t feed_chunks(std::span<const Token> tokens, const Feed& feed) {
    std::size_t done = 0;
    for (; tokens.size() - done >= options_.chunk; done += options_.chunk) {
      fed_ += options_.chunk;
      feed(tokens.subspan(done, options_.chunk), Part::document);
    }
    return done;
  }

  /// Appends what the stream still holds of the document, up to its limit, and all that follows it. Returns
  /// how many of the tokens are the document's.
  std::size_t end_document(StreamingTokenizer& stream, std::vector<Token>& tokens) const {
    const std::string ending = blank_line() + turn_.question;
    stream.push(ending, tokens);
    stream.finish(tokens);
    if (!has_question()) {
      tokens.resize(std::min(tokens.size(), limit_ - fed_));
      return tokens.size();
    }
    append_answer_header(model_, turn_, tokens);
    if (!document_) return 0;

    std::vector<Token> alone;
    encode_after(model_, ending, alone);
    append_answer_header(model_, turn_, alone);
    // White space at the document's end may have merged with the blank line.
    const std::size_t own = tokens.size() - std::min(tokens.size(), alone.size());
    if (own <= limit_ - fed_) return own;
    tokens.resize(limit_ - fed_);
    tokens.insert(tokens.end(), alone.begin(), alone.end());
    return limit_ - fed_;
  }

  const TextModel& model_;
  ChatPiece header_;
  bool within_text_ = false;
  const Options& options_;
  Turn turn_;
  std::optional<Document> document_;
  // Tokens of the white space before the document; some at its beginning may merge with it.
  std::size_t lead_ = 0;
  std::size_t limit_ = 0;  // most tokens from there to the document's end
  std::size_t fed_ = 0;    // of those
  std::vector<Piece> recorded_;
  std::size_t recorded_tokens_ = 0;
  std::uint64_t document_tokens_ = 0;
};

/// The prompts of all turns, of which the first ones read the documents. All but these must outlive them.
inline std::vector<Prompt> prompts_of(const TextModel& model, const Options& options,
                                      std::vector<Document> documents) {
  std::vector<Prompt> prompts;
  Place place = Place::start;
  prompts.reserve(options.turns.size());
  for (std::size_t k = 0; k < options.turns.size(); ++k) {
    const Turn& turn = options.turns[k];
    prompts.emplace_back(model, Opening::at(place, model, options.pin), options, turn,
                         k < documents.size() ? std::optional(std::move(documents[k])) : std::nullopt);
    place = turn.question.empty() ? Place::document : Place::answer;
  }
  return prompts;
}

}  // namespace reading
