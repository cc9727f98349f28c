#include "streaming_tokenizer.hpp"

#include <algorithm>
#include <stdexcept>

#include "utf8.hpp"

namespace smollm2 {
namespace {

constexpr std::size_t longest_character = 4;

bool is_safe_cut(std::string_view text, std::size_t at) {
  const char next = text[at];
  if (next >= '0' && next <= '9') return true;
  const bool space = next == ' ' || (next >= '\t' && next <= '\r');
  return space && !ends_with_white_space(text.substr(0, at));
}

// 0 when there is none: the start of the text is no place to cut at.
std::size_t last_safe_cut(std::string_view text, std::size_t first) {
  for (std::size_t at = text.size(); at-- > std::max<std::size_t>(first, 1);) {
    if (is_safe_cut(text, at)) return at;
  }
  return 0;
}

}  // namespace

StreamingTokenizer::StreamingTokenizer(const Tokenizer& tokenizer, std::size_t max_buffered)
    : tokenizer_(&tokenizer), workspace_(tokenizer.make_workspace()), max_buffered_(max_buffered) {
  if (max_buffered < longest_character) {
    throw std::invalid_argument("max_buffered is " + std::to_string(max_buffered) +
                                ", but must be at least 4");
  }
}

void StreamingTokenizer::push(std::string_view piece, std::vector<std::int32_t>& out) {
  while (!piece.empty()) {
    const std::size_t taken = std::min(piece.size(), max_buffered_ - buffer_.size());
    buffer_.append(piece.substr(0, taken));
    piece.remove_prefix(taken);
    drain(out);
  }
}

void StreamingTokenizer::finish(std::vector<std::int32_t>& out) { emit(buffer_.size(), out); }

void StreamingTokenizer::drain(std::vector<std::int32_t>& out) {
  const std::size_t cut = last_safe_cut(buffer_, searched_);
  if (cut > 0) {
    emit(cut, out);
  } else if (buffer_.size() == max_buffered_) {
    ++forced_cuts_;
    emit(buffer_.size() - incomplete_utf8_suffix(buffer_), out);
  }
  searched_ = buffer_.size();
}

void StreamingTokenizer::emit(std::size_t length, std::vector<std::int32_t>& out) {
  tokenizer_->encode(std::string_view(buffer_).substr(0, length), Specials::as_text, workspace_, out);
  buffer_.erase(0, length);
  searched_ = 0;
}

}  // namespace smollm2
