// How to recall, and what came of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// The catalyst of a second, third ... step of recall.
enum class NextCatalyst : std::uint8_t {
  draft,               ///< the question, then a draft of the answer from what the step before found
  found,               ///< what the step before found
  found_and_question,  ///< that, then the question
};

/// How far a recall has come.
struct RecallProgress {
  std::size_t step = 1;
  std::uint64_t position = 0, end = 0;  ///< read so far, of all archives one behind the other
  double seconds = 0;                   ///< since it began
};

struct RecallSettings {
  /// How often the archive is distilled, at least 1. A further step knows what the one before found; none was
  /// seen to help (benchmarks/recall).
  std::size_t steps = 1;
  NextCatalyst next = NextCatalyst::draft;
  std::size_t draft = 12;  ///< most tokens of a draft
  /// What is read before a draft is generated, such as the question in its chat template; empty: the
  /// question.
  std::vector<Token> ask = {};
  std::function<bool(Token)> ends_draft = {};  ///< whether a token ends a draft
  /// Whether what was kept is read once more, as a text of its own, so that it sees one another.
  bool read_anew = false;
  /// How many of the kept entries are the newest of the reader's pot, at most; the pot may want more. The
  /// archive gives the others.
  std::size_t recent = 0;
  /// A bound on the time. A first step that exceeds it is given up; no further one begins that would exceed
  /// it, by the time of the one before.
  double seconds = (std::numeric_limits<double>::max)();
  /// Called between blocks. False gives up. It must not call the reader.
  std::function<bool(const RecallProgress&)> progress = {};
};

/// What a recall did.
struct Recalled {
  bool done = false;  ///< false: given up; the reader is as it was
  std::size_t steps = 0;
  std::uint64_t distillations = 0;
  double seconds = 0;
  /// Of what came from the archive, ascending, by the first lane: positions in the text, that of a second
  /// archive counted on from the first one's end.
  std::vector<std::uint64_t> positions;
  std::vector<Token> draft;  ///< the last one
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
