// The main job: feed a prompt with a long document through a reader, then measure and generate the answer.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>

#include "infinipot/infinipot.hpp"
#include "needle.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "smollm2/sampler.hpp"
#include "smollm2/tokenizer.hpp"

namespace reading {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Reads the whole prompt, its header never to be dropped; looks for the needle in the document.
template <class Reader>
void prefill(Reader& reader, Prompt& prompt, const smollm2::Tokenizer& tokenizer, Needle& needle,
             Report& report) {
  Progress progress;
  const auto start = std::chrono::steady_clock::now();
  prompt.feed_to([&](std::span<const Token> tokens, Part part) {
    if (part == Part::document && needle.wanted())
      for (std::size_t i = 0; i < tokens.size(); ++i)
        needle.push(reader.stats().tokens_read + i, tokenizer.decode(tokens[i]));
    using infinipot::Retention;
    reader.feed(tokens, part == Part::header ? Retention::pinned : Retention::evictable);
    progress.show(prompt.progress(), reader.stats().tokens_read, reader.stats().distillations);
  });
  report.prefill_seconds = seconds_since(start);
  report.document_tokens = prompt.document_tokens();
  report.prompt_tokens = reader.stats().tokens_read;
  report.tokens_per_second = static_cast<double>(report.prompt_tokens) / report.prefill_seconds;
}

/// Mean cross-entropy of `answer`, of which there must be some, read token by token. Nats per token.
template <class Reader>
double answer_nll(Reader& reader, std::span<const Token> answer) {
  double total = 0;
  for (std::size_t i = 0; i < answer.size(); ++i) {
    if (i > 0) reader.feed(answer[i - 1]);
    total += static_cast<double>(infinipot::nuc(reader.logits(), answer[i]));
  }
  return total / static_cast<double>(answer.size());
}

/// Generates up to options.generate tokens, or to the model's end of turn.
template <class Reader>
void generate(Reader& reader, const smollm2::Tokenizer& tokenizer, smollm2::Sampler& sampler,
              const Options& options, Report& report) {
  const auto start = std::chrono::steady_clock::now();
  bool first = true;
  report.ttft_seconds = report.prefill_seconds;  // unless there is a token to choose
  report.answer_tokens = reader.generate(options.generate, sampler, [&](Token token) {
    if (first) report.ttft_seconds += seconds_since(start);
    first = false;
    if (tokenizer.is_end(token)) return false;
    report.answer_text += tokenizer.decode(token);
    return true;
  });
}

}  // namespace reading
