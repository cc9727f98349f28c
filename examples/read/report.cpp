#include "report.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

namespace reading {
namespace {

using Json = nlohmann::ordered_json;

/// JSON knows no infinity and no NaN: null, as for what was not measured.
Json number(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json(nullptr);
}

Json settings(const Options& options) {
  return {{"model", options.model},
          {"document", options.document},
          {"question", options.question},
          {"pot", options.pot},
          {"keep", options.keep},
          {"policy", options.policy},
          {"alpha", options.alpha},
          {"granularity", options.granularity},
          {"aggregate", options.aggregate},
          {"kernel", options.kernel},
          {"sinks", options.sinks},
          {"recent", options.recent},
          {"catalyst", options.catalyst},
          {"answer_prefix", options.answer_prefix},
          {"answer", options.answer},
          {"needle", options.needle},
          {"max_tokens", options.max_tokens ? Json(*options.max_tokens) : Json(nullptr)},
          {"generate", options.generate},
          {"chunk", options.chunk},
          {"threads", options.threads},
          {"seed", options.seed},
          {"temperature", options.temperature},
          {"top_p", options.top_p},
          {"window", options.window},
          {"decay", options.decay}};
}

Json to_json(const Report& report, const Options& options) {
  return {{"document_tokens", report.document_tokens},
          {"prompt_tokens", report.prompt_tokens},
          {"pot_capacity", report.pot_capacity},
          {"pot_entries", report.pot_entries},
          {"distillations", report.distillations},
          {"nan_scores", report.nan_scores},
          {"pot_bytes", report.pot_bytes},
          {"full_cache_bytes", report.full_cache_bytes},
          {"peak_rss_bytes", report.peak_rss_bytes},
          {"prefill_seconds", number(report.prefill_seconds)},
          {"tokens_per_second", number(report.tokens_per_second)},
          {"ttft_seconds", number(report.ttft_seconds)},
          {"distill_seconds", number(report.distill_seconds)},
          {"catalyst_seconds", number(report.catalyst_seconds)},
          {"answer_text", report.answer_text},
          {"answer_tokens", report.answer_tokens},
          {"answer_nll", number(report.answer_nll)},
          {"hit_rate", number(report.hit_rate)},
          {"settings", settings(options)}};
}

double mib(std::uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

}  // namespace

void check_json_path(const std::string& path) {
  if (path.empty() || path == "-") return;
  const auto refuse = [&](const char* cause) {
    throw UsageError("--json: cannot write " + path + ": " + cause);
  };
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) refuse("it is a directory");
  if (access(path.c_str(), W_OK) == 0) return;
  if (errno != ENOENT) refuse(std::strerror(errno));
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) != 0) refuse(std::strerror(errno));
}

void write_json(const std::string& path, const Report& report, const Options& options) {
  // A generated answer may stop in the middle of a character.
  const std::string text = to_json(report, options).dump(2, ' ', false, Json::error_handler_t::replace);
  if (path == "-") {
    std::cout << text << "\n";
    return;
  }
  std::ofstream file(path);
  file << text << "\n";
  if (!file.flush()) throw UsageError("--json: cannot write " + path + ": " + std::strerror(errno));
}

void print(const Report& report, const Options& options) {
  if (options.json != "-") std::cout << report.answer_text << "\n";
  if (!std::cout.flush()) throw UsageError("cannot write to standard output");
  std::fprintf(
      stderr,
      "%llu document tokens through %zu entries (%s): %llu distillations, pot %.1f MiB where a full cache "
      "takes %.1f MiB\n%.0f tokens/s, first token of the answer after %.1f s, distillation %.2f s in all, "
      "peak "
      "memory %.0f MiB\n",
      static_cast<unsigned long long>(report.document_tokens), report.pot_capacity, options.policy.c_str(),
      static_cast<unsigned long long>(report.distillations), mib(report.pot_bytes),
      mib(report.full_cache_bytes), report.tokens_per_second, report.ttft_seconds, report.distill_seconds,
      mib(report.peak_rss_bytes));
  if (report.answer_nll) std::fprintf(stderr, "answer NLL %.4f nats per token\n", *report.answer_nll);
  if (report.hit_rate) std::fprintf(stderr, "needle: %.1f %% still in the pot\n", 100 * *report.hit_rate);
}

std::uint64_t peak_rss_bytes() {
  // Of this program alone; getrusage() also knows what the process held before it became this program.
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib = 0; word == "VmHWM:" && status >> kib) return kib * 1024U;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024U;
}

}  // namespace reading
