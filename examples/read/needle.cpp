#include "needle.hpp"

#include <algorithm>
#include <cctype>

namespace reading {
namespace {

/// Bytes of characters beyond ASCII count as letters.
bool of_word(char byte) {
  const auto value = static_cast<unsigned char>(byte);
  return value >= 0x80 || std::isalnum(value) != 0;
}

/// Whether a word goes on from the byte before `at` to the one at it.
bool within_word(std::string_view text, std::size_t at) {
  return at > 0 && at < text.size() && of_word(text[at - 1]) && of_word(text[at]);
}

}  // namespace

std::vector<std::size_t> occurrences(std::string_view text, std::string_view words) {
  std::vector<std::size_t> found;
  if (words.empty()) return found;
  for (std::size_t at = text.find(words); at != std::string_view::npos; at = text.find(words, at + 1))
    if (!within_word(text, at) && !within_word(text, at + words.size())) found.push_back(at);
  return found;
}

void Needle::push(std::uint64_t position, std::string_view text) {
  if (!wanted() || found() || text.empty()) return;
  // A match ends in the new text, or it would have been found before.
  const std::size_t from = text_.size() - std::min(text_.size(), phrase_.size() - 1);
  pieces_.push_back({position, dropped_ + text_.size()});
  text_ += text;
  if (const std::size_t at = text_.find(phrase_, from); at != std::string::npos)
    note_match(dropped_ + at);
  else
    drop_needless();
}

void Needle::end_text() {
  dropped_ += text_.size();
  text_.clear();
  pieces_.clear();
}

void Needle::note_match(std::uint64_t begin) {
  positions_ = tokens_of(begin, begin + phrase_.size());
  for (const std::size_t at : occurrences(phrase_, answer_))
    answers_.push_back(tokens_of(begin + at, begin + at + answer_.size()));
  pieces_ = {};
  text_ = {};
}

std::vector<std::uint64_t> Needle::tokens_of(std::uint64_t begin, std::uint64_t end) const {
  std::vector<std::uint64_t> tokens;
  const std::uint64_t own_middle = (begin + end) / 2;
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const std::uint64_t first = pieces_[i].begin;
    const std::uint64_t last = i + 1 < pieces_.size() ? pieces_[i + 1].begin : dropped_ + text_.size();
    const std::uint64_t middle = (first + last) / 2;
    if ((middle >= begin && middle < end) || (own_middle >= first && own_middle < last))
      tokens.push_back(pieces_[i].position);
  }
  return tokens;
}

void Needle::drop_needless() {
  const std::uint64_t end = dropped_ + text_.size();
  while (pieces_.size() > 1 && end - pieces_[1].begin >= phrase_.size()) pieces_.pop_front();
  text_.erase(0, static_cast<std::size_t>(pieces_.front().begin - dropped_));
  dropped_ = pieces_.front().begin;
}

}  // namespace reading
