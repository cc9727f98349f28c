// infinipot-prefill: how fast the example engine reads a prompt, next to llama.cpp on the same file.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gguf.hpp"
#include "infinipot/pot.hpp"
#include "llama_engine.hpp"
#include "llama_weights.hpp"
#include "thread_pool.hpp"

namespace {

using nlohmann::json;

struct Options {
  std::string model;
  std::vector<std::size_t> lengths{512, 2048};
  std::size_t threads = 0;
  std::size_t chunk = 256;
  std::size_t repeat = 5;
  std::string logits = "last";
  std::string llama_bench;
  std::string json_file;
};

/// Tokens per second of one program on one prompt length, one number a run.
struct Samples {
  std::string program;
  std::size_t length = 0;
  std::vector<double> rates;

  double median() const {
    std::vector<double> sorted = rates;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t n = sorted.size();
    return n == 0 ? 0 : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
  }
};

/// Asks for the NuC of the targets and the logits of all other rows from `first_row` on, and looks at none.
class Unread final : public infinipot::LogitsSink {
 public:
  explicit Unread(std::size_t first_row, std::span<const infinipot::Token> targets) noexcept
      : LogitsSink(first_row, targets) {}
  void row(std::size_t /*row*/, std::span<const float> /*logits*/) noexcept override {}
};

/// The engine over a pot that holds the longest prompt.
class Engine {
 public:
  explicit Engine(const Options& options)
      : options_(options),
        pool_(options.threads),
        weights_(smollm2::GgufFile(options.model), pool_),
        pot_(settings(options, weights_.config())),
        engine_(weights_, pot_, pool_, options.chunk) {}

  std::size_t threads() const { return pool_.size(); }

  double tokens_per_second(std::size_t length) {
    const std::vector<infinipot::Token> prompt = random_tokens(length);
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t first = 0; first < length; first += options_.chunk) {
      const std::size_t count = std::min(options_.chunk, length - first);
      const std::size_t unwanted = first + count < length ? count : count - 1;
      const auto targets = std::span(prompt).subspan(first + 1, count - 1);
      Unread sink(options_.logits == "last" ? unwanted : 0,
                  options_.logits == "nuc" ? targets : std::span<const infinipot::Token>());
      engine_.forward(std::span(prompt).subspan(first, count), first, sink);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return static_cast<double>(length) / seconds.count();
  }

 private:
  static infinipot::PotSettings settings(const Options& options, const smollm2::LlamaConfig& config) {
    infinipot::PotSettings settings;
    settings.shape = config.shape();
    settings.capacity =
        std::max<std::size_t>(2, *std::max_element(options.lengths.begin(), options.lengths.end()));
    settings.rope = config.rope();
    return settings;
  }

  std::vector<infinipot::Token> random_tokens(std::size_t count) const {
    std::mt19937 random(1);
    std::uniform_int_distribution<infinipot::Token> token(
        0, static_cast<infinipot::Token>(engine_.vocab_size() - 1));
    std::vector<infinipot::Token> tokens(count);
    std::generate(tokens.begin(), tokens.end(), [&] { return token(random); });
    return tokens;
  }

  const Options& options_;
  smollm2::ThreadPool pool_;
  smollm2::LlamaWeights weights_;
  infinipot::Pot<float> pot_;
  smollm2::LlamaEngine<infinipot::Pot<float>> engine_;
};

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string output_of(const std::string& command) {
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run: " + command);
  std::string output;
  char buffer[4096];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  if (pclose(pipe) != 0) throw std::runtime_error("failed: " + command);
  return output;
}

/// llama.cpp's rate for one prompt, run once after its own warm-up. It computes the last logits only.
double llama_cpp_rate(const Options& options, std::size_t threads, std::size_t length, bool flash_attention) {
  const std::string command = shell_quoted(options.llama_bench) + " -m " + shell_quoted(options.model) +
                              " -t " + std::to_string(threads) + " -p " + std::to_string(length) +
                              " -n 0 -r 1 -fa " + (flash_attention ? "1" : "0") + " -o json 2>/dev/null";
  return json::parse(output_of(command)).at(0).at("avg_ts").get<double>();
}

/// Runs the programs in turn, so that a machine that slows down does so for all of them.
std::vector<Samples> measure(const Options& options, Engine& engine) {
  std::vector<Samples> all;
  for (const std::size_t length : options.lengths) {
    Samples ours{"infinipot", length, {}}, plain{"llama.cpp", length, {}},
        flash{"llama.cpp, flash", length, {}};
    engine.tokens_per_second(length);  // warm-up
    for (std::size_t run = 0; run < options.repeat; ++run) {
      ours.rates.push_back(engine.tokens_per_second(length));
      if (options.llama_bench.empty()) continue;
      plain.rates.push_back(llama_cpp_rate(options, engine.threads(), length, false));
      flash.rates.push_back(llama_cpp_rate(options, engine.threads(), length, true));
    }
    for (Samples* samples : {&ours, &plain, &flash})
      if (!samples->rates.empty()) all.push_back(std::move(*samples));
  }
  return all;
}

/// The median of infinipot for the same length, over that of `samples`.
double ratio(const std::vector<Samples>& all, const Samples& samples) {
  const auto ours =
      std::find_if(all.begin(), all.end(), [&](const Samples& s) { return s.length == samples.length; });
  return ours->median() / samples.median();
}

void print(const std::vector<Samples>& all) {
  std::printf("%-18s %8s %12s %12s %12s %16s\n", "program", "tokens", "tokens/s", "slowest", "fastest",
              "infinipot is");
  for (const Samples& s : all) {
    const auto [slowest, fastest] = std::minmax_element(s.rates.begin(), s.rates.end());
    std::printf("%-18s %8zu %12.1f %12.1f %12.1f %15.2fx\n", s.program.c_str(), s.length, s.median(),
                *slowest, *fastest, ratio(all, s));
  }
}

json report(const Options& options, const Engine& engine, const std::vector<Samples>& all) {
  json results = json::array();
  for (const Samples& s : all)
    results.push_back({{"program", s.program},
                       {"tokens", s.length},
                       {"tokens_per_second", s.median()},
                       {"runs", s.rates},
                       {"infinipot_ratio", ratio(all, s)}});
  return {{"threads", engine.threads()},
          {"chunk", options.chunk},
          {"logits", options.logits},
          {"results", results}};
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model, "GGUF file of a Llama model")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--tokens", options.lengths, "Prompt lengths")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0 is one per core")->capture_default_str();
  app.add_option("--chunk", options.chunk, "Tokens per forward pass")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--repeat", options.repeat, "Runs of each")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--logits", options.logits,
                 "Whose logits are computed: those of all tokens, the last, or the last and NuC of all")
      ->check(CLI::IsMember({"all", "last", "nuc"}))
      ->capture_default_str();
  app.add_option("--llama-bench", options.llama_bench, "llama.cpp's llama-bench, to run in turn")
      ->check(CLI::ExistingFile);
  app.add_option("--json", options.json_file, "File to write the results to");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures the prefill speed of the example engine.");
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    Engine engine(options);
    const std::vector<Samples> all = measure(options, engine);
    std::printf("%zu threads, chunks of %zu tokens, logits: %s\n", engine.threads(), options.chunk,
                options.logits.c_str());
    print(all);
    if (!options.json_file.empty()) {
      std::ofstream file(options.json_file);
      file << report(options, engine, all).dump(2) << '\n';
      if (!file) throw std::runtime_error("cannot write " + options.json_file);
    }
  } catch (const std::exception& error) {
    std::cerr << "infinipot-prefill: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
