#include "needle.hpp"

#include <algorithm>

namespace reading {

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
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const std::uint64_t end = i + 1 < pieces_.size() ? pieces_[i + 1].begin : dropped_ + text_.size();
    if (end > begin && pieces_[i].begin < begin + phrase_.size()) positions_.push_back(pieces_[i].position);
  }
  pieces_ = {};
  text_ = {};
}

void Needle::drop_needless() {
  const std::uint64_t end = dropped_ + text_.size();
  while (pieces_.size() > 1 && end - pieces_[1].begin >= phrase_.size()) pieces_.pop_front();
  text_.erase(0, static_cast<std::size_t>(pieces_.front().begin - dropped_));
  dropped_ = pieces_.front().begin;
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
