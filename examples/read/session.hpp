// The main job: a conversation about long documents, from the loaded model to the report.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "answer_stream.hpp"
#include "backend.hpp"
#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "interrupt.hpp"
#include "needle.hpp"
#include "nuc_trace.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "smollm2/sampler.hpp"
#include "text_model.hpp"
#include "texts.hpp"
#include "timeline.hpp"
#include "turn.hpp"

namespace reading {

/// --policy full: as large a pot as all prompts and answers need.
inline void fit_full(std::vector<Prompt>& prompts, const Texts& texts, Options& options) {
  options.pot = 1;
  for (std::size_t k = 0; k < prompts.size(); ++k)
    options.pot += prompts[k].record() + std::max(options.generate, texts.answers[k].size());
  // What is pinned; never asked for.
  options.keep = std::max(prompts.front().header_tokens(), std::size_t{1});
  options.sinks = options.recent = 0;
}

/// Cross-entropy of an answer, without a trace in the conversation.
template <class Memory, class Reader>
double forked_nll(Memory& memory, const Reader& reader, std::span<const Token> answer) {
  auto copy = memory.fork();
  auto fork = reader.fork(copy.engine(), copy.store());
  return answer_nll(fork, answer);
}

/// All turns in the same pot, one after the other. Only the first one's header is pinned.
template <Backend B, infinipot::Policy P>
Report converse(B& backend, Options& options, std::vector<Prompt>& prompts, const Texts& texts, P policy,
                AnswerStream& answers) {
  check_fits(policy, options, prompts.front().header_tokens());
  const TextModel& model = backend.text();
  smollm2::Sampler sampler(
      {.temperature = options.temperature, .top_p = options.top_p, .seed = options.seed});
  std::size_t batch = std::max(std::min(options.chunk, options.pot), longest(texts.catalysts));
  if constexpr (infinipot::RunsProbes<P>) batch = std::max(batch, policy.longest_probe());
  auto memory = backend.memory(options, batch, texts.any_answer());
  auto& store = memory.store();
  infinipot::Ccd reader(
      memory.engine(), store, WithNuc<P>(std::move(policy), options.nuc),
      {.keep = options.keep, .sinks = options.sinks, .recent = options.recent, .chunk = options.chunk},
      executor_of(memory));

  std::vector<Needle> needles;
  for (const Turn& turn : options.turns) needles.emplace_back(turn.needle);
  Report report;
  Timeline timeline(options.timeline);
  if (!options.report.empty()) report.log.emplace(store.shape(), store.granularity());
  PotLog* const log = report.log ? &*report.log : nullptr;
  NucTrace trace;
  if (log != nullptr || options.nuc)
    reader.on_choice([&, log](const infinipot::Choice& choice) {
      if (log != nullptr) log->choose(choice);
      trace.note(choice.entries);
    });
  const auto run_turn = [&](std::size_t k) {
    using infinipot::Retention;
    if constexpr (std::same_as<P, infinipot::Infinipot>)
      if (k > 0) reader.set_policy(WithNuc<P>(infinipot_policy(options, texts.catalysts, k), options.nuc));
    TurnReport& turn = report.turns.emplace_back();
    prefill(reader, prompts[k], k == 0 ? Retention::pinned : Retention::evictable, model,
            std::span(needles).subspan(k), timeline, log, turn);
    turn.hit_rate = needles[k].hit_rate(store.entries());
    if (needles[k].found()) turn.needle_position = needles[k].positions().front();
    turn.needle_tokens = needles[k].positions().size();
    report.pot_entries = store.entries().size();
    if (options.report_kept) {
      const auto kept = store.entries().positions(0);
      report.kept.emplace(kept.begin(), kept.end());
    }
    if (options.nuc) {
      trace.note(store.entries());
      report.nuc = trace.nuc();
    }
    if (!texts.answers[k].empty()) turn.answer_nll = forked_nll(memory, reader, texts.answers[k]);
    if (!generate(reader, model, sampler, options.generate, log, answers, turn))
      report.interrupted =
          "interrupted after " + std::to_string(turn.answer_tokens) + " tokens of the answer";
  };
  try {
    for (std::size_t k = 0; k < prompts.size() && report.interrupted.empty(); ++k) run_turn(k);
  } catch (const Interrupted& interrupted) {
    if (report.turns.size() == 1) throw;
    report.turns.pop_back();
    report.interrupted =
        std::string(interrupted.what()) + " (question " + std::to_string(report.turns.size() + 1) + ")";
  }
  report.timeline = timeline.take();
  if (log != nullptr) log->end(store.entries());
  report.pot_capacity = store.capacity();
  report.pot_bytes = memory.bytes();
  report.full_cache_bytes = backend.bytes_per_token() * reader.stats().tokens_read;
  report.distillations = reader.stats().distillations;
  report.nan_scores = reader.stats().nan_scores;
  report.distill_seconds = reader.stats().distill_seconds;
  report.catalyst_seconds = reader.stats().probe_seconds;
  report.cap_seconds = reader.stats().cap_seconds;
  report.peak_rss_bytes = peak_rss_bytes();
  return report;
}

/// Reads the documents, which belong to the first turns, and answers the questions. What depends on the
/// prompts (the pot of --policy full, what context_shift keeps) is filled into the options. A signal (see
/// InterruptGuard) ends it with the answers that there are; before the first one begins, Interrupted is
/// thrown. Throws UsageError, and what the engine throws.
template <Backend B>
Report run_session(B& backend, Options& options, std::vector<Document> documents, AnswerStream& answers) {
  const TextModel& model = backend.text();
  std::vector<Prompt> prompts = prompts_of(model, options, std::move(documents));
  const Texts texts = texts_of(model, options);
  if (options.policy == "full") fit_full(prompts, texts, options);
  if (options.policy == "context_shift") fit_context_shift(options, prompts.front().header_tokens());
  const auto run = [&]<infinipot::Policy P>(P policy) -> Report {
    if constexpr (infinipot::watches_entries(infinipot::watch_of<P>) &&
                  !infinipot::ReadableEntries<StoreOf<B>>)
      throw UsageError("--policy " + options.policy + ": this store's entries cannot be read back");
    else
      return converse(backend, options, prompts, texts, std::move(policy), answers);
  };
  return with_policy(options, texts.catalysts, run, rope_of(backend));
}

}  // namespace reading
