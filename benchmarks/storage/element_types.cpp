// What each element type of a pot saves in memory and costs in accuracy: reads one long text through pots
// that differ in nothing else, and asks a question about it. The cross-entropy of every token is its NuC.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "any_pot.hpp"
#include "infinipot/infinipot.hpp"
#include "key_channels.hpp"
#include "nlohmann/json.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/pool_executor.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2_text.hpp"
#include "turn.hpp"

namespace {

using infinipot::Token;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string model, text;
  std::vector<std::string> types{"f32", "f16", "bf16", "int8", "int4"};
  std::string question = "Where was the Jargon File begun in 1975, and by whom?";
  std::string answer_begins = "The Jargon File was begun in 1975 at", answer = " Stanford by Raphael Finkel.";
  std::size_t tokens = 20000, pot = 2048, keep = 1024, chunk = 256, threads = 0, turns = 3;
  bool plain_channels = false;
  std::string json_file;
};

class Reader {
 public:
  explicit Reader(const Options& options)
      : options_(options),
        file_(options.model),
        text_(file_),
        threads_(options.threads),
        weights_(file_, threads_) {
    std::ifstream file(options.text, std::ios::binary);
    const std::string all{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw std::runtime_error("cannot read " + options.text);
    text_.encode(all.substr(0, 8 * options.tokens), tokens_);
    if (tokens_.size() < options.tokens)
      throw std::runtime_error(options.text + " has only " + std::to_string(tokens_.size()) +
                               " tokens; see --tokens");
    tokens_.resize(options.tokens);
    text_.encode("\n\n" + options.question, catalyst_);
    text_.encode("\n\nQuestion: " + options.question + "\nAnswer: " + options.answer_begins, question_);
    text_.encode(options.answer, answer_);
  }

  std::size_t threads() const { return threads_.size(); }

  json measure(const std::string& type) {
    const infinipot::Shape shape = weights_.config().shape();
    reading::AnyPot pot = reading::make_pot(type,
                                            {.shape = shape,
                                             .capacity = options_.pot,
                                             .max_keep = options_.keep,
                                             .granularity = infinipot::Granularity::shared,
                                             .rope = weights_.config().rope(options_.pot)},
                                            [&] {
                                              return options_.plain_channels
                                                         ? infinipot::plain_key_channels(shape)
                                                         : reading::key_channels(weights_, text_, threads_);
                                            });
    smollm2::LlamaEngine<reading::AnyPot> engine(weights_, pot, threads_, options_.chunk);
    infinipot::Ccd reader(engine, pot,
                          infinipot::Infinipot({.catalysts = {catalyst_},
                                                .alpha = 0.25,
                                                .over_heads = infinipot::ReduceHeads::max_share,
                                                .kernel = 9}),
                          {.keep = options_.keep, .chunk = options_.chunk}, smollm2::PoolExecutor(threads_));
    const auto start = Clock::now();
    double sum = 0, squares = 0;
    for (std::span<const Token> rest = tokens_; !rest.empty();) {
      // No more than the pot has spare, so that no token is dropped before its NuC is read.
      const std::size_t held = pot.entries().size() == reader.limit() ? options_.keep : pot.entries().size();
      const std::size_t count = std::min({rest.size(), reader.limit() - held, options_.chunk});
      reader.feed(rest.first(count));
      rest = rest.subspan(count);
      for (const float nuc : pot.entries().nuc(0).last(count)) {
        sum += static_cast<double>(nuc);
        squares += static_cast<double>(nuc) * static_cast<double>(nuc);
      }
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    reader.feed(question_);
    const auto scored = static_cast<double>(tokens_.size() - 1);  // the first has no prediction
    const double nll = sum / scored;
    return {{"type", type},
            {"bytes_per_entry", bytes_per_entry(type, shape)},
            {"pot_bytes", pot.bytes()},
            {"nll", nll},
            {"nll_standard_error", std::sqrt((squares / scored - nll * nll) / scored)},
            {"perplexity", std::exp(nll)},
            {"answer_nll", reading::answer_nll(reader, answer_)},
            {"distillations", reader.stats().distillations},
            {"tokens_per_second", static_cast<double>(tokens_.size()) / seconds}};
  }

 private:
  /// Keys and values of all layers and heads.
  static std::size_t bytes_per_entry(const std::string& type, const infinipot::Shape& shape) {
    return 2 * shape.heads() * reading::bytes_of_row(type, shape.head_dim);
  }

  const Options& options_;
  smollm2::GgufFile file_;
  reading::Smollm2Text text_;
  smollm2::ThreadPool threads_;
  smollm2::LlamaWeights weights_;
  std::vector<Token> tokens_, catalyst_, question_, answer_;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model, "GGUF file of a Llama model")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--text", options.text, "Text to read")->required()->check(CLI::ExistingFile);
  app.add_option("--types", options.types, "Element types")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8", "int4"}));
  app.add_option("--tokens", options.tokens, "Tokens of the text to read")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  app.add_option("--pot", options.pot, "Entries of the pot")
      ->check(CLI::Range(64, 1 << 24))
      ->capture_default_str();
  app.add_option("--keep", options.keep, "Entries that a distillation keeps")->capture_default_str();
  app.add_option("--question", options.question, "Question about the text, which is also the catalyst")
      ->capture_default_str();
  app.add_option("--answer-begins", options.answer_begins, "First words of its answer")
      ->capture_default_str();
  app.add_option("--answer", options.answer, "The rest of it, whose cross-entropy is measured")
      ->capture_default_str();
  app.add_option("--turns", options.turns, "Times to read the text with each type; the speed is the median")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0 is one per core")->capture_default_str();
  app.add_flag("--plain-channels", options.plain_channels, "Quantise keys without looking at their channels");
  app.add_option("--json", options.json_file, "File to write the results to");
}

/// Every type once, then all again, so that a machine that slows down does so for all of them. Results are
/// those of each type's first reading (all readings give the same), the speed is the median.
json measure_in_turn(Reader& reader, const Options& options) {
  json results = json::array();
  std::vector<std::vector<double>> speeds(options.types.size());
  for (std::size_t turn = 0; turn < options.turns; ++turn)
    for (std::size_t i = 0; i < options.types.size(); ++i) {
      std::fprintf(stderr, "turn %zu of %zu: %s\n", turn + 1, options.turns, options.types[i].c_str());
      const json measured = reader.measure(options.types[i]);
      speeds[i].push_back(measured.at("tokens_per_second"));
      if (turn == 0) results.push_back(measured);
    }
  for (std::size_t i = 0; i < options.types.size(); ++i) {
    std::ranges::sort(speeds[i]);
    results[i]["tokens_per_second"] = speeds[i][speeds[i].size() / 2];
    results[i]["relative_speed"] = speeds[i][speeds[i].size() / 2] / speeds[0][speeds[0].size() / 2];
  }
  return results;
}

void print(const json& results) {
  std::printf("%-6s %12s %10s %8s %8s %11s %11s %10s %9s\n", "type", "bytes/entry", "pot MiB", "nll", "+-",
              "perplexity", "answer nll", "tokens/s", "of first");
  for (const json& r : results)
    std::printf("%-6s %12zu %10.1f %8.4f %8.4f %11.3f %11.4f %10.1f %9.3f\n",
                r.at("type").get<std::string>().c_str(), r.at("bytes_per_entry").get<std::size_t>(),
                r.at("pot_bytes").get<double>() / (1 << 20), r.at("nll").get<double>(),
                r.at("nll_standard_error").get<double>(), r.at("perplexity").get<double>(),
                r.at("answer_nll").get<double>(), r.at("tokens_per_second").get<double>(),
                r.at("relative_speed").get<double>());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Reads a text through pots of several element types: memory, perplexity, speed.");
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    Reader reader(options);
    const json results = measure_in_turn(reader, options);
    print(results);
    if (!options.json_file.empty()) {
      std::ofstream file(options.json_file);
      file << json{{"tokens", options.tokens},
                   {"pot", options.pot},
                   {"keep", options.keep},
                   {"threads", reader.threads()},
                   {"results", results}}
                  .dump(2)
           << '\n';
      if (!file) throw std::runtime_error("cannot write " + options.json_file);
    }
  } catch (const std::exception& error) {
    std::cerr << "infinipot-element-types: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
