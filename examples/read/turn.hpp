// One turn of a conversation: feed its prompt through a reader, then measure and generate the answer.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "answer_stream.hpp"
#include "gold.hpp"
#include "infinipot/infinipot.hpp"
#include "interrupt.hpp"
#include "options.hpp"
#include "pot_log.hpp"
#include "progress.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "smollm2/sampler.hpp"
#include "text_model.hpp"
#include "timeline.hpp"

namespace reading {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Looks for gold in the tokens of a document, of which the first stands at `position` of the stream.
inline void show(std::span<Gold> golds, std::uint64_t position, std::span<const Token> tokens,
                 const TextModel& model) {
  if (std::ranges::none_of(golds, &Gold::wanted)) return;
  for (const Token token : tokens) {
    const std::string text = model.decode(token);
    for (Gold& gold : golds) gold.push(position, text);
    ++position;
  }
}

inline std::vector<std::string> pieces_of(const TextModel& model, std::span<const Token> tokens) {
  std::vector<std::string> texts;
  for (const Token token : tokens) texts.push_back(model.decode(token));
  return texts;
}

/// What stands on standard error when reading was interrupted after `tokens` of a prompt.
inline std::string how_far(std::uint64_t tokens, std::optional<double> done) {
  std::string text = "interrupted after " + std::to_string(tokens) + " tokens of the prompt";
  if (done) text += " (" + std::to_string(static_cast<int>(100 * std::clamp(*done, 0.0, 1.0))) + " %)";
  return text + ", before its answer began";
}

/// What goes on while a prompt is read, beside reading it.
struct Watching {
  std::span<Gold> golds;  ///< to be found in its document
  Timeline& timeline;
  PotLog* log = nullptr;  ///< may be null
};

/// Reads the whole prompt. Calls before_question(tokens) once all but these tokens was read, and
/// after_piece() whenever something was. `place` says how far the conversation has come, also if Interrupted
/// is thrown.
template <class Reader, class BeforeQuestion, class AfterPiece>
void prefill(Reader& reader, Prompt& prompt, Place& place, const TextModel& model, const Watching& watching,
             const BeforeQuestion& before_question, const AfterPiece& after_piece, TurnReport& report) {
  Progress progress;
  const std::uint64_t before = reader.stats().tokens_read;
  const auto start = std::chrono::steady_clock::now();
  try {
    prompt.feed_to([&](std::span<const Token> tokens, Part part) {
      check_interrupt();
      if (part == Part::question) before_question(tokens, progress);
      if (part == Part::document) show(watching.golds, reader.stats().tokens_read, tokens, model);
      if (watching.log != nullptr) watching.log->read(reader.stats().tokens_read, pieces_of(model, tokens));
      const bool pinned = part == Part::header && place == Place::start;
      reader.feed(tokens, pinned ? infinipot::Retention::pinned : infinipot::Retention::evictable);
      place = part == Part::header ? Place::header : part == Part::document ? Place::document : Place::answer;
      watching.timeline.show(reader.stats());
      after_piece();
      progress.show(prompt.progress(), reader.stats().tokens_read - before, reader.stats().distillations);
    });
  } catch (const Interrupted&) {
    throw Interrupted(how_far(reader.stats().tokens_read - before, prompt.progress()));
  }
  report.prefill_seconds = seconds_since(start) - report.recall_seconds();
  if (prompt.document_tokens() > 0) report.document_position = before + prompt.tokens_before_document();
  report.document_tokens = prompt.document_tokens();
  report.prompt_tokens = reader.stats().tokens_read - before;
  for (Gold& gold : watching.golds) gold.end_text();
}

/// Mean cross-entropy of `answer`, in nats per token, reading it token by token. It must not be empty. Throws
/// Interrupted.
template <class Reader>
double answer_nll(Reader& reader, std::span<const Token> answer) {
  double total = 0;
  for (std::size_t i = 0; i < answer.size(); ++i) {
    if (interrupt_signal() != 0) throw Interrupted("interrupted while measuring the expected answer");
    if (i > 0) reader.feed(answer[i - 1]);
    total += static_cast<double>(infinipot::nuc(reader.logits(), answer[i]));
  }
  return total / static_cast<double>(answer.size());
}

/// Generates and prints at most `most` tokens, up to the model's end of turn. `log` may be null. Returns
/// whether it came to that end: false if it was interrupted.
template <class Reader>
bool generate(Reader& reader, const TextModel& model, smollm2::Sampler& sampler, std::size_t most,
              PotLog* log, AnswerStream& answers, TurnReport& report) {
  const auto start = std::chrono::steady_clock::now();
  bool first = true, whole = true;
  report.ttft_seconds = report.prefill_seconds + report.recall_seconds();  // without a token to choose
  report.answer_tokens = reader.generate(most, sampler, [&](Token token) {
    if (first) report.ttft_seconds += seconds_since(start);
    first = false;
    if (model.is_end(token)) return false;
    if (interrupt_signal() != 0) return whole = false;
    answers.push(model.decode(token));
    if (log != nullptr) log->read(reader.stats().tokens_read, {model.decode(token)});
    return true;
  });
  report.answer_text = answers.end();
  return whole;
}

}  // namespace reading
