// Which tokens of a text are needed for an answer, and how many of them are there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "text_model.hpp"

namespace recall_trials {

using infinipot::Token;

/// A text, to find phrases in by their tokens.
class TokenText {
 public:
  /// The first token stands at `position` of the stream.
  TokenText(const reading::TextModel& model, std::span<const Token> tokens, std::uint64_t position)
      : position_(position) {
    for (const Token token : tokens) {
      starts_.push_back(text_.size());
      text_ += model.decode(token);
    }
    starts_.push_back(text_.size());
  }

  /// Positions of the tokens of some phrases, ascending: those whose middle is within one.
  std::vector<std::uint64_t> positions(const std::vector<std::string>& phrases) const {
    std::vector<std::uint64_t> found;
    for (const std::string& phrase : phrases) {
      const std::size_t begin = phrase.empty() ? std::string::npos : text_.find(phrase);
      if (begin == std::string::npos) continue;
      for (std::size_t i = first_at(begin); i + 1 < starts_.size(); ++i) {
        const std::size_t middle = (starts_[i] + starts_[i + 1]) / 2;
        if (middle >= begin + phrase.size()) break;
        if (middle >= begin) found.push_back(position_ + i);
      }
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

 private:
  /// The token that holds a byte.
  std::size_t first_at(std::size_t byte) const {
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), byte);
    return static_cast<std::size_t>(after - starts_.begin()) - 1;
  }

  std::uint64_t position_;
  std::string text_;
  std::vector<std::size_t> starts_;  // of each token, in bytes; and the end
};

/// Share of `gold` that is among `held`; nothing if there is no gold. Both ascend.
inline std::optional<double> share_held(std::span<const std::uint64_t> gold,
                                        std::span<const std::uint64_t> held) {
  if (gold.empty()) return std::nullopt;
  const auto there = std::count_if(gold.begin(), gold.end(), [&](std::uint64_t position) {
    return std::binary_search(held.begin(), held.end(), position);
  });
  return static_cast<double>(there) / static_cast<double>(gold.size());
}

}  // namespace recall_trials
