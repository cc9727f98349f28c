// What a run measured, as text and as JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"
#include "pot_log.hpp"

namespace reading {

/// Of an archive, so far.
struct ArchiveReport {
  std::uint64_t tokens = 0;  ///< held
  std::uint64_t bytes = 0;
  double seconds = 0;  ///< spent on it
  std::string ended;   ///< why it takes no more; empty while it does
};

struct RecallReport {
  double seconds = 0;
  std::size_t steps = 0;
  std::uint64_t distillations = 0;
  std::vector<std::uint64_t> positions;  ///< of what it found, in all that was read, ascending
};

/// Of one question, or of a document without one.
struct TurnReport {
  std::uint64_t document_tokens = 0;               ///< what its document adds to the prompt
  std::optional<std::uint64_t> document_position;  ///< of its first token, in all that was read
  std::uint64_t prompt_tokens = 0;                 ///< document, question and what the chat template adds
  double prefill_seconds = 0;                      ///< without the recall
  double ttft_seconds = 0;  ///< from the start of reading until the answer's first token was chosen
  std::string answer_text;
  std::uint64_t answer_tokens = 0;
  std::optional<double> answer_nll;              ///< nats per token, mean
  std::optional<double> hit_rate;                ///< share of the needles' tokens, 0 .. 1, after the prompt
  std::optional<double> gold_kept = {};          ///< the same before the question
  std::optional<double> answer_kept = {};        ///< share of lanes, 0 .. 1; see Gold
  std::optional<std::uint64_t> needle_position;  ///< of their first token, in all that was read
  std::uint64_t needle_tokens = 0;
  bool interrupted = false;                   ///< its answer, in a chat that went on
  std::optional<ArchiveReport> archive = {};  ///< at the end of the turn
  std::optional<RecallReport> recall = {};    ///< before its answer

  double recall_seconds() const { return recall ? recall->seconds : 0; }
};

/// How far reading had come at one moment.
struct Sample {
  std::uint64_t tokens = 0;
  double seconds = 0;  ///< since reading began
  std::uint64_t distillations = 0;
  std::uint64_t resident_bytes = 0;  ///< of the process
};

struct Report {
  std::vector<TurnReport> turns;  ///< of what was read and answered
  std::string interrupted;        ///< how far it came, if a signal ended it before the last answer's end
  std::size_t pot_capacity = 0;   ///< per layer and head
  std::size_t pot_entries = 0;    ///< per layer and head, after the last prompt
  /// Positions in all that was read, ascending, of what the first layer's first head holds after the last
  /// prompt.
  std::optional<std::vector<std::uint64_t>> kept;
  std::vector<float> nuc;           ///< of all tokens read before the last answer; empty unless asked for
  std::vector<Sample> timeline;     ///< the same
  std::optional<PotLog> log;        ///< the same
  std::uint64_t distillations = 0;  ///< answers included
  std::uint64_t nan_scores = 0;
  std::uint64_t pot_bytes = 0;
  std::uint64_t full_cache_bytes = 0;  ///< keys and values of all tokens, what an unbounded cache would hold
  std::uint64_t peak_rss_bytes = 0;
  double distill_seconds = 0;   ///< catalysts and answers included
  double catalyst_seconds = 0;  ///< of those, the catalysts' forward passes and CaP
  double cap_seconds = 0;  ///< of those, CaP, as far as it can be timed apart from the engine's forward pass

  // Sums over the turns.
  std::uint64_t document_tokens() const;
  std::uint64_t prompt_tokens() const;
  double prefill_seconds() const;

  double tokens_per_second() const { return static_cast<double>(prompt_tokens()) / prefill_seconds(); }
  /// The last turn; an empty one if there was none.
  TurnReport last() const { return turns.empty() ? TurnReport() : turns.back(); }
};

/// Writes the report and the program's options to a file, whole or not at all, or, for -, to standard output.
/// Throws UsageError.
void write_json(const std::string& path, const Report& report, const Options& options,
                const Program& program);

/// A heading for the page of --report: what was read and how.
std::string page_title(const Options& options, const Program& program);

/// A few lines of figures on standard error.
void print(const Report& report, const Options& options);

/// Memory that this process has resident, bytes.
std::uint64_t resident_bytes();

/// Most memory that this process ever had resident, bytes.
std::uint64_t peak_rss_bytes();

}  // namespace reading
