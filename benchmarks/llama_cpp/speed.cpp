// infinipot-speed: how fast the example engine reads a prompt and generates, next to llama.cpp on the same
// file.
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
  std::vector<std::size_t> depths{16, 1024};
  std::size_t generate = 64;
  std::size_t threads = 0;
  std::size_t chunk = 256;
  std::size_t repeat = 5;
  std::string logits = "last";
  std::string llama_bench;
  std::string json_file;
};

/// What is timed.
struct Work {
  enum class Kind { prefill, decode };

  Kind kind;
  std::size_t depth;   ///< tokens already read
  std::size_t tokens;  ///< tokens that follow, all at once or one by one

  const char* name() const { return kind == Kind::prefill ? "prefill" : "decode"; }
  bool operator==(const Work&) const = default;
};

/// Prompts, each read from the start, and generation after others.
std::vector<Work> all_work(const Options& options) {
  std::vector<Work> all;
  for (const std::size_t length : options.lengths) all.push_back({Work::Kind::prefill, 0, length});
  if (options.generate > 0)
    for (const std::size_t depth : options.depths)
      all.push_back({Work::Kind::decode, depth, options.generate});
  return all;
}

/// Tokens per second of one program, one number a run.
struct Samples {
  std::string program;
  Work work;
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

/// The engine over a pot that holds all tokens of any work.
class Engine {
 public:
  explicit Engine(const Options& options)
      : options_(options),
        pool_(options.threads),
        weights_(smollm2::GgufFile(options.model), pool_),
        pot_(settings(options, weights_.config())),
        engine_(weights_, pot_, pool_, options.chunk) {}

  std::size_t threads() const { return pool_.size(); }

  double tokens_per_second(const Work& work) {
    const std::vector<infinipot::Token> tokens = random_tokens(work.depth + work.tokens);
    read(tokens, 0, work.depth);
    const auto start = std::chrono::steady_clock::now();
    if (work.kind == Work::Kind::prefill) {
      read(tokens, 0, work.tokens);
    } else {
      generate(tokens, work.depth);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return static_cast<double>(work.tokens) / seconds.count();
  }

 private:
  static infinipot::PotSettings settings(const Options& options, const smollm2::LlamaConfig& config) {
    infinipot::PotSettings settings;
    settings.shape = config.shape();
    settings.capacity = 2;
    for (const Work& work : all_work(options))
      settings.capacity = std::max(settings.capacity, work.depth + work.tokens);
    settings.rope = config.rope(settings.capacity);
    return settings;
  }

  using Tokens = std::span<const infinipot::Token>;

  /// Tokens first .. end - 1 at their positions, a chunk at a time.
  void read(Tokens tokens, std::size_t first, std::size_t end) {
    for (; first < end; first += options_.chunk) {
      const std::size_t count = std::min(options_.chunk, end - first);
      const std::size_t unwanted = first + count < end ? count : count - 1;
      const Tokens targets = tokens.subspan(first + 1, count - 1);
      Unread sink(options_.logits == "last" ? unwanted : 0, options_.logits == "nuc" ? targets : Tokens());
      engine_.forward(tokens.subspan(first, count), first, sink);
    }
  }

  /// The tokens from `first` on, one by one, with the logits of each, as if each had been sampled.
  void generate(Tokens tokens, std::size_t first) {
    for (; first < tokens.size(); ++first) {
      Unread sink(0, {});
      engine_.forward(tokens.subspan(first, 1), first, sink);
    }
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

/// llama.cpp's rate, run once after its own warm-up. It computes the last logits of a prompt only.
double llama_cpp_rate(const Options& options, std::size_t threads, const Work& work, bool flash_attention) {
  const std::string tokens = std::to_string(work.tokens);
  const std::string what = work.kind == Work::Kind::prefill ? " -n 0 -p " + tokens : " -p 0 -n " + tokens;
  const std::string command = shell_quoted(options.llama_bench) + " -m " + shell_quoted(options.model) +
                              " -t " + std::to_string(threads) + what + " -d " + std::to_string(work.depth) +
                              " -r 1 -fa " + (flash_attention ? "1" : "0") + " -o json 2>/dev/null";
  return json::parse(output_of(command)).at(0).at("avg_ts").get<double>();
}

/// Runs the programs in turn, so that a machine that slows down does so for all of them.
std::vector<Samples> measure(const Options& options, Engine& engine) {
  std::vector<Samples> all;
  for (const Work& work : all_work(options)) {
    Samples ours{"infinipot", work, {}}, plain{"llama.cpp", work, {}}, flash{"llama.cpp, flash", work, {}};
    engine.tokens_per_second(work);  // warm-up
    for (std::size_t run = 0; run < options.repeat; ++run) {
      ours.rates.push_back(engine.tokens_per_second(work));
      if (options.llama_bench.empty()) continue;
      plain.rates.push_back(llama_cpp_rate(options, engine.threads(), work, false));
      flash.rates.push_back(llama_cpp_rate(options, engine.threads(), work, true));
    }
    for (Samples* samples : {&ours, &plain, &flash})
      if (!samples->rates.empty()) all.push_back(std::move(*samples));
  }
  return all;
}

/// The median of infinipot for the same work, over that of `samples`.
double ratio(const std::vector<Samples>& all, const Samples& samples) {
  const auto ours =
      std::find_if(all.begin(), all.end(), [&](const Samples& s) { return s.work == samples.work; });
  return ours->median() / samples.median();
}

void print(const std::vector<Samples>& all) {
  std::printf("%-8s %7s %7s  %-18s %10s %10s %10s %13s\n", "work", "depth", "tokens", "program", "tokens/s",
              "slowest", "fastest", "infinipot is");
  for (const Samples& s : all) {
    const auto [slowest, fastest] = std::minmax_element(s.rates.begin(), s.rates.end());
    std::printf("%-8s %7zu %7zu  %-18s %10.1f %10.1f %10.1f %12.2fx\n", s.work.name(), s.work.depth,
                s.work.tokens, s.program.c_str(), s.median(), *slowest, *fastest, ratio(all, s));
  }
}

json report(const Options& options, const Engine& engine, const std::vector<Samples>& all) {
  json results = json::array();
  for (const Samples& s : all)
    results.push_back({{"work", s.work.name()},
                       {"depth", s.work.depth},
                       {"tokens", s.work.tokens},
                       {"program", s.program},
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
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--generate", options.generate, "Tokens to generate; 0 measures prompts alone")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--depth", options.depths, "Tokens read before those generated")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0 is one per core")->capture_default_str();
  app.add_option("--chunk", options.chunk, "Tokens per forward pass")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--repeat", options.repeat, "Runs of each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option(
         "--logits", options.logits,
         "Logits of a prompt to compute: of all tokens, of the last, or of the last and the NuC of all")
      ->check(CLI::IsMember({"all", "last", "nuc"}))
      ->capture_default_str();
  app.add_option("--llama-bench", options.llama_bench, "llama.cpp's llama-bench, to run in turn")
      ->check(CLI::ExistingFile);
  app.add_option("--json", options.json_file, "File to write the results to");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures how fast the example engine reads and generates.");
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
    std::cerr << "infinipot-speed: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
