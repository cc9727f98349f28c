// The main job: feed a prompt with a long document through a reader, then measure and generate the answer.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "needle.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "smollm2/chat.hpp"
#include "smollm2/sampler.hpp"
#include "smollm2/streaming_tokenizer.hpp"
#include "smollm2/tokenizer.hpp"

namespace reading {

using infinipot::Retention;
using infinipot::Token;

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The prompt as tokens: system turn, user header, document, blank line, question, assistant header, prefix.
/// Calls feed(tokens, retention) with one piece after the other, the document as it is read.
class Prompt {
 public:
  Prompt(const smollm2::Tokenizer& tokenizer, const smollm2::ChatTemplate& chat, const Options& options)
      : tokenizer_(tokenizer), chat_(chat), options_(options), document_(options.document) {}

  template <class Feed>
  void feed_to(const Feed& feed) {
    if (recorded_.empty()) return read(feed);
    for (const Piece& piece : recorded_) feed(piece.tokens, piece.retention);
  }

  /// Reads all of it into memory, so that its length is known before it is fed. Returns that, in tokens.
  std::size_t record() {
    std::size_t total = 0;
    read([&](const std::vector<Token>& tokens, Retention retention) {
      recorded_.push_back({tokens, retention});
      total += tokens.size();
    });
    return total;
  }

  std::optional<double> progress() const { return document_.progress(); }
  /// How many tokens the prompt would be shorter without the document. Known at the end.
  std::uint64_t document_tokens() const { return document_tokens_; }

 private:
  struct Piece {
    std::vector<Token> tokens;
    Retention retention;
  };

  template <class Feed>
  void read(const Feed& feed) {
    smollm2::StreamingTokenizer stream(tokenizer_);
    std::vector<Token> tokens;
    chat_.system_turn(tokens);
    chat_.begin_user_turn(stream, tokens);
    feed(tokens, Retention::pinned);

    const std::size_t most = options_.max_tokens.value_or(SIZE_MAX);
    std::size_t sent = 0;
    for (std::string_view piece = document_.next(); !piece.empty() && sent < most; piece = document_.next()) {
      tokens.clear();
      stream.push(piece, tokens);
      tokens.resize(std::min(tokens.size(), most - sent));
      sent += tokens.size();
      feed(tokens, Retention::evictable);
    }
    // What the tokenizer still holds back belongs to the text behind --max-tokens.
    if (sent == most) stream = smollm2::StreamingTokenizer(tokenizer_);

    tokens.clear();
    stream.push("\n\n" + options_.question, tokens);
    chat_.end_user_turn(stream, tokens, options_.answer_prefix);
    feed(tokens, Retention::evictable);
    const std::size_t all = sent + tokens.size(), bare = tokens_without_document();
    document_tokens_ = all - std::min(all, bare);
  }

  std::size_t tokens_without_document() const {
    smollm2::StreamingTokenizer stream(tokenizer_);
    std::vector<Token> tokens;
    chat_.begin_user_turn(stream, tokens);
    tokens.clear();
    stream.push("\n\n" + options_.question, tokens);
    chat_.end_user_turn(stream, tokens, options_.answer_prefix);
    return tokens.size();
  }

  const smollm2::Tokenizer& tokenizer_;
  const smollm2::ChatTemplate& chat_;
  const Options& options_;
  Document document_;
  std::vector<Piece> recorded_;
  std::uint64_t document_tokens_ = 0;
};

/// Mean cross-entropy of `answer`, read token by token. Nats per token.
template <class Reader>
double answer_nll(Reader& reader, std::span<const Token> answer) {
  double total = 0;
  for (const Token token : answer) {
    total += static_cast<double>(infinipot::nuc(reader.logits(), token));
    reader.feed(token);
  }
  return total / static_cast<double>(answer.size());
}

/// Generates up to options.generate tokens, or to the model's end of turn.
template <class Reader>
void generate(Reader& reader, const smollm2::Tokenizer& tokenizer, const Options& options, Report& report) {
  smollm2::Sampler sample(
      {static_cast<float>(options.temperature), static_cast<float>(options.top_p), options.seed});
  const auto start = std::chrono::steady_clock::now();
  report.ttft_seconds = report.prefill_seconds;
  report.answer_tokens = reader.generate(options.generate, sample, [&](Token token) {
    if (report.answer_text.empty()) report.ttft_seconds = report.prefill_seconds + seconds_since(start);
    if (tokenizer.is_end(token)) return false;
    report.answer_text += tokenizer.decode(token);
    return true;
  });
}

}  // namespace reading
