#include "options.hpp"

#include <algorithm>
#include <iostream>
#include <utility>

#include "argument_list.hpp"
#include "arguments.hpp"
#include "conversations.hpp"
#include "infinipot/version.hpp"
#include "option_checks.hpp"
#include "policies.hpp"

namespace reading {
namespace {

constexpr std::size_t most_tokens = std::size_t{1} << 24;

constexpr const char* description =
    "Reads documents of any length through a fixed amount of KV memory and answers questions.";

constexpr const char* about_texts =
    "A text longer than the pot is distilled as it is read, so memory stays the same.\n"
    "Several questions make a conversation: all documents, questions and answers go through one pot.\n"
    "The k-th --document, --answer-prefix, --answer and --needle belong to the k-th --question. There may\n"
    "be fewer of them than questions; an empty --answer-prefix, --answer or --needle means none.\n"
    "To a single question belong all --needle.\n"
    "Where questions can come later (--chat, --archive, --save) there may be more documents.\n";

constexpr const char* about_archive =
    "An archive keeps all that was read; before an answer, what the question needs of it is brought back.\n"
    "--archive with --document reads on; without, it asks an archive that exists, which stays as it is.\n";

constexpr const char* about_exit =
    "The answer appears as it is generated. Ctrl-C ends it, and the program once what there is has been\n"
    "written; a second one ends the program at once. In a chat it ends the answer alone, and the program\n"
    "where it waits for a question. Files are written whole or not at all, but for the archive, which\n"
    "grows while reading and keeps what it has.\n"
    "Exit status: 0; 1 if --check finds something; 2 with a line on standard error that names the\n"
    "cause; 130 after Ctrl-C.";

/// What may be given several times, in the order given.
struct TurnTexts {
  std::vector<std::string> documents, questions, terms, answer_prefixes, answers, needles;
};

/// Options that are added from now on belong to this group of the help.
void start_group(CLI::App& app, const char* name) { app.option_defaults()->group(name); }

/// The options of a group that only this program has.
void add_more(CLI::App& app, const Program& program, Options& o, const std::string& group) {
  for (const MoreOption& more : program.more_options) {
    if (more.group != group) continue;
    std::string& target = o.*more.target = more.fallback;
    const std::string fallback = more.fallback.empty() ? "none" : more.fallback;
    if (more.words.empty())
      add_text(app, more.name, target, Text::may_be_empty, more.type, more.meaning + " [" + fallback + "]");
    else
      add_choice(app, more.name, target, more.words, more.type, more.meaning, fallback);
  }
}

void add_input(CLI::App& app, const Program& program, Options& o, TurnTexts& texts) {
  start_group(app, "Model and text");
  add_text(app, "--model", o.model, Text::not_empty, "FILE", program.model_help)->required();
  if (program.parallel) {
    add_text(
        app, "--conversations", o.conversations, Text::not_empty, "FILE",
        "read the documents and answer the questions of many conversations, which share the context [none]");
    add_number<std::size_t>(app, "--parallel", o.parallel, {1, 256, Bounds::technical},
                            "conversations that run at once, in one batch",
                            std::to_string(usual_parallel) + ", with --conversations");
  }
  add_texts(app, "--document", texts.documents, Text::not_empty, "FILE|-",
            "text to read before the question; - is standard input. The k-th is read before the k-th "
            "question");
  add_text(app, "--pin", o.pin, Text::not_empty, "TEXT",
           "text to read before everything, which always stays, such as the column names of a table [none]");
  add_texts(app, "--question", texts.questions, Text::not_empty, "TEXT",
            "what to ask after the document. Each further question continues the conversation");
  app.add_flag("--chat", o.chat, wrapped("go on with questions from standard input, one a line [no]"));
  add_texts(app, "--terms", texts.terms, Text::may_be_empty, "TEXT",
            "words of the question that matter, without instructions: what has rare ones of them near stays "
            "(see --term-share) [the question]");
  add_texts(app, "--answer-prefix", texts.answer_prefixes, Text::may_be_empty, "TEXT",
            "first words of the answer, given to the model [none]");
  add_number<std::size_t>(app, "--max-tokens", o.max_tokens, {0, std::size_t{1} << 48, Bounds::technical},
                          "read at most N tokens of each document", "all");
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

std::string about_policy(const std::string& name) {
  if (name == "cap") return " (infinipot with --alpha 0)";
  if (name == "nuc") return " (infinipot with --alpha 1)";
  if (name == "context_shift") return " (drops the older half of what follows the header or the sinks)";
  if (name == "full") return " (keeps everything, in a pot as large as it takes)";
  return {};
}

void add_policy(CLI::App& app, const Program& program, Options& o) {
  const std::vector<std::string> names = policies(program);
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name + about_policy(name);
  add_choice(app, "--policy", o.policy, names, "NAME", "what decides which entries stay: " + list,
             usual_policy + std::string("; with --archive, ") + usual_policy_of_archive);
}

void add_granularity(CLI::App& app, const Program& program, Options& o) {
  const std::vector<std::string>& words = program.granularities;
  const bool choice = words.size() > 1;
  add_choice(app, "--granularity", o.granularity, words, CLI::detail::join(words, "|"),
             choice ? "what chooses its own tokens: each kv head, each layer, or the model as a whole"
                    : "all layers and heads keep the same tokens: this cache holds a token for all of them",
             choice ? "shared for infinipot, reread and with --archive, head for the others" : words.front());
}

void add_pot(CLI::App& app, const Program& program, Options& o) {
  start_group(app, pot_group);
  add_number(app, "--pot", o.pot, {2, most_tokens, Bounds::technical}, "entries per layer and head (M)");
  add_number<std::size_t>(app, "--keep", o.keep, {1, most_tokens - 1, Bounds::technical},
                          "entries that a distillation keeps (C), fewer than --pot", "half the pot");
  add_policy(app, program, o);
  add_granularity(app, program, o);
  add_number(app, "--sinks", o.sinks, {0, most_tokens, Bounds::technical},
             "first entries, which always stay");
  add_number(app, "--recent", o.recent, {0, most_tokens, Bounds::technical},
             "last entries, which always stay");
  add_more(app, program, o, pot_group);
}

void add_infinipot(CLI::App& app, Options& o) {
  start_group(app, "Policies infinipot, cap and nuc");
  add_number(app, "--alpha", o.alpha, {0, 1},
             "share of the kept entries that NuC chooses; CaP chooses the rest");
  add_texts(
      app, "--catalyst", o.catalysts, Text::not_empty, "TEXT|@prompt|@question|@generic",
      "prompt whose attention scores the entries. @question is a blank line and the turn's question; "
      "@prompt is that and all that follows up to the answer, its first words included; @generic is a "
      "question about nothing in particular. Given several times, the attention of all counts. For reread it "
      "is what stands before the text that is read again, and each @word a request to repeat it [" +
          o.catalysts.front() + "]");
  add_number(
      app, "--term-share", o.term_share, {0, 1},
      "share of the kept entries that have rare words of the question near, which CaP then leaves; if a "
      "catalyst is the question, or there are --terms; in recalls too");
  add_choice(app, "--over-queries", o.over_queries, {"sum", "max"}, "sum|max",
             "how to combine attention over the catalyst's tokens, and over query heads that share a kv head",
             o.over_queries);
  add_choice(app, "--over-heads", o.over_heads, {"sum", "max", "max_share"}, "sum|max|max_share",
             "how to combine attention over heads that keep the same tokens, for reread too; max_share takes "
             "the largest share of a head's total",
             o.over_heads);
  add_number<std::size_t>(app, "--kernel", o.kernel, {1, 65535, Bounds::odd},
                          "neighbouring tokens over which scores are smoothed, for reread and snapkv too",
                          "49 for infinipot, 17 if --keep is below 490, 9 for reread, 5 for snapkv");
  add_number<std::size_t>(
      app, "--lag", o.lag, {0, 32767, Bounds::technical},
      "how far before an entry these lie, at most half of --kernel: what follows a peak stays rather than "
      "what precedes it; in recalls too",
      "16 for infinipot, 0 if --kernel is given or --keep below 490");
  add_number<std::size_t>(
      app, "--layers", o.layers, {0, most_tokens, Bounds::technical},
      "with --granularity shared, run catalysts through the model's first N layers only; 0 "
      "takes all; for reread too",
      "0 for infinipot, 8 for reread");
}

void add_policies(CLI::App& app, const Program& program, Options& o) {
  add_infinipot(app, o);
  start_group(app, "Policy reread");
  add_number(app, "--block", o.block, {1, std::size_t{1} << 16, Bounds::technical},
             "tokens to read again at once, after the catalyst");
  start_group(app, "Policy snapkv");
  add_number(app, "--window", o.window, {1, most_tokens, Bounds::technical},
             "last tokens, whose attention scores the others");
  start_group(app, "Policy sirllm");
  add_number(app, "--decay", o.decay, {0, 1, Bounds::open_below},
             "factor on a token's score for each distillation that it has survived");
  if (!program.reads_entries) return;
  start_group(app, "Policy expected_attention");
  add_number(app, "--future", o.future, {1, most_tokens, Bounds::technical},
             "positions after the pot at which queries are expected");
  start_group(app, "Policy temporal_redundancy");
  add_number(app, "--period", o.period, {1, most_tokens, Bounds::technical},
             "tokens per frame; 1 for a text, where each token is a frame");
  add_number(app, "--frames", o.frames, {1, most_tokens, Bounds::technical},
             "last frames, which always stay and with which earlier ones are compared");
}

void add_archive(CLI::App& app, const Program& program, Options& o) {
  start_group(app, "Archive");
  add_text(app, "--archive", o.archive, Text::not_empty, "FILE",
           "keep all that is read in this file, or go on with it, or ask it [none]");
  add_choice(app, "--archive-type", o.archive_type, program.archive_types,
             CLI::detail::join(program.archive_types, "|"),
             program.archive_types.size() > 1
                 ? "what is kept of keys and values; tokens keeps none, so that a recall reads them anew"
                 : "this cache cannot be written by rows, so a recall reads the tokens anew",
             "that of the file; of a new one, " + program.archive_types.front());
  add_bytes(app, "--archive-limit", o.archive_limit,
            "most bytes of the archive, such as 500M or 2G: the oldest makes room for the new", "none");
  add_number<std::size_t>(app, "--recall", o.recall, {0, 64, Bounds::technical},
                          "steps of recall before each answer: the first by the question, each further one "
                          "also by a draft of the answer from the one before; 0 for none",
                          std::to_string(usual_recall));
  add_choice(app, "--read-anew", o.read_anew, {"yes", "no"}, "yes|no",
             "feed what a recall found once more as text, so that it sees one another", o.read_anew);
  if (!program.owns_pots) return;
  add_number<std::size_t>(app, "--recall-pot", o.recall_pot, {2, most_tokens, Bounds::technical},
                          "entries of a pot for recalls alone, with memory of its own", "the reader's pot");
}

void add_saving(CLI::App& app, const Program& program, Options& o) {
  if (!program.owns_pots) return;
  start_group(app, "Pot files");
  add_text(app, "--save", o.save, Text::not_empty, "FILE", "write the pot, as it is in the end [none]");
  add_text(app, "--load", o.load, Text::not_empty, "FILE",
           "go on from a pot that was saved, with the same model and settings [none]");
}

void add_answer(CLI::App& app, Options& o) {
  start_group(app, "Answer");
  add_number(app, "--generate", o.generate, {0, most_tokens, Bounds::technical},
             "generate at most N tokens for each answer");
  add_number(app, "--temperature", o.temperature, {0, 1000, Bounds::technical},
             "temperature of sampling; 0 takes the most probable token");
  add_number(app, "--top-p", o.top_p, {0, 1, Bounds::open_below},
             "sample from the fewest tokens whose probabilities add up to this");
  add_number(app, "--seed", o.seed, {0, UINT64_MAX, Bounds::technical}, "seed of sampling");
}

void add_output(CLI::App& app, Options& o, TurnTexts& texts) {
  start_group(app, "Measurements and output");
  add_texts(app, "--answer", texts.answers, Text::may_be_empty, "TEXT",
            "expected answer: measure its cross-entropy after the prefix [none]");
  add_texts(app, "--needle", texts.needles, Text::may_be_empty, "TEXT",
            "phrase of a document read so far that the answer rests on: measure how much of it is in the pot "
            "when the answer begins [none]");
  add_text(
      app, "--json", o.json, Text::not_empty, "FILE|-",
      "write answers and measurements as JSON; - is standard output, which then has nothing else [none]");
  add_text(app, "--report", o.report, Text::not_empty, "FILE.html",
           "write a page that shows which layers and heads held each token of the text after every "
           "distillation, with CaP and NuC [none]");
  app.add_flag(
      "--report-kept", o.report_kept,
      wrapped("add to the JSON which positions of the text are in the pot when the last answer begins, "
              "in its first layer and head [no]"));
  app.add_flag("--nuc", o.nuc,
               wrapped("add to the JSON the NuC of every token read before the last answer begins: how "
                       "unexpected it was, in nats; under any policy, also for --report [no]"));
  add_number<std::size_t>(app, "--timeline", o.timeline, {1, std::size_t{1} << 48, Bounds::technical},
                          "add to the JSON, every N tokens, the seconds since reading began and the resident "
                          "memory",
                          "none");
}

void add_running(CLI::App& app, const Program& program, Options& o) {
  start_group(app, running_group);
  add_number(app, "--chunk", o.chunk, {1, std::size_t{1} << 16, Bounds::technical},
             "tokens per forward pass");
  add_number<std::size_t>(app, "--threads", o.threads, {1, 1024, Bounds::technical}, "threads that compute",
                          "one per core");
  add_more(app, program, o, running_group);
  app.add_flag(
      "--check", o.check,
      wrapped("instead of reading, check that model, pot and engine fit together: RoPE, rows, queries and "
              "logits; needs --model alone. The exit status is 1 if something is wrong [no]"));
  app.set_help_flag("-h,--help", "print this help and exit");
  app.set_version_flag("--version",
                       std::to_string(infinipot::version_major) + "." +
                           std::to_string(infinipot::version_minor) + "." +
                           std::to_string(infinipot::version_patch),
                       "print the version and exit");
}

/// Throws UsageError if there are more texts than turns.
void check_number(const std::vector<std::string>& texts, const char* option, const std::vector<Turn>& turns) {
  if (texts.size() > turns.size())
    throw UsageError(std::string(option) + ": given more often (" + std::to_string(texts.size()) +
                     ") than --question (" + std::to_string(turns.size()) + ") (see --help)");
}

/// Gives the k-th of some texts to the k-th turn. Throws UsageError if there are too many.
void distribute(const std::vector<std::string>& texts, const char* option, std::string Turn::*member,
                std::vector<Turn>& turns) {
  check_number(texts, option, turns);
  for (std::size_t k = 0; k < texts.size(); ++k) turns[k].*member = texts[k];
}

/// A single turn takes all of them.
void distribute_needles(const std::vector<std::string>& needles, std::vector<Turn>& turns) {
  if (turns.size() != 1) check_number(needles, "--needle", turns);
  for (std::size_t k = 0; k < needles.size(); ++k)
    if (!needles[k].empty()) turns[turns.size() == 1 ? 0 : k].needles.push_back(needles[k]);
}

/// A turn for each question and, where questions can come later or are missing, for each document.
std::vector<Turn> turns_of(const Options& options, const TurnTexts& texts) {
  std::size_t count = texts.questions.size();
  if (asks_later(options) || count == 0) count = std::max(count, texts.documents.size());
  std::vector<Turn> turns(count);
  distribute(texts.questions, "--question", &Turn::question, turns);
  distribute(texts.documents, "--document", &Turn::document, turns);
  distribute(texts.terms, "--terms", &Turn::terms, turns);
  distribute(texts.answer_prefixes, "--answer-prefix", &Turn::answer_prefix, turns);
  distribute(texts.answers, "--answer", &Turn::answer, turns);
  distribute_needles(texts.needles, turns);
  return turns;
}

/// Where a file has all of them.
void refuse_texts(const TurnTexts& texts) {
  for (const auto& [name, given] : {std::pair("--document", &texts.documents),
                                    {"--question", &texts.questions},
                                    {"--terms", &texts.terms},
                                    {"--answer-prefix", &texts.answer_prefixes},
                                    {"--answer", &texts.answers},
                                    {"--needle", &texts.needles}})
    if (!given->empty())
      throw UsageError(std::string(name) +
                       ": not with --conversations, whose file has all texts (see --help)");
}

[[noreturn]] void refuse_unknown(const std::string& argument) {
  const std::string cause = argument.starts_with('-')
                                ? "unknown argument " + smollm2::quoted(argument)
                                : smollm2::quoted(argument) +
                                      " belongs to no option: several words that are one "
                                      "value need quotes";
  throw UsageError(cause + " (see --help)");
}

/// Checks what needs no model; every catalyst has at least one token.
void check(const Options& options) {
  if (options.policy == "full") return;
  with_policy(options, {{{{0}}, {0}}}, [&](const auto& policy) { check_fits(policy, options, 0); });
}

}  // namespace

std::optional<Options> parse_options(const Program& program, int argc, const char* const* argv) {
  Options options;
  TurnTexts texts;
  CLI::App app(description, program.name);
  app.get_formatter()->column_width(names_width);
  app.footer(about_texts + ((program.parallel ? about_conversations : "") + (about_archive + program.notes)) +
             about_exit);
  options.policy.clear();  // complete() knows the usual one
  add_input(app, program, options, texts);
  add_archive(app, program, options);
  add_saving(app, program, options);
  add_pot(app, program, options);
  add_policies(app, program, options);
  add_answer(app, options);
  add_output(app, options, texts);
  add_running(app, program, options);
  try {
    std::vector<std::string> arguments = argument_list(app, argc, argv);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    app.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    std::cout << CLI::detail::find_and_replace(app.help(), "\n\n\n",
                                               "\n\n");  // CLI11 leaves two lines between groups
    return std::nullopt;
  } catch (const CLI::Success& success) {
    app.exit(success);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    // CLI11 would complain of what is missing, but a mistyped option may be why.
    const std::vector<std::string> unknown = app.remaining();
    if (!unknown.empty()) refuse_unknown(unknown.front());
    throw UsageError(std::string(error.what()) + " (see --help)");
  }
  if (!options.conversations.empty()) refuse_texts(texts);
  options.turns = turns_of(options, texts);
  options.conversations.empty() ? check_turns(options) : check_conversations(options);
  complete(options, program);
  if (!options.conversations.empty() && options.parallel == 0) options.parallel = usual_parallel;
  check_needs(options);
  check(options);
  return options;
}

}  // namespace reading
