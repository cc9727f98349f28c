// Reads each text once, with everything in the pot, and lets copies be distilled once by many settings: what
// would each have lost? Two hundred times as fast as reading the text for every setting, and close enough to
// tell settings apart; what is chosen so must prove itself in the loop (infinipot-needle, infinipot-tasks).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "nlohmann/json.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/pool_executor.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2_text.hpp"
#include "texts.hpp"
#include "turn.hpp"

namespace {

using infinipot::Granularity;
using infinipot::Token;
using nlohmann::json;
using Pot = infinipot::Pot<float>;
using Engine = smollm2::LlamaEngine<Pot>;
using Reader = infinipot::Ccd<Engine, Pot, infinipot::Infinipot, smollm2::PoolExecutor>;

constexpr const char* about =
    "Standard input has a JSON object per line: document (a file), question, answer_prefix, answer, keep "
    "(entries), and "
    "settings: {name: options of infinipot-read}, of which --alpha, --granularity, --over-queries, "
    "--aggregate, "
    "--kernel and --catalyst count. Standard output gets one per line: tokens, and answer_nll: {name: nats "
    "per "
    "token}, where full is with nothing dropped; or error, what is wrong with a line.";

/// What infinipot-read would make of the job's texts and some options of its own. Throws UsageError.
reading::Options options_of(const std::string& model, const json& job, const std::string& settings) {
  std::vector<std::string> arguments{"infinipot-read",   "--model",          model,
                                     "--document",       job.at("document"), "--question",
                                     job.at("question"), "--answer-prefix",  job.at("answer_prefix"),
                                     "--answer",         job.at("answer")};
  std::istringstream words(settings);
  for (std::string word; words >> word;) arguments.push_back(word);
  std::vector<const char*> raw;
  for (const std::string& argument : arguments) raw.push_back(argument.c_str());
  std::optional<reading::Options> options = reading::parse_options(
      {.name = "infinipot-read", .model_help = "GGUF file"}, static_cast<int>(raw.size()), raw.data());
  if (!options) throw reading::UsageError("settings ask for help, and measure nothing: " + settings);
  return *options;
}

class DistilOnce {
 public:
  DistilOnce(std::string model, std::size_t threads) : DistilOnce(smollm2::GgufFile(model), model, threads) {}

  /// Throws what is wrong with a job.
  json run(const json& job) {
    reading::Options options = options_of(model_, job, "");
    options.keep = job.at("keep");
    std::vector<std::pair<std::string, infinipot::InfinipotSettings>> all;
    std::size_t room = 1;
    for (const auto& [name, words] : job.at("settings").items()) {
      all.emplace_back(name, settings_of(options_of(model_, job, words)));
      room = std::max(room, infinipot::Infinipot(all.back().second).longest_probe());
    }

    std::vector<reading::Prompt> prompts =
        reading::prompts_of(text_, options, reading::open_documents(options));
    const std::vector<Token> answer = reading::texts_of(text_, options).answers.front();
    const std::size_t tokens = prompts.front().record();
    const std::size_t capacity = tokens + answer.size() + room;
    Pot pot({.shape = weights_.config().shape(), .capacity = capacity, .rope = weights_.config().rope()});
    Engine engine(weights_, pot, threads_, std::max(options.chunk, room));
    Reader reader(engine, pot,
                  infinipot::Infinipot({.catalysts = {std::vector<Token>(1)}, .alpha = 0.5, .room = room}),
                  {.keep = options.keep, .sinks = options.sinks, .chunk = options.chunk},
                  smollm2::PoolExecutor(threads_));
    std::vector<Token> question;
    prompts.front().feed_to([&](std::span<const Token> piece, reading::Part part) {
      if (part == reading::Part::question)
        question.insert(question.end(), piece.begin(), piece.end());
      else
        reader.feed(piece, part == reading::Part::header ? infinipot::Retention::pinned
                                                         : infinipot::Retention::evictable);
    });

    json nll;
    const auto measure = [&](const std::string& name, const infinipot::InfinipotSettings* settings) {
      Pot copy = pot.fork();
      Engine copy_engine(weights_, copy, threads_, std::max(options.chunk, room));
      Reader fork = reader.fork(copy_engine, copy);
      if (settings != nullptr) {
        fork.set_policy(infinipot::Infinipot(*settings));
        fork.distil();
      }
      fork.feed(question);
      nll[name] = reading::answer_nll(fork, answer);
    };
    measure("full", nullptr);
    for (const auto& [name, settings] : all) measure(name, &settings);
    return {{"tokens", tokens - question.size()}, {"answer_nll", nll}};
  }

 private:
  DistilOnce(const smollm2::GgufFile& file, std::string model, std::size_t threads)
      : model_(std::move(model)), text_(file), threads_(threads), weights_(file, threads_) {}

  infinipot::InfinipotSettings settings_of(const reading::Options& options) const {
    infinipot::InfinipotSettings settings =
        reading::infinipot_settings(options, reading::texts_of(text_, options).catalysts, 0);
    // The pot is one of heads, so that all settings can have copies of it.
    settings.scope = reading::granularity_of(options);
    return settings;
  }

  std::string model_;
  reading::Smollm2Text text_;
  smollm2::ThreadPool threads_;
  smollm2::LlamaWeights weights_;
};

}  // namespace

int main(int argc, char** argv) {
  std::string model;
  std::size_t threads = 0;
  CLI::App app("Distils copies of texts once, by many settings.", "infinipot-distil-once");
  app.footer(about);
  app.add_option("--model", model, "GGUF file of a Llama model")->required()->check(CLI::ExistingFile);
  app.add_option("--threads", threads, "Threads; 0 is one per core")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    DistilOnce distil_once(model, threads);
    for (std::string line; std::getline(std::cin, line);) {
      json result;
      try {
        result = distil_once.run(json::parse(line));
      } catch (const std::exception& error) {
        result = {{"error", error.what()}};
      }
      std::cout << result.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
    }
  } catch (const std::exception& error) {
    std::cerr << "infinipot-distil-once: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
