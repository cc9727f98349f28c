// infinipot-llama-cost: what reading through a pot costs llama.cpp, step by step, against its own plain
// prefill.
#include <llama-cpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "tokens.hpp"

namespace {

using infinipot::Granularity;
using infinipot::Token;
using llama_cpp::CachePot;
using llama_cpp::ContextSettings;
using llama_cpp::Engine;
using llama_cpp::GraphTap;
using llama_cpp::benchmark::first_tokens;
using llama_cpp::benchmark::median;

struct Options {
  std::string model, document, json;
  std::size_t tokens = 8192, pot = 2048, keep = 1024, chunk = 256, catalyst = 16, repeat = 3;
  int threads = 2;
  std::string cache_type = "f16";
  bool flash_attention = false;
};

/// What a run needs. Each makes its own context.
struct Setting {
  const Options& options;
  llama_model& model;
  std::vector<Token> text, catalyst;

  ContextSettings context() const {
    return {.cells = options.pot,
            .batch = options.chunk,
            .threads = options.threads,
            .cache_type = options.cache_type == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16,
            .flash_attention = options.flash_attention};
  }
};

/// Tokens that are read one by one just after a distillation.
constexpr std::size_t tokens_after = 32;

double seconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// llama.cpp alone, without callbacks.
class Plain {
 public:
  explicit Plain(const Setting& setting)
      : setting_(setting),
        context_(llama_init_from_model(&setting.model, llama_cpp::context_parameters(setting.context()))),
        batch_(llama_batch_init(static_cast<std::int32_t>(setting.options.chunk), 0, 1)) {
    if (context_ == nullptr) throw std::runtime_error("cannot make a context");
  }
  Plain(const Plain&) = delete;
  Plain& operator=(const Plain&) = delete;
  ~Plain() { llama_batch_free(batch_); }

  /// At most a chunk of the text's tokens, at the end of the cache.
  void decode(std::size_t first, std::size_t count, bool all_logits) {
    batch_.n_tokens = static_cast<std::int32_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      batch_.token[i] = setting_.text[first + i];
      batch_.pos[i] = static_cast<llama_pos>(position_ + i);
      batch_.n_seq_id[i] = 1;
      batch_.seq_id[i][0] = 0;
      batch_.logits[i] = all_logits || i + 1 == count;
    }
    if (llama_decode(context_.get(), batch_) != 0) throw std::runtime_error("llama_decode failed");
    llama_synchronize(context_.get());
    position_ += count;
  }

  void cut(std::size_t size) {
    llama_memory_seq_rm(llama_get_memory(context_.get()), 0, static_cast<llama_pos>(size), -1);
    position_ = size;
  }

  std::size_t position() const { return position_; }

 private:
  const Setting& setting_;
  llama_context_ptr context_;
  llama_batch batch_;
  std::size_t position_ = 0;
};

/// Chunks go through a context of the pot's size. Where a distillation would be due, the last entries are cut
/// off to leave as many as it would keep, so that attention spans as many as with a pot.
double plain(const Setting& setting, bool all_logits) {
  const Options& o = setting.options;
  const std::size_t limit = o.pot - o.catalyst;
  Plain context(setting);
  return seconds([&] {
    for (std::size_t done = 0, count = 0; done < setting.text.size(); done += count) {
      if (context.position() == limit) context.cut(o.keep);
      count = std::min({o.chunk, setting.text.size() - done, limit - context.position()});
      context.decode(done, count, all_logits);
    }
  });
}

/// Single tokens behind as many entries as a distillation keeps, and one.
double plain_tokens(const Setting& setting) {
  const Options& o = setting.options;
  Plain context(setting);
  const std::size_t entries = o.keep + 1;
  for (std::size_t done = 0, count = 0; done < entries; done += count) {
    count = std::min(o.chunk, entries - done);
    context.decode(done, count, false);
  }
  return seconds([&] {
    for (std::size_t i = 0; i < tokens_after; ++i) context.decode(entries + i, 1, true);
  });
}

/// A pot that cuts off its end instead of choosing and moving.
struct CutPot : CachePot {
  using CachePot::CachePot;
  void keep(const infinipot::Selection& kept) { truncate(kept.keep()); }
};

/// The library's loop over llama.cpp.
template <class Pot>
class Reading {
 public:
  Reading(const Setting& setting, double alpha, Granularity granularity, bool k_shift = false)
      : setting_(setting),
        context_(llama_cpp::make_context(setting.model, tap_, setting.context())),
        pot_(tap_, *context_, 0,
             {.capacity = setting.options.pot,
              .max_keep = setting.options.keep,
              .granularity = granularity,
              .k_shift = k_shift}),
        engine_(tap_, pot_),
        reader_(engine_, pot_, infinipot::Infinipot(policy(setting, alpha)),
                {.keep = setting.options.keep, .chunk = setting.options.chunk}) {}

  double feed(std::size_t first, std::size_t count) {
    return seconds([&] { reader_.feed(std::span(setting_.text).subspan(first, count)); });
  }

  std::size_t entries() const { return pot_.entries().size(); }

 private:
  static infinipot::InfinipotSettings policy(const Setting& setting, double alpha) {
    infinipot::InfinipotSettings policy;
    policy.alpha = alpha;
    policy.over_heads = infinipot::ReduceHeads::max_share;
    policy.kernel = 9;
    // Even where no catalyst runs, so that all distil at the same size.
    policy.longest_catalyst = setting.options.catalyst;
    if (alpha < 1) policy.catalysts = {setting.catalyst};
    return policy;
  }

  const Setting& setting_;
  GraphTap tap_;
  llama_context_ptr context_;
  Pot pot_;
  Engine engine_;
  infinipot::Ccd<Engine, Pot, infinipot::Infinipot> reader_;
};

template <class Pot>
double read(const Setting& setting, double alpha, Granularity granularity = Granularity::shared) {
  return Reading<Pot>(setting, alpha, granularity).feed(0, setting.text.size());
}

/// Single tokens just after a distillation. llama.cpp's own shifting shows no attention to choose by.
double tokens_behind(const Setting& setting, Granularity granularity, bool k_shift = false) {
  const Options& o = setting.options;
  Reading<CachePot> reading(setting, k_shift ? 1 : 0.25, granularity, k_shift);
  const std::size_t read = o.pot - o.catalyst + 1;
  reading.feed(0, read);
  if (reading.entries() != o.keep + 1) throw std::logic_error("not just after a distillation");
  double time = 0;
  for (std::size_t i = 0; i < tokens_after; ++i) time += reading.feed(read + i, 1);
  return time;
}

using Steps = std::vector<std::pair<std::string, std::function<double()>>>;
using Times = std::vector<std::vector<double>>;

Times in_turn(const Steps& steps, std::size_t rounds) {
  Times times(steps.size());
  for (std::size_t round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < steps.size(); ++i) times[i].push_back(steps[i].second());
  return times;
}

void run(const Options& o) {
  llama_cpp::keep_quiet();
  const llama_model_ptr model = llama_cpp::load_model(o.model);
  std::vector<Token> text = first_tokens(*model, o.document, o.tokens + o.catalyst);
  const std::vector<Token> catalyst(text.end() - static_cast<std::ptrdiff_t>(o.catalyst), text.end());
  text.resize(o.tokens);
  const Setting setting{o, *model, text, catalyst};

  // Each step includes those before it.
  const Steps steps{{"prefill", [&] { return plain(setting, false); }},
                    {"logits", [&] { return plain(setting, true); }},
                    {"callback_and_nuc", [&] { return read<CutPot>(setting, 1); }},
                    {"catalyst", [&] { return read<CutPot>(setting, 0.25); }},
                    {"choice", [&] { return read<CachePot>(setting, 0.25); }},
                    {"choice_per_head", [&] { return read<CachePot>(setting, 0.25, Granularity::head); }}};
  const Times times = in_turn(steps, o.repeat);
  const Steps tokens{{"llama.cpp", [&] { return plain_tokens(setting); }},
                     {"pot", [&] { return tokens_behind(setting, Granularity::shared); }},
                     {"pot_per_head", [&] { return tokens_behind(setting, Granularity::head); }},
                     {"k_shift", [&] { return tokens_behind(setting, Granularity::shared, true); }}};
  const Times token_times = in_turn(tokens, o.repeat);

  nlohmann::ordered_json result{{"model", std::filesystem::path(o.model).filename().string()},
                                {"tokens", o.tokens},
                                {"pot", o.pot},
                                {"keep", o.keep},
                                {"chunk", o.chunk},
                                {"catalyst", o.catalyst},
                                {"threads", o.threads},
                                {"cache_type", o.cache_type},
                                {"flash_attention", o.flash_attention}};
  const double prefill = median(times[0]);
  double before = 0;
  std::printf("%-18s %8s %10s %22s\n", "up to this step", "seconds", "tokens/s", "costs, of prefill");
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double time = median(times[i]);
    std::printf("%-18s %8.2f %10.0f %21.1f%%\n", steps[i].first.c_str(), time,
                static_cast<double>(o.tokens) / time, i == 0 ? 100 : 100 * (time - before) / prefill);
    result["steps"].push_back({{"step", steps[i].first}, {"seconds", time}, {"all_seconds", times[i]}});
    before = time;
  }
  const double beyond = (median(times[4]) - median(times[1])) / prefill;
  std::printf("beyond the logits: %.1f%% of prefill\n", 100 * beyond);
  result["beyond_logits"] = beyond;

  std::printf("\n%-18s %10s %22s\n", "after distilling", "tokens/s", "time, of llama.cpp's");
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const double time = median(token_times[i]), of_plain = time / median(token_times[0]);
    std::printf("%-18s %10.0f %21.1f%%\n", tokens[i].first.c_str(), static_cast<double>(tokens_after) / time,
                100 * of_plain);
    result["tokens_after"].push_back(
        {{"step", tokens[i].first}, {"seconds", time}, {"of_llama_cpp", of_plain}});
  }
  if (!o.json.empty()) std::ofstream(o.json) << result.dump(2) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app(
      "What reading through a pot costs llama.cpp: reads the same text through the same number of cells, "
      "with\n"
      "one thing more at each step: plain prefill, logits of every token, callback and NuC, catalyst, "
      "choice\n"
      "of entries, choice per head. Then what single tokens take just after a distillation, against "
      "llama.cpp's\n"
      "own behind as many entries. Steps take turns; prints medians.",
      "infinipot-llama-cost");
  app.add_option("--model", o.model, "GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--document", o.document, "text to read")->required()->check(CLI::ExistingFile);
  app.add_option("--tokens", o.tokens, "tokens to read")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--pot", o.pot, "entries (M)")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--keep", o.keep, "entries that a distillation keeps (C)")->capture_default_str();
  app.add_option("--chunk", o.chunk, "tokens per forward pass")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--catalyst", o.catalyst, "tokens of the catalyst")->capture_default_str();
  app.add_option("--threads", o.threads, "threads")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--repeat", o.repeat, "runs of each step")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--cache-type", o.cache_type, "f16 or q8_0")
      ->capture_default_str()
      ->check(CLI::IsMember({"f16", "q8_0"}));
  app.add_flag("--flash-attention", o.flash_attention, "with flash attention");
  app.add_option("--json", o.json, "file to write the results to");
  CLI11_PARSE(app, argc, argv);
  try {
    run(o);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "infinipot-llama-cost: %s\n", error.what());
    return 1;
  }
}
