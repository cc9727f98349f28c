#include "options.hpp"

#include "arguments.hpp"
#include "infinipot/version.hpp"
#include "policies.hpp"

namespace reading {
namespace {

constexpr std::size_t most_tokens = std::size_t{1} << 24;

constexpr const char* footer =
    "Texts longer than the pot are distilled as they are read, so that memory stays the same.\n"
    "The paper's own settings: --granularity head --aggregate sum --kernel 1 --alpha 0.5 --sinks 0.\n"
    "Exit status: 0, or 2 with one line on standard error that names the cause.";

void add_input(CLI::App& app, Options& o) {
  add_text(app, "--model", o.model, Text::not_empty, "FILE",
           "GGUF file of a Llama model (F32, F16, BF16, Q8_0, Q4_0, Q4_1)")
      ->required();
  add_text(app, "--document", o.document, Text::not_empty, "FILE|-", "text to read; - is standard input")
      ->required();
  add_text(app, "--question", o.question, Text::not_empty, "TEXT", "asked after the document")->required();
  add_number<std::size_t>(app, "--max-tokens", o.max_tokens, {0, std::size_t{1} << 48},
                          "read no more tokens of the document than this", "all of it");
}

void add_pot(CLI::App& app, Options& o) {
  add_number(app, "--pot", o.pot, {2, most_tokens}, "entries per layer and head (M)");
  add_number<std::size_t>(app, "--keep", o.keep, {1, most_tokens - 1},
                          "entries that a distillation keeps (C), fewer than the pot has", "half the pot");
  add_choice(app, "--policy", o.policy,
             {"infinipot", "streaming_llm", "snapkv", "tova", "h2o", "sirllm", "full"}, "NAME",
             "who decides what stays, where full keeps everything in a pot as large as needed", o.policy);
  add_number(app, "--alpha", o.alpha, {0, 1}, "infinipot: share of the kept entries chosen by NuC");
  add_choice(app, "--granularity", o.granularity, {"head", "layer", "shared"}, "head|layer|shared",
             "who keeps the same tokens: a kv head for itself, a layer's heads, or all",
             "shared for infinipot, head for the others");
  add_choice(app, "--aggregate", o.aggregate, {"sum", "max"}, "sum|max",
             "infinipot: how CaP counts over heads that keep the same tokens", o.aggregate);
  add_number<std::size_t>(
      app, "--kernel", o.kernel, {1, 65535, Bounds::odd},
      "smoothing over so many neighbouring tokens, by infinipot of CaP and NuC, by snapkv of attention",
      "9 for infinipot, 5 for snapkv");
  add_number(app, "--sinks", o.sinks, {0, most_tokens}, "first entries that always stay");
  add_number(app, "--recent", o.recent, {0, most_tokens}, "last entries that always stay");
  add_text(app, "--catalyst", o.catalyst, Text::not_empty, "TEXT|@question|@generic",
           "infinipot: prompt whose attention counts; @question is a blank line and the question, @generic a "
           "question about nothing in particular [" +
               o.catalyst + "]");
  add_number(app, "--window", o.window, {1, most_tokens}, "snapkv: last tokens whose attention counts");
  add_number(app, "--decay", o.decay, {0, 1, Bounds::open_below}, "sirllm: factor per distillation");
}

void add_answer(CLI::App& app, Options& o) {
  add_text(app, "--answer-prefix", o.answer_prefix, Text::may_be_empty, "TEXT",
           "first words of the answer, given to the model [none]");
  add_text(app, "--answer", o.answer, Text::may_be_empty, "TEXT",
           "expected answer, whose cross-entropy is measured after the prefix [none]");
  add_text(app, "--needle", o.needle, Text::may_be_empty, "TEXT",
           "phrase of the document: how much of it is in the pot when the answer begins? [none]");
  add_number(app, "--generate", o.generate, {0, most_tokens}, "most tokens to generate");
  add_number(app, "--temperature", o.temperature, {0, 1000},
             "of sampling, where 0 takes the most probable token");
  add_number(app, "--top-p", o.top_p, {0, 1, Bounds::open_below},
             "sample from the fewest tokens that reach this probability");
  add_number(app, "--seed", o.seed, {0, UINT64_MAX}, "of sampling");
}

void add_running(CLI::App& app, Options& o) {
  add_number(app, "--chunk", o.chunk, {1, std::size_t{1} << 16}, "tokens per forward pass");
  add_number<std::size_t>(app, "--threads", o.threads, {1, 1024}, "threads that compute", "one per core");
  add_text(app, "--json", o.json, Text::not_empty, "FILE|-",
           "write the answer and what was measured as JSON; - is standard output [none]");
}

/// What can be told without the model: every prompt has a header, every catalyst a token.
void check(const Options& options) {
  if (options.policy == "full") return;
  with_policy(options, {0}, [&](const auto& policy) { check_room(policy, options, 0); });
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app("Reads a document of any length through a fixed amount of KV memory and answers a question.",
               "infinipot-read");
  app.get_formatter()->column_width(names_width);
  app.footer(footer);
  app.set_help_flag("-h,--help", "print this help and exit");
  app.set_version_flag("--version",
                       std::to_string(infinipot::version_major) + "." +
                           std::to_string(infinipot::version_minor) + "." +
                           std::to_string(infinipot::version_patch),
                       "print the version and exit");
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
    // CLI11 would rather complain of what is missing; a mistyped option may be why.
    const std::vector<std::string> unknown = app.remaining();
    if (!unknown.empty())
      throw UsageError("unknown argument " + smollm2::quoted(unknown.front()) + " (see --help)");
    throw UsageError(std::string(error.what()) + " (see --help)");
  }
  complete(options);
  check(options);
  return options;
}

}  // namespace reading
