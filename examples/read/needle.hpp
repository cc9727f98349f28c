// Finds a phrase in a stream of tokens, to see later how much of it a pot still holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "infinipot/entries.hpp"

namespace reading {

/// Looks for the first occurrence of a phrase in the text that tokens spell. Holds no more than a phrase's
/// length of it.
class Needle {
 public:
  explicit Needle(std::string phrase) : phrase_(std::move(phrase)) {}

  bool wanted() const { return !phrase_.empty(); }
  bool found() const { return !positions_.empty(); }

  /// The next token of the stream, which spells `text` and stands at `position` of it.
  void push(std::uint64_t position, std::string_view text);

  /// Share of the phrase's tokens that the entries hold, 0 .. 1, mean over lanes. Nothing if it was not
  /// found.
  std::optional<double> hit_rate(const infinipot::EntryTable& entries) const;

 private:
  struct Piece {
    std::uint64_t position;
    std::size_t begin;  // of its bytes in text_
  };

  std::string phrase_;
  std::string text_;
  std::deque<Piece> pieces_;
  std::vector<std::uint64_t> positions_;  // of the phrase's tokens, ascending
};

}  // namespace reading
