// What a recall before an answer is made of.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "text_model.hpp"
#include "texts.hpp"

namespace reading {

/// Makes the policy of a recall.
struct RecallPolicy {
  const Options& options;
  std::vector<Token> terms = {};  ///< of the question

  infinipot::InfinipotSettings operator()(std::vector<Token> catalyst) const {
    return {.catalysts = {std::move(catalyst)},
            .alpha = 0,
            .terms = terms,
            .term_share = terms.empty() ? 0 : options.term_share,
            .over_queries = options.over_queries == "max" ? infinipot::Reduce::max : infinipot::Reduce::sum,
            .over_heads = over_heads_of(options),
            .kernel = options.recall_kernel,
            .lag = options.recall_lag,
            .layers = options.recall_layers};
  }
};

/// What follows the document in the prompt, from the blank line before the question up to the answer.
inline std::vector<Token> recall_catalyst(const TextModel& model, const Turn& turn) {
  std::vector<Token> catalyst;
  encode_after(model, "\n\n" + turn.question, catalyst);
  append_answer_header(model, turn, catalyst);
  return catalyst;
}

/// Room for catalysts in the pot of recalls.
struct RecallRoom {
  std::size_t question = 0;  ///< most tokens of a turn's; of a longer one the end has to do
  std::size_t draft = 0;     ///< most of the draft behind it

  /// For all turns of the options, and those of a chat. Throws UsageError if there is none.
  RecallRoom(const TextModel& model, const Options& options) {
    constexpr std::size_t usual_draft = 12, of_chat = 256;
    const std::size_t pot = options.recall_pot > 0 ? options.recall_pot : options.pot,
                      least = options.keep + 3;
    if (pot < least)
      throw UsageError((options.recall_pot > 0 ? "--recall-pot " : "--pot ") + std::to_string(pot) +
                       " is too small for a recall; with --keep " + std::to_string(options.keep) +
                       " it must be at least " + std::to_string(least));
    const std::size_t room = pot - options.keep - 1;
    draft = options.recall > 1 ? std::min(usual_draft, room / 2) : 0;
    std::size_t longest = options.chat ? of_chat : 1;
    for (const Turn& turn : options.turns)
      if (!turn.question.empty()) longest = std::max(longest, recall_catalyst(model, turn).size());
    question = std::min(longest, room - draft);
  }

  std::size_t longest() const { return question + draft; }
};

/// For a line on a terminal.
inline std::string recall_progress(const infinipot::RecallProgress& now, std::size_t steps) {
  const std::uint64_t percent = now.end > 0 ? 100 * now.position / now.end : 100;
  return "recall, step " + std::to_string(now.step) + " of " + std::to_string(steps) + ": " +
         std::to_string(percent) + "%";
}

/// Of the entries that a recall leaves, most that are the conversation's own: its newest questions and
/// answers, which an archive that is only asked does not have.
inline std::size_t most_recent(const Options& options) { return options.keep / 4; }

}  // namespace reading
