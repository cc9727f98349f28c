// What each element type of a pot costs in memory and in words: one long text, read through pots that differ
// in nothing else. The cross-entropy of every token is what the engine gets for NuC anyway.
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

namespace {

using infinipot::Token;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string model, text;
  std::vector<std::string> types{"f32", "f16", "bf16", "int8", "int4"};
  std::size_t tokens = 20000, pot = 2048, keep = 1024, chunk = 256, threads = 0;
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
    text_.encode("\n\nWhat matters in the text above?", catalyst_);
  }

  std::size_t threads() const { return threads_.size(); }

  json measure(const std::string& type) {
    const infinipot::Shape shape = weights_.config().shape();
    reading::AnyPot pot = reading::make_pot(type,
                                            {.shape = shape,
                                             .capacity = options_.pot,
                                             .max_keep = options_.keep,
                                             .granularity = infinipot::Granularity::shared,
                                             .rope = weights_.config().rope()},
                                            [&] {
                                              return options_.plain_channels
                                                         ? infinipot::plain_key_channels(shape)
                                                         : reading::key_channels(weights_, text_, threads_);
                                            });
    smollm2::LlamaEngine<reading::AnyPot> engine(weights_, pot, threads_, options_.chunk);
    infinipot::Ccd reader(
        engine, pot,
        infinipot::Infinipot(
            {.catalysts = {catalyst_}, .alpha = 0.25, .over_heads = infinipot::Aggregate::max, .kernel = 9}),
        {.keep = options_.keep, .chunk = options_.chunk}, smollm2::PoolExecutor(threads_));
    const auto start = Clock::now();
    double sum = 0, squares = 0;
    for (std::span<const Token> rest = tokens_; !rest.empty();) {
      // What is left of a pot, so that none of these tokens is dropped before it was looked at.
      const std::size_t room = pot.entries().size() == reader.limit() ? reader.limit() - options_.keep
                                                                      : reader.limit() - pot.entries().size();
      const std::size_t count = std::min({rest.size(), room, options_.chunk});
      reader.feed(rest.first(count));
      rest = rest.subspan(count);
      for (const float nuc : pot.entries().nuc(0).last(count)) {
        sum += static_cast<double>(nuc);
        squares += static_cast<double>(nuc) * static_cast<double>(nuc);
      }
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const auto scored = static_cast<double>(tokens_.size() - 1);  // the first has no prediction
    const double nll = sum / scored;
    return {{"type", type},
            {"bytes_per_entry", bytes_per_entry(type, shape)},
            {"pot_bytes", pot.bytes()},
            {"nll", nll},
            {"nll_standard_error", std::sqrt((squares / scored - nll * nll) / scored)},
            {"perplexity", std::exp(nll)},
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
  std::vector<Token> tokens_, catalyst_;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model, "GGUF file of a Llama model")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--text", options.text, "Text to read")->required()->check(CLI::ExistingFile);
  app.add_option("--types", options.types, "Element types")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8", "int4"}));
  app.add_option("--tokens", options.tokens, "Tokens of the text")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  app.add_option("--pot", options.pot, "Entries of the pot")
      ->check(CLI::Range(64, 1 << 24))
      ->capture_default_str();
  app.add_option("--keep", options.keep, "Entries that a distillation keeps")->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0 is one per core")->capture_default_str();
  app.add_flag("--plain-channels", options.plain_channels, "Quantise keys without knowing their channels");
  app.add_option("--json", options.json_file, "File to write the results to");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Reads a text through pots of several element types: memory, perplexity, speed.");
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    Reader reader(options);
    json results = json::array();
    std::printf("%-6s %14s %10s %10s %8s %12s %12s\n", "type", "bytes/entry", "pot MiB", "nll", "+-",
                "perplexity", "tokens/s");
    for (const std::string& type : options.types) {
      const json& r = results.emplace_back(reader.measure(type));
      std::printf("%-6s %14zu %10.1f %10.4f %8.4f %12.3f %12.1f\n", type.c_str(),
                  r.at("bytes_per_entry").get<std::size_t>(), r.at("pot_bytes").get<double>() / (1 << 20),
                  r.at("nll").get<double>(), r.at("nll_standard_error").get<double>(),
                  r.at("perplexity").get<double>(), r.at("tokens_per_second").get<double>());
      std::fflush(stdout);
    }
    if (!options.json_file.empty()) {
      std::ofstream file(options.json_file);
      file << json{{"tokens", options.tokens},
                   {"pot", options.pot},
                   {"keep", options.keep},
                   {"threads", reader.threads()},
                   {"results", std::move(results)}}
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
