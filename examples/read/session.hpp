// The main job: a conversation about long documents, from the loaded model to the report.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "answer_stream.hpp"
#include "backend.hpp"
#include "chat_input.hpp"
#include "conversation.hpp"
#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "interrupt.hpp"
#include "model_fingerprint.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "recalling.hpp"
#include "report.hpp"
#include "saved_pot.hpp"
#include "text_model.hpp"
#include "texts.hpp"

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

/// Answers questions from standard input, until it ends or a signal comes while it waits.
template <class Conversation>
void chat(Conversation& conversation) {
  ChatInput input(STDIN_FILENO);
  while (!conversation.interrupted()) {
    const std::optional<std::string> question = input.next();
    if (!question) break;
    conversation.ask(*question);
  }
  if (!conversation.interrupted() && interrupt_signal() != 0)
    conversation.interrupt("interrupted while waiting for a question");
}

/// What the options ask for, once the prompts are known.
struct Session {
  std::vector<Prompt>& prompts;
  const Texts& texts;
  const std::string& fingerprint;  ///< of the model; empty where nobody needs it
  const std::optional<SavedPot>& saved;
};

/// All turns in the same pot, one after the other. Only the first one's header is pinned.
template <Backend B, infinipot::Policy P>
Report converse(B& backend, Options& options, const Session& session, P policy, AnswerStream& answers) {
  const std::size_t header = session.prompts.empty() ? 0 : session.prompts.front().header_tokens();
  check_fits(policy, options, header);
  std::size_t batch = std::max(std::min(options.chunk, options.pot), longest_catalyst(session.texts.aims));
  if constexpr (infinipot::RunsProbes<P>) batch = std::max(batch, policy.longest_probe());
  std::optional<RecallRoom> recalls;
  if (!options.archive.empty() && options.recall > 0) recalls.emplace(backend.text(), options);
  if (recalls) batch = std::max(batch, recalls->longest());
  Conversation<B, P> conversation(backend, options, session.texts, std::move(policy), answers, batch,
                                  recalls);
  if (session.saved) conversation.resume(*session.saved);
  if (!options.archive.empty()) conversation.open_archive(session.fingerprint, session.saved.has_value());
  if (!options.pin.empty() && conversation.place() != Place::start)
    throw UsageError("--pin: goes before all that is read, and something was already");
  if (!session.prompts.empty() && conversation.place() != Place::start)
    session.prompts.front().open(Opening::at(conversation.place(), backend.text(), options.pin));
  conversation.run(session.prompts);
  if (options.chat) chat(conversation);
  if (!options.save.empty()) conversation.save(options.save, session.fingerprint);
  return conversation.take_report();
}

/// Reads the documents, which belong to the first turns, and answers the questions. What depends on the
/// prompts (the pot of --policy full, what context_shift keeps) is filled into the options. A signal (see
/// InterruptGuard) ends it with the answers that there are; before the first one begins, Interrupted is
/// thrown. Throws UsageError, and what the engine throws.
template <Backend B>
Report run_session(B& backend, Options& options, std::vector<Document> documents, AnswerStream& answers) {
  const TextModel& model = backend.text();
  std::string fingerprint;
  if (!(options.save + options.load + options.archive).empty())
    fingerprint = model_fingerprint(options.model);
  std::optional<SavedPot> saved;
  if (!options.load.empty()) saved.emplace(options.load, fingerprint);
  std::vector<Prompt> prompts = prompts_of(model, options, std::move(documents));
  const Texts texts = texts_of(model, options);
  if (options.policy == "full") fit_full(prompts, texts, options);
  if (options.policy == "context_shift")
    fit_context_shift(options, prompts.empty() ? 0 : prompts.front().header_tokens());
  const Session session{prompts, texts, fingerprint, saved};
  const auto run = [&]<infinipot::Policy P>(P policy) -> Report {
    if constexpr (infinipot::watches_entries(infinipot::watch_of<P>) &&
                  !infinipot::ReadableEntries<StoreOf<B>>)
      throw UsageError("--policy " + options.policy + ": this store's entries cannot be read back");
    else
      return converse(backend, options, session, std::move(policy), answers);
  };
  return with_policy(options, texts.aims, run, rope_of(backend));
}

}  // namespace reading
