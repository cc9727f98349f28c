// Finds a phrase in streams of tokens, to see later how much of it a pot still holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/pot/entries.hpp"

namespace reading {

/// Looks for the first occurrence of a phrase in the texts that tokens spell. Holds little more than a
/// phrase's length of them.
class Needle {
 public:
  explicit Needle(std::string phrase) : phrase_(std::move(phrase)) {}

  bool wanted() const { return !phrase_.empty(); }
  bool found() const { return !positions_.empty(); }

  /// The next token of the stream, which spells `text` and stands at `position` of it.
  void push(std::uint64_t position, std::string_view text);

  /// Ends the text: no match spans what was pushed before and what comes after.
  void end_text();

  /// Positions of the tokens that spell some part of the phrase, ascending; none if it was not found.
  const std::vector<std::uint64_t>& positions() const { return positions_; }

  /// Share of those tokens that the entries hold, 0 .. 1, mean over lanes. Nothing if the phrase was not
  /// found.
  std::optional<double> hit_rate(const infinipot::EntryTable& entries) const;

 private:
  struct Piece {
    std::uint64_t position;
    std::uint64_t begin;  // of its bytes in all text
  };

  void note_match(std::uint64_t begin);
  /// Whole tokens that can no longer be part of a match.
  void drop_needless();

  std::string phrase_;
  std::string text_;           // the latest text
  std::uint64_t dropped_ = 0;  // bytes before it
  std::deque<Piece> pieces_;   // the tokens that spell it
  std::vector<std::uint64_t> positions_;
};

}  // namespace reading
