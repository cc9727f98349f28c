// What an answer rests on, and how much of it a pot still holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "infinipot/pot/entries.hpp"
#include "needle.hpp"

namespace reading {

/// The phrases of a text that an answer rests on ("gold"), each where it stands first.
class Gold {
 public:
  /// Empty phrases are none. White space around the answer, which may be empty, does not count.
  explicit Gold(const std::vector<std::string>& phrases, std::string_view answer = {});

  /// Whether push() may still find something.
  bool wanted() const;
  /// Whether some phrase was found.
  bool found() const;
  /// The first phrase that was not found; nothing if all were.
  std::optional<std::string> missing() const;

  /// See Needle.
  void push(std::uint64_t position, std::string_view text);
  void end_text();

  /// Positions of the tokens of the phrases that were found, ascending, each once.
  std::vector<std::uint64_t> positions() const;

  /// Share of these tokens that the entries hold, 0 .. 1, mean over lanes. Nothing if no phrase was found.
  std::optional<double> kept(const infinipot::EntryTable& entries) const;
  /// The same of one lane, given the positions that it holds, ascending.
  std::optional<double> kept(std::span<const std::uint64_t> held) const;

  /// Share of lanes that hold all tokens of some occurrence of the answer in a phrase. Nothing if no phrase
  /// that was found has the answer.
  std::optional<double> answer_kept(const infinipot::EntryTable& entries) const;
  /// The same of one lane: 0 or 1.
  std::optional<double> answer_kept(std::span<const std::uint64_t> held) const;

 private:
  std::vector<Needle> needles_;
};

}  // namespace reading
