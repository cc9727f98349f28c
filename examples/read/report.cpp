#include "report.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <tuple>

#include "conversations.hpp"
#include "whole_file.hpp"
#include "write_all.hpp"

namespace reading {
namespace {

using Json = nlohmann::ordered_json;

/// JSON has no infinity and no NaN: null, as for what was not measured.
Json number(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json(nullptr);
}

Json position(std::optional<std::uint64_t> value) { return value ? Json(*value) : Json(nullptr); }

Json text_or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

/// A setting of the turns: an array, unless there is one turn only.
template <class Get>
Json of_turns(const Options& options, const Get& get) {
  if (options.turns.size() == 1) return get(options.turns.front());
  Json values = Json::array();
  for (const Turn& turn : options.turns) values.push_back(get(turn));
  return values;
}

Json of_turns(const Options& options, std::string Turn::*text) {
  return of_turns(options, [text](const Turn& turn) { return Json(turn.*text); });
}

/// One is a text, as none is; several are an array.
Json needles_of(const Turn& turn) {
  if (turn.needles.size() > 1) return turn.needles;
  return turn.needles.empty() ? std::string() : turn.needles.front();
}

/// --cache-type becomes cache_type.
std::string setting_name(const std::string& option) {
  std::string name = option.substr(option.find_first_not_of('-'));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

Json settings(const Options& options, const Program& program) {
  Json json{{"model", options.model},
            {"document", of_turns(options, [](const Turn& turn) { return text_or_null(turn.document); })},
            {"question", of_turns(options, [](const Turn& turn) { return text_or_null(turn.question); })},
            {"pin", text_or_null(options.pin)},
            {"pot", options.pot},
            {"keep", options.keep},
            {"policy", options.policy},
            {"alpha", options.alpha},
            {"terms", of_turns(options, [](const Turn& turn) { return text_or_null(turn.terms); })},
            {"term_share", options.term_share},
            {"granularity", options.granularity},
            {"over_queries", options.over_queries},
            {"over_heads", options.over_heads},
            {"kernel", options.kernel},
            {"lag", options.lag.value_or(0)},
            {"sinks", options.sinks},
            {"recent", options.recent},
            {"catalyst", options.catalysts},
            {"answer_prefix", of_turns(options, &Turn::answer_prefix)},
            {"answer", of_turns(options, &Turn::answer)},
            {"needle", of_turns(options, needles_of)},
            {"max_tokens", options.max_tokens ? Json(*options.max_tokens) : Json(nullptr)},
            {"generate", options.generate},
            {"chunk", options.chunk},
            {"threads", options.threads},
            {"seed", options.seed},
            {"temperature", options.temperature},
            {"top_p", options.top_p},
            {"window", options.window},
            {"block", options.block},
            {"layers", options.layers.value_or(0)},
            {"decay", options.decay},
            {"future", options.future},
            {"period", options.period},
            {"frames", options.frames},
            {"chat", options.chat},
            {"archive", text_or_null(options.archive)},
            {"archive_type", text_or_null(options.archive_type)},
            {"archive_limit", options.archive_limit > 0 ? Json(options.archive_limit) : Json(nullptr)},
            {"recall", options.recall.value_or(0)},
            {"read_anew", options.read_anew},
            {"recall_pot", options.recall_pot > 0 ? Json(options.recall_pot) : Json(nullptr)},
            {"save", text_or_null(options.save)},
            {"load", text_or_null(options.load)}};
  if (program.parallel) {
    json["conversations"] = text_or_null(options.conversations);
    json["parallel"] = options.conversations.empty() ? Json(nullptr) : Json(options.parallel);
  }
  for (const MoreOption& more : program.more_options) json[setting_name(more.name)] = options.*more.target;
  return json;
}

Json to_json(const TurnReport& report, const Turn& turn) {
  const auto of = [](const auto& part, const auto& get) { return part ? Json(get(*part)) : Json(nullptr); };
  const auto& [archive, recall] = std::tie(report.archive, report.recall);
  return {{"question", text_or_null(turn.question)},
          {"document", text_or_null(turn.document)},
          {"document_tokens", report.document_tokens},
          {"document_position", position(report.document_position)},
          {"answer_prefix", turn.answer_prefix},
          {"answer_text", report.answer_text},
          {"answer_tokens", report.answer_tokens},
          {"answer_nll", number(report.answer_nll)},
          {"hit_rate", number(report.hit_rate)},
          {"gold_kept", number(report.gold_kept)},
          {"answer_kept", number(report.answer_kept)},
          {"ttft_seconds", number(report.ttft_seconds)},
          {"needle_position", position(report.needle_position)},
          {"needle_tokens", report.needle_tokens},
          {"interrupted", report.interrupted},
          {"archive_tokens", of(archive, [](const ArchiveReport& a) { return a.tokens; })},
          {"archive_bytes", of(archive, [](const ArchiveReport& a) { return a.bytes; })},
          {"archive_seconds", of(archive, [](const ArchiveReport& a) { return number(a.seconds); })},
          {"archive_ended", of(archive, [](const ArchiveReport& a) { return text_or_null(a.ended); })},
          {"recall_seconds", of(recall, [](const RecallReport& r) { return number(r.seconds); })},
          {"recall_steps", of(recall, [](const RecallReport& r) { return r.steps; })},
          {"recall_distillations", of(recall, [](const RecallReport& r) { return r.distillations; })},
          {"recalled_positions", of(recall, [](const RecallReport& r) { return r.positions; })}};
}

/// Nats, to four places: there may be millions.
Json to_json(const std::vector<float>& nuc) {
  Json json = Json::array();
  for (const float nats : nuc) json.push_back(number(std::round(static_cast<double>(nats) * 1e4) / 1e4));
  return json;
}

Json to_json(const std::vector<Sample>& timeline) {
  Json json = Json::array();
  for (const Sample& sample : timeline)
    json.push_back({{"tokens", sample.tokens},
                    {"seconds", number(sample.seconds)},
                    {"distillations", sample.distillations},
                    {"resident_bytes", sample.resident_bytes}});
  return json;
}

Json to_json(const Report& report, const Options& options, const Program& program) {
  const TurnReport last = report.last();
  Json turns = Json::array();
  for (std::size_t k = 0; k < report.turns.size(); ++k)
    turns.push_back(to_json(report.turns[k], options.turns[k]));
  Json json{{"document_tokens", report.document_tokens()},
            {"prompt_tokens", report.prompt_tokens()},
            {"pot_capacity", report.pot_capacity},
            {"pot_entries", report.pot_entries},
            {"distillations", report.distillations},
            {"nan_scores", report.nan_scores},
            {"pot_bytes", report.pot_bytes},
            {"full_cache_bytes", report.full_cache_bytes},
            {"peak_rss_bytes", report.peak_rss_bytes},
            {"prefill_seconds", number(report.prefill_seconds())},
            {"tokens_per_second", number(report.tokens_per_second())},
            {"ttft_seconds", number(last.ttft_seconds)},
            {"distill_seconds", number(report.distill_seconds)},
            {"catalyst_seconds", number(report.catalyst_seconds)},
            {"cap_seconds", number(report.cap_seconds)},
            {"interrupted", !report.interrupted.empty()},
            {"answer_text", last.answer_text},
            {"answer_tokens", last.answer_tokens},
            {"answer_nll", number(last.answer_nll)},
            {"hit_rate", number(last.hit_rate)},
            {"gold_kept", number(last.gold_kept)},
            {"answer_kept", number(last.answer_kept)},
            {"turns", turns}};
  if (report.kept) json["kept"] = *report.kept;
  if (!report.nuc.empty()) json["nuc"] = to_json(report.nuc);
  if (!report.timeline.empty()) json["timeline"] = to_json(report.timeline);
  json["settings"] = settings(options, program);
  return json;
}

/// A document of JSON to a file or to standard output.
void write_document(const std::string& path, const Json& json) {
  // Names of files may be anything.
  const std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace);
  if (path != "-") return write_whole("--json", path, text + "\n");
  try {
    write_all(STDOUT_FILENO, text + "\n");
  } catch (const std::system_error& error) {
    throw UsageError("cannot write to standard output: " + error.code().message());
  }
}

/// A line of Linux's /proc/self/status.
std::optional<std::uint64_t> status_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib = 0; word == name && status >> kib) return kib * 1024U;
  return std::nullopt;
}

double mib(std::uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

/// What print() says of the archive and the last recall.
void print_archive(const TurnReport& turn) {
  if (turn.archive)
    std::fprintf(stderr, "archive: %llu tokens in %.1f MiB%s%s\n",
                 static_cast<unsigned long long>(turn.archive->tokens), mib(turn.archive->bytes),
                 turn.archive->ended.empty() ? "" : "; it has ended: ", turn.archive->ended.c_str());
  if (turn.recall)
    std::fprintf(stderr, "recall: %zu steps, %llu distillations and %.2f s brought back %zu tokens\n",
                 turn.recall->steps, static_cast<unsigned long long>(turn.recall->distillations),
                 turn.recall->seconds, turn.recall->positions.size());
}

/// What print() says of one turn. `of` names it where there are several.
void print_turn(const TurnReport& report, const Turn& turn, const std::string& of) {
  if (report.answer_nll)
    std::fprintf(stderr, "answer NLL %.4f nats per token%s\n", *report.answer_nll, of.c_str());
  if (report.hit_rate)
    std::fprintf(stderr, "needle: %.1f %% still in the pot%s\n", 100 * *report.hit_rate, of.c_str());
  if (!turn.needles.empty() && !report.needle_position)
    std::fprintf(stderr, "the needle is not in the document%s\n", of.empty() ? "" : ("s read" + of).c_str());
}

}  // namespace

std::uint64_t Report::document_tokens() const {
  std::uint64_t sum = 0;
  for (const TurnReport& turn : turns) sum += turn.document_tokens;
  return sum;
}

std::uint64_t Report::prompt_tokens() const {
  std::uint64_t sum = 0;
  for (const TurnReport& turn : turns) sum += turn.prompt_tokens;
  return sum;
}

double Report::prefill_seconds() const {
  double sum = 0;
  for (const TurnReport& turn : turns) sum += turn.prefill_seconds;
  return sum;
}

void write_json(const std::string& path, const Report& report, const Options& options,
                const Program& program) {
  write_document(path, to_json(report, options, program));
}

void write_json(const std::string& path, const ConversationsReport& report, const Program& program) {
  Json json{{"seconds", number(report.seconds)},
            {"tokens", report.tokens},
            {"tokens_per_second", number(static_cast<double>(report.tokens) / report.seconds)},
            {"batches", report.batches},
            {"peak_rss_bytes", peak_rss_bytes()},
            {"conversations", Json::array()}};
  for (const ConversationReport& one : report.conversations) {
    Json of_one{{"name", one.name}, {"error", text_or_null(one.error)}};
    of_one.update(to_json(one.report, one.options, program));
    json["conversations"].push_back(std::move(of_one));
  }
  write_document(path, json);
}

std::string page_title(const Options& options, const Program& program) {
  const std::string document = options.turns.empty() ? std::string() : options.turns.front().document;
  return program.name + ": " + (document.empty() ? "no document" : document) + " through " +
         std::to_string(options.pot) + " entries by " + options.policy + " (" + options.granularity +
         "), of which a distillation keeps " + std::to_string(options.keep);
}

void print(const Report& report, const Options& options) {
  if (!report.interrupted.empty()) std::fprintf(stderr, "%s\n", report.interrupted.c_str());
  if (report.turns.empty()) return;
  std::fprintf(stderr,
               "%llu document tokens through %zu entries (%s): %llu distillations, pot %.1f MiB where a full "
               "cache takes %.1f MiB\n%.0f tokens/s, ",
               static_cast<unsigned long long>(report.document_tokens()), report.pot_capacity,
               options.policy.c_str(), static_cast<unsigned long long>(report.distillations),
               mib(report.pot_bytes), mib(report.full_cache_bytes), report.tokens_per_second());
  if (!options.turns.at(report.turns.size() - 1).question.empty())
    std::fprintf(stderr, "first token of the %sanswer after %.1f s, ", report.turns.size() > 1 ? "last " : "",
                 report.turns.back().ttft_seconds);
  std::fprintf(stderr, "distillation %.2f s in all, peak memory %.0f MiB\n", report.distill_seconds,
               mib(report.peak_rss_bytes));
  print_archive(report.turns.back());
  for (std::size_t k = 0; k < report.turns.size(); ++k)
    print_turn(report.turns[k], options.turns[k],
               report.turns.size() > 1 ? " (question " + std::to_string(k + 1) + ")" : "");
}

std::uint64_t resident_bytes() { return status_bytes("VmRSS:").value_or(0); }

std::uint64_t peak_rss_bytes() {
  // Of this program alone; getrusage() also knows what the process held before it became this program.
  if (const auto bytes = status_bytes("VmHWM:")) return *bytes;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024U;
}

}  // namespace reading
