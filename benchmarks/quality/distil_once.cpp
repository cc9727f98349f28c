// Reads each text once, with everything in the pot, then distils copies of the pot once, by many settings:
// what would each have lost? That is much faster than reading the text for every setting, and close enough to
// tell them apart; what it chooses must prove itself in the loop (infinipot-needle, infinipot-tasks).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "document.hpp"
#include "gold.hpp"
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

constexpr const char* about =
    "Standard input has a JSON object per line: document (a file), question, answer_prefix, answer, keep\n"
    "(entries) and settings, {name: [options of infinipot-read]}, of which those of policies count. It may\n"
    "have gold, [phrases of the document that the answer rests on], and \"nll\": false, to ask nothing.\n"
    "Standard output answers each line with one: tokens and, as {name: value}, where \"full\" drops "
    "nothing,\n"
    "answer_nll (nats per token), gold_kept (share of gold's tokens in the pot, mean over lanes) and\n"
    "answer_kept (share of lanes with all of the answer where gold has it; null if it does not); or error,\n"
    "which says what is wrong with the line. Settings of the policy infinipot share one reading, unless\n"
    "--sinks or --recent differ, with streaming_llm and truncation; each other one reads for itself.";

/// The options that infinipot-read would have with the job's texts and these words. Throws UsageError.
reading::Options options_of(const std::string& model, const json& job,
                            const std::vector<std::string>& words) {
  const std::size_t keep = job.at("keep");
  std::vector<std::string> arguments{"infinipot-read",
                                     "--pot",  // of which half stay
                                     std::to_string(2 * keep),
                                     "--model",
                                     model,
                                     "--document",
                                     job.at("document"),
                                     "--question",
                                     job.at("question"),
                                     "--answer-prefix",
                                     job.at("answer_prefix"),
                                     "--answer",
                                     job.at("answer"),
                                     "--terms",
                                     job.value("terms", "")};
  arguments.insert(arguments.end(), words.begin(), words.end());
  std::vector<const char*> raw;
  raw.reserve(arguments.size());
  for (const std::string& argument : arguments) raw.push_back(argument.c_str());
  std::optional<reading::Options> options =
      reading::parse_options({.name = "infinipot-read", .model_help = "GGUF file", .reads_entries = true},
                             static_cast<int>(raw.size()), raw.data());
  if (!options) throw reading::UsageError("settings that ask for help measure nothing");
  if (options->policy == "full") throw reading::UsageError("--policy full is always measured");
  return *options;
}

/// Whether a copy of the pot that was filled with the `plain` options will do: the rest is up to the policy.
bool of_one_reading(const reading::Options& options, const reading::Options& plain) {
  const bool infinipot = options.policy == "infinipot" || options.policy == "cap" || options.policy == "nuc";
  return infinipot && options.sinks == plain.sinks && options.recent == plain.recent;
}

/// Whether positions alone decide, so that a copy of any pot will do.
bool by_place(const reading::Options& options) {
  return options.policy == "streaming_llm" || options.policy == "truncation";
}

/// Fed to every pot.
struct Texts {
  std::vector<Token> header = {}, document = {}, question = {}, answer = {};
  reading::Gold gold;
  bool asks = true;  ///< whether answers are measured
};

/// What is done to copies of one pot, by name.
struct Copies {
  std::vector<std::pair<std::string, infinipot::InfinipotSettings>> scored = {};
  std::vector<std::pair<std::string, reading::Options>> by_place = {};
};

/// What the settings of one text came to, {name: value} each.
struct Measured {
  json answer_nll = json::object(), gold_kept = json::object(), answer_kept = json::object();
};

json number(const std::optional<double>& value) { return value ? json(*value) : json(nullptr); }

class DistilOnce {
 public:
  DistilOnce(const std::string& model, std::size_t threads)
      : DistilOnce(smollm2::GgufFile(model), model, threads) {}

  /// Throws if something is wrong with the job.
  json run(const json& job) {
    const reading::Options plain = options_of(model_, job, {});
    const Texts texts = texts_of(plain, job);
    Copies together;
    Measured measured;
    for (const auto& [name, words] : job.at("settings").items()) {
      const reading::Options options = options_of(model_, job, words);
      if (of_one_reading(options, plain))
        together.scored.emplace_back(name, settings_of(options));
      else if (by_place(options))
        together.by_place.emplace_back(name, options);
      else
        alone(name, options, texts, measured);
    }
    copies(plain, texts, together, measured);
    json result{{"tokens", texts.header.size() + texts.document.size()}};
    if (texts.asks) result["answer_nll"] = measured.answer_nll;
    if (!texts.gold.found()) return result;
    result["gold_kept"] = measured.gold_kept;
    result["answer_kept"] = measured.answer_kept;
    return result;
  }

 private:
  DistilOnce(const smollm2::GgufFile& file, std::string model, std::size_t threads)
      : model_(std::move(model)), text_(file), threads_(threads), weights_(file, threads_) {}

  Texts texts_of(const reading::Options& options, const json& job) const {
    const auto gold = job.value("gold", std::vector<std::string>());
    Texts texts{.gold = reading::Gold(gold, options.turns.front().answer), .asks = job.value("nll", true)};
    texts.answer = reading::texts_of(text_, options).answers.front();
    std::vector<reading::Prompt> prompts =
        reading::prompts_of(text_, options, reading::open_documents(options));
    prompts.front().feed_to([&](std::span<const Token> piece, reading::Part part) {
      std::vector<Token>& text = part == reading::Part::header     ? texts.header
                                 : part == reading::Part::question ? texts.question
                                                                   : texts.document;
      text.insert(text.end(), piece.begin(), piece.end());
    });
    reading::show({&texts.gold, 1}, texts.header.size(), texts.document, text_);
    if (const auto missing = texts.gold.missing())
      throw std::invalid_argument("gold: \"" + *missing + "\" is not in the document");
    return texts;
  }

  infinipot::InfinipotSettings settings_of(const reading::Options& options) const {
    infinipot::InfinipotSettings settings =
        reading::infinipot_settings(options, reading::texts_of(text_, options).aims, 0);
    // The pot itself is of heads, so that copies of it serve all settings.
    settings.scope = reading::granularity_of(options);
    return settings;
  }

  Pot pot_of(std::size_t capacity, std::size_t keep, Granularity granularity) const {
    return Pot({.shape = weights_.config().shape(),
                .capacity = capacity,
                .max_keep = keep,
                .granularity = granularity,
                .rope = weights_.config().rope(capacity)});
  }

  static infinipot::CcdSettings ccd_settings(const reading::Options& options, const Pot& pot) {
    return {.keep = pot.max_keep(), .sinks = options.sinks, .recent = options.recent, .chunk = options.chunk};
  }

  /// Fills a pot with the header and the document, with `spare` entries for catalysts, and calls
  /// use(pot, reader).
  template <infinipot::Policy P, class Use>
  void read(const reading::Options& options, const Texts& texts, Granularity granularity, std::size_t spare,
            P policy, const Use& use) {
    const std::size_t tokens =
        texts.header.size() + texts.document.size() + texts.question.size() + texts.answer.size();
    // Gold alone may be shorter than what is kept of whole texts.
    Pot pot =
        pot_of(tokens + std::max<std::size_t>(spare, 1), std::min(options.keep, tokens - 1), granularity);
    Engine engine(weights_, pot, threads_, std::max(options.chunk, spare));
    infinipot::Ccd reader(engine, pot, std::move(policy), ccd_settings(options, pot),
                          smollm2::PoolExecutor(threads_));
    reader.feed(texts.header, infinipot::Retention::pinned);
    reader.feed(texts.document);
    use(pot, reader);
  }

  /// What is in the pot as it is now, and what it answers.
  template <class Reader>
  void measure(const std::string& name, const Pot& pot, Reader& reader, const Texts& texts,
               Measured& measured) const {
    measured.gold_kept[name] = number(texts.gold.kept(pot.entries()));
    measured.answer_kept[name] = number(texts.gold.answer_kept(pot.entries()));
    if (!texts.asks) return;
    reader.feed(texts.question);
    measured.answer_nll[name] = reading::answer_nll(reader, texts.answer);
  }

  void alone(const std::string& name, const reading::Options& options, const Texts& texts,
             Measured& measured) {
    const auto run = [&]<infinipot::Policy P>(P policy) {
      std::size_t spare = 0;
      if constexpr (infinipot::RunsProbes<P>) spare = policy.longest_probe();
      read(options, texts, reading::granularity_of(options), spare, std::move(policy),
           [&](const Pot& pot, auto& reader) {
             reader.distil();
             measure(name, pot, reader, texts, measured);
           });
    };
    reading::with_policy(options, reading::texts_of(text_, options).aims, run,
                         weights_.config().rope(options.pot));
  }

  void copies(const reading::Options& options, const Texts& texts, const Copies& all, Measured& measured) {
    std::size_t spare = 1;
    double alpha = 0;
    for (const auto& [name, settings] : all.scored) {
      spare = std::max(spare, infinipot::Infinipot(settings).longest_probe());
      if (settings.alpha > 0) alpha = 0.5;  // NuC, which costs logits of every token
    }
    // Only what this policy needs matters: copies get policies of their own.
    infinipot::Infinipot needs(
        {.catalysts = {std::vector<Token>(1)}, .alpha = alpha, .longest_catalyst = spare});
    read(options, texts, Granularity::head, spare, std::move(needs), [&](Pot& pot, auto& reader) {
      const auto measure_copy = [&](const std::string& name, const infinipot::InfinipotSettings* settings) {
        Pot copy = pot.fork();
        Engine engine(weights_, copy, threads_, std::max(options.chunk, spare));
        auto fork = reader.fork(engine, copy);
        if (settings != nullptr) {
          fork.set_policy(infinipot::Infinipot(*settings));
          fork.distil();
        }
        measure(name, copy, fork, texts, measured);
      };
      measure_copy("full", nullptr);
      for (const auto& [name, settings] : all.scored) measure_copy(name, &settings);
      for (const auto& [name, own] : all.by_place) {
        const auto run = [&](auto policy) {
          go_on(name, own, texts, pot, reader.memory(), std::move(policy), measured);
        };
        own.policy == "truncation" ? run(infinipot::Truncation()) : run(infinipot::StreamingLlm());
      }
    });
  }

  /// Goes on with a copy of the pot by another policy, which distils.
  template <infinipot::Policy P>
  void go_on(const std::string& name, const reading::Options& options, const Texts& texts, const Pot& pot,
             std::span<const std::byte> memory, P policy, Measured& measured) {
    Pot copy = pot_of(pot.capacity(), pot.max_keep(), pot.granularity());
    Engine engine(weights_, copy, threads_, options.chunk);
    infinipot::Ccd reader(engine, copy, std::move(policy), ccd_settings(options, copy),
                          smollm2::PoolExecutor(threads_));
    copy.assign(pot, pot.size());
    reader.resume(memory);
    reader.distil();
    measure(name, copy, reader, texts, measured);
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
