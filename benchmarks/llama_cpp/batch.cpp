// infinipot-llama-batch: how much faster sequences of one context generate in one batch than one after the
// other.
#include "batch.hpp"

#include <llama-cpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "tokens.hpp"

namespace {

using infinipot::Token;
using llama_cpp::Batch;
using llama_cpp::CachePot;
using llama_cpp::benchmark::first_tokens;
using llama_cpp::benchmark::median;

struct Options {
  std::string model, document, json;
  std::vector<std::size_t> sequences{1, 2, 4, 8, 16};
  std::size_t pot = 512, keep = 256, chunk = 128, catalyst = 16, repeat = 3;
  int threads = 1;
};

/// A sequence's pot and reader, and the token that it reads.
struct Speaker {
  using Reader = infinipot::Ccd<Batch, CachePot, infinipot::Infinipot>;

  Speaker(llama_cpp::GraphTap& tap, llama_context& context, Batch& batch, llama_seq_id sequence,
          const Options& o, const std::vector<Token>& catalyst)
      : pot(tap, context, sequence, {.capacity = o.pot, .max_keep = o.keep}),
        reader(batch, pot, infinipot::Infinipot(infinipot::recommended_settings(catalyst, o.keep)),
               {.keep = o.keep, .sinks = 4, .chunk = o.chunk}) {}

  CachePot pot;
  Reader reader;
  Token token = 0;
};

using Speakers = std::span<const std::unique_ptr<Speaker>>;

/// Runs what these have started.
void finish(Batch& batch, Speakers speakers) {
  const auto ask = [&](Speaker& speaker) {
    if (const infinipot::Pass* const pass = speaker.reader.next()) batch.add(speaker.pot, *pass);
  };
  for (const auto& speaker : speakers) ask(*speaker);
  while (!batch.empty())
    for (const llama_cpp::Outcome& outcome : batch.decode()) {
      if (!outcome.error.empty()) throw std::runtime_error(outcome.error);
      const auto found = std::ranges::find(speakers, outcome.sequence,
                                           [](const auto& speaker) { return speaker->pot.sequence(); });
      (*found)->reader.done();
      ask(**found);
    }
}

void generate(Batch& batch, Speakers speakers, std::size_t tokens) {
  for (std::size_t i = 0; i < tokens; ++i) {
    for (const auto& speaker : speakers) {
      const std::span<const float> logits = speaker->reader.logits();
      speaker->token = static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
      speaker->reader.start({&speaker->token, 1});
    }
    finish(batch, speakers);
  }
}

/// Of all threads: what other programs do meanwhile hardly matters.
template <class F>
double processor_seconds(const F& run) {
  const std::clock_t start = std::clock();
  run();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

struct Row {
  std::size_t sequences = 0, tokens = 0;
  std::vector<double> together, in_turn;  // processor seconds

  double rate(const std::vector<double>& times) const {
    return static_cast<double>(sequences * tokens) / median(times);
  }
  double ratio() const { return median(in_turn) / median(together); }
};

/// Each sequence reads a text of its own that fills its pot twice. Then all generate as many tokens as lie
/// from one distillation to the next, so that each distils once, together and one after the other by turns.
Row measure(const Options& o, llama_model& model, std::size_t sequences) {
  const std::size_t own = 2 * o.pot, most = o.pot - o.catalyst - o.keep;
  const std::vector<Token> text = first_tokens(model, o.document, sequences * own + o.catalyst);
  const std::vector<Token> catalyst(text.end() - static_cast<std::ptrdiff_t>(o.catalyst), text.end());
  llama_cpp::GraphTap tap;
  const llama_context_ptr context = llama_cpp::make_context(model, tap,
                                                            {.cells = o.pot,
                                                             .sequences = sequences,
                                                             .batch = std::max<std::size_t>(o.chunk, 16),
                                                             .threads = o.threads});
  Batch batch(tap, *context);
  std::vector<std::unique_ptr<Speaker>> speakers;
  for (std::size_t i = 0; i < sequences; ++i) {
    speakers.push_back(
        std::make_unique<Speaker>(tap, *context, batch, static_cast<llama_seq_id>(i), o, catalyst));
    speakers[i]->reader.start(std::span(text).subspan(i * own, own));
  }
  finish(batch, speakers);
  Row row{.sequences = sequences, .tokens = most, .together = {}, .in_turn = {}};
  for (std::size_t round = 0; round < o.repeat; ++round) {
    row.together.push_back(processor_seconds([&] { generate(batch, speakers, most); }));
    row.in_turn.push_back(processor_seconds([&] {
      for (std::size_t i = 0; i < sequences; ++i) generate(batch, Speakers(speakers).subspan(i, 1), most);
    }));
  }
  return row;
}

void run(const Options& o) {
  llama_cpp::keep_quiet();
  const llama_model_ptr model = llama_cpp::load_model(o.model);
  nlohmann::ordered_json result = nlohmann::ordered_json::array();
  std::printf("%9s %15s %15s %8s\n", "sequences", "together", "in turn", "ratio");
  for (const std::size_t sequences : o.sequences) {
    const Row row = measure(o, *model, sequences);
    std::printf("%9zu %7.1f tokens/s %7.1f tokens/s %6.2f\n", sequences, row.rate(row.together),
                row.rate(row.in_turn), row.ratio());
    std::fflush(stdout);
    result.push_back({{"sequences", sequences},
                      {"tokens", row.tokens},
                      {"together_seconds", row.together},
                      {"in_turn_seconds", row.in_turn},
                      {"ratio", row.ratio()}});
  }
  if (!o.json.empty()) std::ofstream(o.json) << result.dump(2) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app(
      "How much faster sequences of one context generate in one batch than one after the other, each with a\n"
      "pot of its own and a distillation on the way. Both take turns; prints medians of processor time.",
      "infinipot-llama-batch");
  app.add_option("--model", o.model, "GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--document", o.document, "text to read")->required()->check(CLI::ExistingFile);
  app.add_option("--sequences", o.sequences, "numbers of sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("--pot", o.pot, "entries (M)")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--keep", o.keep, "entries that a distillation keeps (C)")->capture_default_str();
  app.add_option("--chunk", o.chunk, "tokens per forward pass of a sequence")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--catalyst", o.catalyst, "tokens of the catalyst")->capture_default_str();
  app.add_option("--threads", o.threads, "threads")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--repeat", o.repeat, "runs of each")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--json", o.json, "file to write the results to");
  CLI11_PARSE(app, argc, argv);
  try {
    run(o);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "infinipot-llama-batch: %s\n", error.what());
    return 1;
  }
}
