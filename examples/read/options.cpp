#include "options.hpp"

#include <algorithm>

#include "arguments.hpp"
#include "infinipot/version.hpp"
#include "policies.hpp"

namespace reading {
namespace {

constexpr std::size_t most_tokens = std::size_t{1} << 24;

constexpr const char* footer =
    "Texts longer than the pot are distilled as they are read, so that memory stays the same.\n"
    "Several questions make a conversation: all documents, questions and answers go through one pot.\n"
    "The k-th --document, --answer-prefix, --answer and --needle belong to the k-th --question. There may\n"
    "be fewer of them than questions; and of the last three, an empty text means none for its question.\n"
    "The paper's own settings: --granularity head --over-queries sum --aggregate sum --kernel 1\n"
    "--alpha 0.5 --sinks 0 --catalyst @question.\n"
    "Exit status: 0, or 2 with one line on standard error that names the cause.";

/// What may be given several times, as it was given.
struct TurnTexts {
  std::vector<std::string> documents, questions, answer_prefixes, answers, needles;
};

void add_input(CLI::App& app, const Program& program, Options& o, TurnTexts& texts) {
  add_text(app, "--model", o.model, Text::not_empty, "FILE", program.model_help)->required();
  add_texts(app, "--document", texts.documents, Text::not_empty, "FILE|-",
            "text to read before the question; - is standard input. Further ones are read before further "
            "questions, one each")
      ->required();
  add_texts(app, "--question", texts.questions, Text::not_empty, "TEXT",
            "asked after the document. Each further one goes on with the conversation: it is asked after the "
            "answer that was generated before it")
      ->required();
  add_number<std::size_t>(app, "--max-tokens", o.max_tokens, {0, std::size_t{1} << 48},
                          "read no more tokens of each document than this", "all of it");
}

std::vector<std::string> policies(const Program& program) {
  std::vector<std::string> names{"infinipot", "cap",    "nuc",  "streaming_llm", "truncation",
                                 "reread",    "snapkv", "tova", "h2o",           "sirllm"};
  if (program.reads_entries)
    names.insert(names.end(),
                 {"knorm", "keydiff", "value_norm", "expected_attention", "temporal_redundancy"});
  if (program.context_shift) names.emplace_back("context_shift");
  names.emplace_back("full");
  return names;
}

void add_granularity(CLI::App& app, const Program& program, Options& o) {
  const std::vector<std::string>& words = program.granularities;
  const bool choice = words.size() > 1;
  add_choice(app, "--granularity", o.granularity, words, CLI::detail::join(words, "|"),
             choice ? "who keeps the same tokens: a kv head for itself, a layer's heads, or all"
                    : "who keeps the same tokens: all layers and heads, which are one in this store",
             choice ? std::string("shared for infinipot and reread") +
                          (program.pyramids ? ", or layer with --pyramid" : "") + ", head for the others"
                    : words.front());
}

void add_pot(CLI::App& app, const Program& program, Options& o) {
  add_number(app, "--pot", o.pot, {2, most_tokens}, "entries per layer and head (M)");
  add_number<std::size_t>(app, "--keep", o.keep, {1, most_tokens - 1},
                          "entries that a distillation keeps (C), fewer than the pot has", "half the pot");
  if (program.pyramids)
    add_number<double>(
        app, "--pyramid", o.pyramid, {1, 1e6},
        "layers keep numbers of entries that fall with depth (PyramidKV): the last one 1/X of what all keep "
        "on "
        "average, which is --keep, as --pot is the average of what they have room for; PyramidKV has 20. Not "
        "with --granularity shared",
        "all alike");
  const std::string shift =
      "context_shift keeps the header or the sinks and drops the older half of what follows, ";
  add_choice(app, "--policy", o.policy, policies(program), "NAME",
             "who decides what stays, where cap and nuc are infinipot with alpha 0 and 1, " +
                 (program.context_shift ? shift : "") +
                 "and full keeps everything in a pot as large as needed",
             o.policy);
  add_number(app, "--alpha", o.alpha, {0, 1}, "infinipot: share of the kept entries chosen by NuC");
  add_granularity(app, program, o);
  add_choice(
      app, "--aggregate", o.aggregate, {"sum", "max", "peak"}, "sum|max|peak",
      "infinipot, reread: how attention counts over heads that keep the same tokens: the sum, the largest "
      "share of a head's, or the largest",
      o.aggregate);
  add_choice(
      app, "--over-queries", o.over_queries, {"sum", "max"}, "sum|max",
      "infinipot: how attention counts over the catalyst's tokens and the query heads that share a kv head",
      o.over_queries);
  add_number<std::size_t>(
      app, "--kernel", o.kernel, {1, 65535, Bounds::odd},
      "smoothing over so many neighbouring tokens, by infinipot of CaP and NuC, by others of attention",
      "17 for infinipot, 9 for reread, 5 for snapkv");
  add_number(app, "--sinks", o.sinks, {0, most_tokens}, "first entries that always stay");
  add_number(app, "--recent", o.recent, {0, most_tokens}, "last entries that always stay");
  add_texts(
      app, "--catalyst", o.catalysts, Text::not_empty, "TEXT|@prompt|@question|@generic",
      "infinipot: prompt whose attention counts; @question is a blank line and the question of the turn, "
      "@prompt that and what follows it up to the answer, whose first words included, "
      "@generic a question about nothing in particular. Attention of several counts together. reread: what "
      "stands before text that is read again, where each of them stands for a request to repeat it [" +
          o.catalysts.front() + "]");
  add_number(app, "--window", o.window, {1, most_tokens}, "snapkv: last tokens whose attention counts");
  add_number(app, "--block", o.block, {1, std::size_t{1} << 16},
             "reread: tokens that are read again at once, behind the catalyst");
  add_number(app, "--layers", o.layers, {0, most_tokens},
             "reread, where heads of several layers choose together: attention in the model's first so many "
             "layers counts, or in all with 0");
  add_number(app, "--decay", o.decay, {0, 1, Bounds::open_below}, "sirllm: factor per distillation");
  if (!program.reads_entries) return;
  add_number(app, "--future", o.future, {1, most_tokens},
             "expected_attention: positions behind the pot at which queries are expected");
  add_number(app, "--period", o.period, {1, most_tokens},
             "temporal_redundancy: tokens of a frame; 1 for a text, where frames are tokens");
  add_number(app, "--frames", o.frames, {1, most_tokens},
             "temporal_redundancy: last frames, which always stay and with which earlier ones are compared");
}

void add_answer(CLI::App& app, Options& o, TurnTexts& texts) {
  add_texts(app, "--answer-prefix", texts.answer_prefixes, Text::may_be_empty, "TEXT",
            "first words of the answer, given to the model [none]");
  add_texts(app, "--answer", texts.answers, Text::may_be_empty, "TEXT",
            "expected answer, whose cross-entropy is measured after the prefix [none]");
  add_texts(app, "--needle", texts.needles, Text::may_be_empty, "TEXT",
            "phrase of a document read so far: how much of it is in the pot when the answer begins? [none]");
  add_number(app, "--generate", o.generate, {0, most_tokens}, "most tokens to generate for each answer");
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
           "write the answers and what was measured as JSON; - is standard output [none]");
  add_text(
      app, "--report", o.report, Text::not_empty, "FILE.html",
      "write a page that shows, for every distillation, which layers and heads held which token of the text, "
      "with CaP and NuC [none]");
  app.add_flag(
      "--report-kept", o.report_kept,
      wrapped("also write to the JSON which positions of the text are in the pot when the last answer "
              "begins, as its first layer and head have them [no]"));
  app.add_flag(
      "--nuc", o.nuc,
      wrapped("also write to the JSON, under every policy, NuC of all tokens that are read before the "
              "last answer begins: how unexpected each was, nats [no]"));
  add_number<std::size_t>(
      app, "--timeline", o.timeline, {1, std::size_t{1} << 48},
      "also write to the JSON, every so many tokens, the seconds since the start of reading "
      "and the memory that is resident",
      "none");
}

void add_more(CLI::App& app, const Program& program, Options& o) {
  for (const MoreOption& more : program.more_options) {
    std::string& target = o.*more.target = more.fallback;
    const std::string fallback = more.fallback.empty() ? "none" : more.fallback;
    if (more.words.empty())
      add_text(app, more.name, target, Text::may_be_empty, more.type, more.meaning + " [" + fallback + "]");
    else
      add_choice(app, more.name, target, more.words, more.type, more.meaning, fallback);
  }
}

/// Gives the k-th of some texts to the k-th turn. Throws UsageError if there are too many.
void distribute(const std::vector<std::string>& texts, const char* option, std::string Turn::*member,
                std::vector<Turn>& turns) {
  if (texts.size() > turns.size())
    throw UsageError(std::string(option) + ": given " + std::to_string(texts.size()) +
                     " times, but there may be at most " + std::to_string(turns.size()) +
                     ", one for each question (see --help)");
  for (std::size_t k = 0; k < texts.size(); ++k) turns[k].*member = texts[k];
}

std::vector<Turn> turns_of(const TurnTexts& texts) {
  std::vector<Turn> turns(texts.questions.size());
  distribute(texts.questions, "--question", &Turn::question, turns);
  distribute(texts.documents, "--document", &Turn::document, turns);
  distribute(texts.answer_prefixes, "--answer-prefix", &Turn::answer_prefix, turns);
  distribute(texts.answers, "--answer", &Turn::answer, turns);
  distribute(texts.needles, "--needle", &Turn::needle, turns);
  if (std::count(texts.documents.begin(), texts.documents.end(), "-") > 1)
    throw UsageError("--document: standard input (-) can be read once only");
  return turns;
}

/// What can be told without the model: every prompt has a header, every catalyst a token.
void check(const Options& options) {
  if (options.policy == "full") return;
  with_policy(options, {{{0}}}, [&](const auto& policy) { check_room(policy, options, 0); });
}

}  // namespace

std::optional<Options> parse_options(const Program& program, int argc, const char* const* argv) {
  Options options;
  TurnTexts texts;
  CLI::App app("Reads documents of any length through a fixed amount of KV memory and answers questions.",
               program.name);
  app.get_formatter()->column_width(names_width);
  app.footer(footer);
  app.set_help_flag("-h,--help", "print this help and exit");
  app.set_version_flag("--version",
                       std::to_string(infinipot::version_major) + "." +
                           std::to_string(infinipot::version_minor) + "." +
                           std::to_string(infinipot::version_patch),
                       "print the version and exit");
  add_input(app, program, options, texts);
  add_pot(app, program, options);
  add_answer(app, options, texts);
  add_running(app, options);
  add_more(app, program, options);
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
  options.turns = turns_of(texts);
  complete(options, program);
  check(options);
  return options;
}

}  // namespace reading
