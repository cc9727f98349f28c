// infinipot-read: SmolLM2 (or another Llama model) reads a long document through a pot and answers a
// question.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "needle.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
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
  explicit Model(const Options& options) : Model(smollm2::GgufFile(options.model), options) {}

  smollm2::Tokenizer tokenizer;
  smollm2::ChatTemplate chat;
  smollm2::ThreadPool pool;
  smollm2::LlamaWeights weights;

 private:
  Model(const smollm2::GgufFile& file, const Options& options)
      : tokenizer(file), chat(file, tokenizer), pool(options.threads), weights(file, pool) {}
};

/// Texts of the command line as tokens.
struct Texts {
  std::vector<Token> catalyst, answer;
};

std::vector<Token> tokens_of(const std::string& text, const char* option,
                             const smollm2::Tokenizer& tokenizer) {
  std::vector<Token> tokens = tokenizer.encode(text, smollm2::Specials::as_text);
  // Some control characters have no token.
  if (tokens.empty() && !text.empty()) throw UsageError(std::string(option) + ": the text has no tokens");
  return tokens;
}

Texts texts_of(const Options& options, const smollm2::Tokenizer& tokenizer) {
  std::string catalyst = options.catalyst;
  if (catalyst == "@question") catalyst = "\n\n" + options.question;
  if (catalyst == "@generic")
    catalyst = "\n\nWhat in the text above matters most for questions that may be asked about it?";
  return {tokens_of(catalyst, "--catalyst", tokenizer), tokens_of(options.answer, "--answer", tokenizer)};
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
  options.keep = std::max(prompt.header_tokens(), std::size_t{1});  // what is pinned; never asked for
  options.sinks = options.recent = 0;
}

template <class P>
Report read(Model& model, Prompt& prompt, const Options& options, const Texts& texts, P policy) {
  check_room(policy, options, prompt.header_tokens());
  smollm2::Sampler sampler(
      {static_cast<float>(options.temperature), static_cast<float>(options.top_p), options.seed});
  Pot pot(pot_settings(options, model.weights.config()));
  const std::size_t batch = std::max(std::min(options.chunk, options.pot), texts.catalyst.size());
  Engine engine(model.weights, pot, model.pool, batch);
  infinipot::Ccd reader(
      engine, pot, std::move(policy),
      {.keep = options.keep, .sinks = options.sinks, .recent = options.recent, .chunk = options.chunk});

  Report report;
  Needle needle(options.needle);
  prefill(reader, prompt, model.tokenizer, needle, report);
  report.pot_capacity = pot.capacity();
  report.pot_entries = pot.size();
  report.pot_bytes = pot.bytes();
  report.hit_rate = needle.hit_rate(pot.entries());
  if (needle.wanted() && !needle.found())
    std::fprintf(stderr, "infinipot-read: the needle is not in the document\n");

  if (!texts.answer.empty()) {
    Pot copy = pot.fork();
    Engine copy_engine(model.weights, copy, model.pool, batch);
    auto fork = reader.fork(copy_engine, copy);
    report.answer_nll = answer_nll(fork, texts.answer);
  }
  generate(reader, model.tokenizer, sampler, options, report);
  report.full_cache_bytes = full_cache_bytes(pot.shape(), reader.stats().tokens_read);
  report.distillations = reader.stats().distillations;
  report.nan_scores = reader.stats().nan_scores;
  report.distill_seconds = reader.stats().distill_seconds;
  report.catalyst_seconds = reader.stats().probe_seconds;
  report.peak_rss_bytes = peak_rss_bytes();
  return report;
}

void run(Options options) {
  Document document(options.document);
  check_json_path(options.json);
  Model model(options);
  options.threads = model.pool.size();
  Prompt prompt(model.tokenizer, model.chat, options, std::move(document));
  const Texts texts = texts_of(options, model.tokenizer);
  if (options.policy == "full") fit_pot(prompt, texts.answer.size(), options);
  const Report report = with_policy(options, texts.catalyst, [&](auto policy) {
    return read(model, prompt, options, texts, std::move(policy));
  });
  if (!options.json.empty()) write_json(options.json, report, options);
  print(report, options);
}

/// Whatever a message quotes, such as the name of a file, it stays one line.
std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
  return text;
}

int fail(const std::string& message) {
  std::fprintf(stderr, "infinipot-read: %s\n", one_line(message).c_str());
  return 2;
}

}  // namespace
}  // namespace reading

int main(int argc, char** argv) {
  try {
    if (auto options = reading::parse_options(argc, argv)) reading::run(std::move(*options));
    if (!std::cout.flush()) return reading::fail("cannot write to standard output");
    return 0;
  } catch (const std::bad_alloc&) {
    return reading::fail("not enough memory for the model and a pot of that size");
  } catch (const std::exception& error) {
    return reading::fail(error.what());
  }
}
