#include "streaming_tokenizer.hpp"

#include <algorithm>
#include <stdexcept>

#include "smollm2/utf8.hpp"

namespace reading {
namespace {

constexpr std::size_t longest_character = 4;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

}  // namespace

void encode_after(const TextModel& model, std::string_view text, std::vector<Token>& out) {
  if (!model.space_prefix() || text.empty() || !is_space(text.front())) return model.encode(text, out);
  if (text.front() == ' ' && text.size() > 1) return model.encode(text.substr(1), out);
  // encode() gives a lone space and other white space only after a letter, with which they never merge.
  std::vector<Token> letter;
  model.encode("a", letter);
  const std::size_t first = out.size();
  model.encode("a" + std::string(text), out);
  const auto from = out.begin() + static_cast<std::ptrdiff_t>(first);
  out.erase(from, from + static_cast<std::ptrdiff_t>(letter.size()));
}

StreamingTokenizer::StreamingTokenizer(const TextModel& model, std::size_t max_buffered)
    : model_(&model), max_buffered_(max_buffered) {
  if (max_buffered < longest_character)
    throw std::invalid_argument("max_buffered is " + std::to_string(max_buffered) +
                                ", but must be at least 4");
}

void StreamingTokenizer::push(std::string_view piece, std::vector<Token>& out) {
  while (!piece.empty()) {
    const std::size_t taken = std::min(piece.size(), max_buffered_ - buffer_.size());
    buffer_.append(piece.substr(0, taken));
    piece.remove_prefix(taken);
    drain(out);
  }
}

void StreamingTokenizer::finish(std::vector<Token>& out) {
  emit(buffer_.size(), out);
  after_ = false;
}

bool StreamingTokenizer::is_safe_cut(std::size_t at) const {
  const char before = buffer_[at - 1];
  if (buffer_[at] == ' ') return !smollm2::ends_with_white_space(std::string_view(buffer_).substr(0, at));
  return !model_->space_prefix() && is_space(buffer_[at]) && is_alphanumeric(before);
}

// 0 when there is none: the start of the text is no place to cut at.
std::size_t StreamingTokenizer::last_safe_cut() const {
  for (std::size_t at = buffer_.size(); at-- > std::max<std::size_t>(searched_, 1);)
    if (is_safe_cut(at)) return at;
  return 0;
}

void StreamingTokenizer::drain(std::vector<Token>& out) {
  const std::size_t cut = last_safe_cut();
  if (cut > 0) {
    emit(cut, out);
  } else if (buffer_.size() == max_buffered_) {
    ++forced_cuts_;
    emit(buffer_.size() - smollm2::incomplete_utf8_suffix(buffer_), out);
  }
  searched_ = buffer_.size();
}

void StreamingTokenizer::emit(std::size_t length, std::vector<Token>& out) {
  if (length == 0) return;
  const auto text = std::string_view(buffer_).substr(0, length);
  if (after_)
    encode_after(*model_, text, out);
  else
    model_->encode(text, out);
  after_ = true;
  buffer_.erase(0, length);
  searched_ = 0;
}

}  // namespace reading
