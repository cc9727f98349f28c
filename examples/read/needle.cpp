#include "needle.hpp"

#include <algorithm>

namespace reading {

void Needle::push(std::uint64_t position, std::string_view text) {
  if (!wanted() || found() || text.empty()) return;
  pieces_.push_back({position, text_.size()});
  text_ += text;
  if (const std::size_t at = text_.find(phrase_); at != std::string::npos) {
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      const std::size_t end = i + 1 < pieces_.size() ? pieces_[i + 1].begin : text_.size();
      if (end > at && pieces_[i].begin < at + phrase_.size()) positions_.push_back(pieces_[i].position);
    }
    return;
  }
  // Whole tokens that can no longer be part of a match go.
  while (pieces_.size() > 1 && text_.size() - pieces_[1].begin >= phrase_.size()) {
    const std::size_t gone = pieces_[1].begin;
    pieces_.pop_front();
    text_.erase(0, gone);
    for (Piece& piece : pieces_) piece.begin -= gone;
  }
}

std::optional<double> Needle::hit_rate(const infinipot::EntryTable& entries) const {
  if (!found()) return std::nullopt;
  std::size_t hits = 0;
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane)
    for (const std::uint64_t position : positions_)
      hits += std::ranges::binary_search(entries.positions(lane), position) ? 1U : 0U;
  return static_cast<double>(hits) / static_cast<double>(entries.lanes() * positions_.size());
}

}  // namespace reading
