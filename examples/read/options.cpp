#include "options.hpp"

#include <CLI/CLI.hpp>
#include <iostream>

#include "infinipot/version.hpp"

namespace reading {
namespace {

constexpr const char* footer =
    "Texts longer than the pot are distilled as they are read, so that memory stays the same.\n"
    "The paper's own settings: --granularity head --aggregate sum --kernel 1 --alpha 0.5 --sinks 0.\n"
    "Exit status: 0, or 2 with one line on standard error that names the cause.";

void add_input(CLI::App& app, Options& options) {
  app.add_option("--model", options.model, "GGUF file of a Llama model (F32, F16, BF16, Q8_0, Q4_0, Q4_1)")
      ->required()
      ->type_name("FILE");
  app.add_option("--document", options.document, "text to read; - is standard input")
      ->required()
      ->type_name("FILE|-");
  app.add_option("--question", options.question, "asked after the document")->required()->type_name("TEXT");
  app.add_option("--max-tokens", options.max_tokens, "read no more tokens of the document than this")
      ->type_name("N");
}

void add_pot(CLI::App& app, Options& options) {
  app.add_option("--pot", options.pot, "entries per layer and head (M)")
      ->capture_default_str()
      ->type_name("N")
      ->check(CLI::Range(std::size_t{2}, std::size_t{1} << 24));
  app.add_option("--keep", options.keep, "entries that a distillation keeps (C) [half the pot]")
      ->type_name("N");
  app.add_option("--policy", options.policy, "who decides what stays; full keeps everything")
      ->capture_default_str()
      ->check(CLI::IsMember({"infinipot", "streaming_llm", "snapkv", "tova", "h2o", "sirllm", "full"}))
      ->type_name("NAME");
  app.add_option("--alpha", options.alpha, "infinipot: share of the kept entries chosen by NuC, 0 .. 1")
      ->capture_default_str()
      ->type_name("X")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option(
         "--granularity", options.granularity,
         "who keeps the same tokens: each kv head for itself, each layer, or all [shared for infinipot, "
         "head for the others]")
      ->type_name("head|layer|shared")
      ->check(CLI::IsMember({"head", "layer", "shared"}));
  app.add_option("--aggregate", options.aggregate,
                 "infinipot: CaP over the heads that keep the same tokens, their sum or the largest share")
      ->capture_default_str()
      ->check(CLI::IsMember({"sum", "max"}))
      ->type_name("sum|max");
  app.add_option(
         "--kernel", options.kernel,
         "smoothing over so many neighbouring tokens, odd [9 for infinipot (CaP and NuC), 5 for snapkv]")
      ->type_name("N");
  app.add_option("--sinks", options.sinks, "first entries that always stay")
      ->capture_default_str()
      ->type_name("N");
  app.add_option("--recent", options.recent, "last entries that always stay")
      ->capture_default_str()
      ->type_name("N");
  app.add_option(
         "--catalyst", options.catalyst,
         "infinipot: prompt whose attention counts; @question is a blank line and the question, @generic a "
         "question about nothing in particular")
      ->capture_default_str()
      ->type_name("TEXT");
  app.add_option("--window", options.window, "snapkv: last tokens whose attention counts")
      ->capture_default_str()
      ->type_name("N");
  app.add_option("--decay", options.decay, "sirllm: factor per distillation, above 0 up to 1")
      ->capture_default_str()
      ->type_name("X");
}

void add_answer(CLI::App& app, Options& options) {
  app.add_option("--answer-prefix", options.answer_prefix, "first words of the answer, given to the model")
      ->type_name("TEXT");
  app.add_option("--answer", options.answer,
                 "expected answer, whose cross-entropy is measured after the prefix")
      ->type_name("TEXT");
  app.add_option("--needle", options.needle, "phrase of the document: how much of it is still in the pot?")
      ->type_name("TEXT");
  app.add_option("--generate", options.generate, "most tokens to generate")
      ->capture_default_str()
      ->type_name("N");
  app.add_option("--temperature", options.temperature, "of sampling; 0 takes the most probable token")
      ->capture_default_str()
      ->type_name("X");
  app.add_option("--top-p", options.top_p, "sample from the fewest tokens that reach this probability")
      ->capture_default_str()
      ->type_name("X");
  app.add_option("--seed", options.seed, "of sampling")->capture_default_str()->type_name("N");
}

void add_running(CLI::App& app, Options& options) {
  app.add_option("--chunk", options.chunk, "tokens per forward pass")
      ->capture_default_str()
      ->type_name("N")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 16));
  app.add_option("--threads", options.threads, "threads [one per core]")
      ->type_name("N")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1024}));
  app.add_option("--json", options.json, "write what was measured as JSON; - is standard output")
      ->type_name("FILE|-");
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app("Reads a document of any length through a fixed amount of KV memory and answers a question.",
               "infinipot-read");
  app.footer(footer);
  app.set_version_flag("--version", std::to_string(infinipot::version_major) + "." +
                                        std::to_string(infinipot::version_minor) + "." +
                                        std::to_string(infinipot::version_patch));
  add_input(app, options);
  add_pot(app, options);
  add_answer(app, options);
  add_running(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    app.exit(success);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    throw UsageError(std::string(error.what()) + " (see --help)");
  }
  if (options.question.empty()) throw UsageError("--question: the question is empty");
  return options;
}

}  // namespace reading
