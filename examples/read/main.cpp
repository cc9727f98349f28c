// infinipot-read: SmolLM2 (or another Llama model) reads a long document through a pot and answers a
// question.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "report.hpp"
#include "session.hpp"
#include "smollm2/chat.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2/tokenizer.hpp"

namespace reading {
namespace {

using Pot = infinipot::Pot<float>;
using Engine = smollm2::LlamaEngine<Pot>;

/// All that stays the same over a run.
struct Model {
  Model(const Options& options) : Model(smollm2::GgufFile(options.model), options) {}

  smollm2::Tokenizer tokenizer;
  smollm2::ChatTemplate chat;
  smollm2::ThreadPool pool;
  smollm2::LlamaWeights weights;

 private:
  Model(const smollm2::GgufFile& file, const Options& options)
      : tokenizer(file), chat(file, tokenizer), pool(options.threads), weights(file, pool) {}
};

std::vector<Token> catalyst_of(const Options& options, const smollm2::Tokenizer& tokenizer) {
  std::string text = options.catalyst;
  if (text == "@question") text = "\n\n" + options.question;
  if (text == "@generic")
    text = "\n\nWhat in the text above matters most for questions that may be asked about it?";
  return tokenizer.encode(text, smollm2::Specials::as_text);
}

infinipot::PotSettings pot_settings(const Options& options, const smollm2::LlamaConfig& config) {
  return {.shape = config.shape(),
          .capacity = options.pot,
          .max_keep = options.keep,
          .granularity = granularity_of(options),
          .rope = config.rope()};
}

std::uint64_t full_cache_bytes(const infinipot::Shape& shape, std::uint64_t tokens) {
  return tokens * shape.heads() * shape.head_dim * 2 * sizeof(Pot::element);
}

/// --policy full: as large a pot as the whole prompt and the answer need.
void fit_pot(Prompt& prompt, std::size_t answer, Options& options) {
  options.pot = prompt.record() + std::max(options.generate, answer) + 1;
  options.keep = std::min<std::size_t>(options.pot - 1, 256);  // never asked for; room for what is pinned
}

template <class P>
Report read(Model& model, Prompt& prompt, const Options& options, P policy, std::size_t catalyst) {
  Pot pot(pot_settings(options, model.weights.config()));
  const std::size_t batch = std::max(options.chunk, catalyst);
  Engine engine(model.weights, pot, model.pool, batch);
  infinipot::Ccd reader(
      engine, pot, std::move(policy),
      {.keep = options.keep, .sinks = options.sinks, .recent = options.recent, .chunk = options.chunk});

  Report report;
  Needle needle(options.needle);
  Progress progress;
  const auto start = std::chrono::steady_clock::now();
  prompt.feed_to([&](std::span<const Token> tokens, Retention retention) {
    std::uint64_t position = reader.stats().tokens_read;
    if (needle.wanted())
      for (const Token token : tokens) needle.push(position++, model.tokenizer.decode(token));
    reader.feed(tokens, retention);
    progress.show(prompt.progress(), reader.stats().tokens_read, reader.stats().distillations);
  });
  progress.clear();
  report.prefill_seconds = seconds_since(start);
  report.document_tokens = prompt.document_tokens();
  report.prompt_tokens = reader.stats().tokens_read;
  report.tokens_per_second = static_cast<double>(report.prompt_tokens) / report.prefill_seconds;
  report.pot_capacity = pot.capacity();
  report.pot_entries = pot.size();
  report.keep = reader.settings().keep;
  report.pot_bytes = pot.bytes();
  report.hit_rate = needle.hit_rate(pot.entries());
  if (needle.wanted() && !needle.found())
    std::fprintf(stderr, "infinipot-read: the needle is not in the document\n");

  if (!options.answer.empty()) {
    Pot copy = pot.fork();
    Engine copy_engine(model.weights, copy, model.pool, batch);
    auto fork = reader.fork(copy_engine, copy);
    report.answer_nll = answer_nll(fork, model.tokenizer.encode(options.answer, smollm2::Specials::as_text));
  }
  generate(reader, model.tokenizer, options, report);
  report.full_cache_bytes = full_cache_bytes(pot.shape(), reader.stats().tokens_read);
  report.distillations = reader.stats().distillations;
  report.nan_scores = reader.stats().nan_scores;
  report.distill_seconds = reader.stats().distill_seconds;
  report.catalyst_seconds = reader.stats().probe_seconds;
  report.peak_rss_bytes = peak_rss_bytes();
  return report;
}

void run(Options options) {
  complete(options);
  Model model(options);
  options.threads = model.pool.size();
  Prompt prompt(model.tokenizer, model.chat, options);
  if (options.policy == "full")
    fit_pot(prompt, model.tokenizer.encode(options.answer, smollm2::Specials::as_text).size(), options);
  const std::vector<Token> catalyst = catalyst_of(options, model.tokenizer);
  const Report report = with_policy(options, catalyst, [&](auto policy) {
    return read(model, prompt, options, std::move(policy), catalyst.size());
  });
  print(report, options);
  if (!options.json.empty()) write_json(options.json, report, options);
}

}  // namespace
}  // namespace reading

int main(int argc, char** argv) {
  try {
    if (auto options = reading::parse_options(argc, argv)) reading::run(std::move(*options));
    return 0;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "infinipot-read: not enough memory for the model and a pot of that size\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "infinipot-read: %s\n", error.what());
    return 2;
  }
}
