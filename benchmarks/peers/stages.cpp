// infinipot-stages: times the library's stages one by one, so that another program can take turns with it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "distillation_stages.hpp"
#include "infinipot/element.hpp"
#include "nuc_stages.hpp"
#include "stage.hpp"

namespace {

struct Options {
  peers::Case distillation{{1, 32, 8, 128}, 4096, 32, 2048, 500000};
  std::size_t rows = 256, vocab = 49152;
  std::string element = "f32";
  peers::Inputs inputs;
  std::size_t repeat = 5, threads = 1;
  bool serve = false;
};

/// All stages. Their inputs are loaded when the first of them is asked for.
class Workbench {
 public:
  explicit Workbench(const Options& options) : options_(options) {}

  /// Throws std::invalid_argument for a stage that does not exist.
  const peers::Stage& operator[](const std::string& name) {
    const bool is_nuc = name.starts_with("nuc");
    peers::Stages& stages = is_nuc ? nuc_ : distillation_;
    if (stages.empty()) stages = is_nuc ? nuc() : distillation();
    const auto found = stages.find(name);
    if (found == stages.end()) throw std::invalid_argument("no stage '" + name + "'");
    return found->second;
  }

 private:
  peers::Stages nuc() const {
    return peers::nuc_stages(options_.rows, options_.vocab, options_.inputs, options_.threads);
  }

  peers::Stages distillation() const {
    const auto& c = options_.distillation;
    if (c.catalyst >= c.entries || c.keep > c.read())
      throw std::invalid_argument("--catalyst " + std::to_string(c.catalyst) + " and --keep " +
                                  std::to_string(c.keep) + " do not fit in --entries " +
                                  std::to_string(c.entries));
    const peers::Inputs& inputs = options_.inputs;
    const std::size_t threads = options_.threads;
    if (options_.element == "f16") return peers::distillation_stages<infinipot::f16>(c, inputs, threads);
    if (options_.element == "bf16") return peers::distillation_stages<infinipot::bf16>(c, inputs, threads);
    return peers::distillation_stages<infinipot::f32>(c, inputs, threads);
  }

  const Options& options_;
  peers::Stages distillation_, nuc_;
};

/// "time STAGE COUNT": milliseconds of each of COUNT runs, elapsed and of the processor. "write STAGE FILE":
/// runs the stage once and writes its result.
std::string answer(Workbench& stages, const std::string& request) {
  std::istringstream words(request);
  std::string verb, name, rest;
  words >> verb >> name >> std::ws;
  std::getline(words, rest);
  std::ostringstream reply;
  if (verb == "time") {
    for (const peers::Sample& sample : peers::time(stages[name], std::stoul(rest)))
      reply << sample.elapsed << ' ' << sample.processor << ' ';
  } else if (verb == "write") {
    const peers::Stage& stage = stages[name];
    if (!stage.write) throw std::invalid_argument("stage '" + name + "' has no result");
    peers::time(stage, 1);
    std::ofstream file(rest, std::ios::binary);
    stage.write(file);
    if (!file.flush()) throw std::runtime_error("cannot write '" + rest + "'");
    reply << "written";
  } else {
    throw std::invalid_argument("unknown request '" + verb +
                                "'; there are 'time STAGE COUNT' and 'write STAGE FILE'");
  }
  return reply.str();
}

/// Answers each line of standard input with one line.
void serve(Workbench& stages) {
  for (std::string line; std::getline(std::cin, line);) {
    std::string reply;
    try {
      reply = "ok " + answer(stages, line);
    } catch (const std::exception& error) {
      reply = std::string("error ") + error.what();
    }
    std::cout << reply << std::endl;
  }
}

/// Of the elapsed time.
double median(std::vector<peers::Sample> samples) {
  std::ranges::sort(samples, {}, &peers::Sample::elapsed);
  return (samples[(samples.size() - 1) / 2].elapsed + samples[samples.size() / 2].elapsed) / 2;
}

void print_all(Workbench& stages, std::size_t repeat) {
  std::printf("%-10s %12s %12s %8s\n", "stage", "ms", "limit, ms", "ratio");
  for (const std::string name : {"cap", "select", "compact", "nuc"}) {
    peers::time(stages[name], 1);  // warm-up
    peers::time(stages[name + "_limit"], 1);
    const double ours = median(peers::time(stages[name], repeat));
    const double limit = median(peers::time(stages[name + "_limit"], repeat));
    std::printf("%-10s %12.4f %12.4f %8.2f\n", name.c_str(), ours, limit, ours / limit);
  }
}

void add_options(CLI::App& app, Options& options) {
  peers::Case& c = options.distillation;
  const auto number = [&](const char* name, std::size_t& value, const char* help) {
    app.add_option(name, value, help)->check(CLI::PositiveNumber)->capture_default_str();
  };
  number("--layers", c.shape.layers, "Layers");
  number("--query-heads", c.shape.query_heads, "Query heads");
  number("--kv-heads", c.shape.kv_heads, "KV heads");
  number("--head-dim", c.shape.head_dim, "Channels per head");
  number("--entries", c.entries, "Entries of the full pot, the catalyst's included");
  number("--catalyst", c.catalyst, "Tokens of the catalyst");
  number("--keep", c.keep, "Entries to keep");
  app.add_option("--theta", c.theta, "Base of RoPE")->check(CLI::PositiveNumber)->capture_default_str();
  number("--rows", options.rows, "Tokens to score by NuC");
  number("--vocab", options.vocab, "Logits per token");
  app.add_option("--element", options.element, "Type of keys and values")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  app.add_option(
         "--inputs", options.inputs.folder,
         "Folder of keys.f32, values.f32, queries.f32, scores.f32, logits.f32 and tokens.i32, raw and "
         "little-endian; random numbers without one")
      ->check(CLI::ExistingDirectory);
  number("--repeat", options.repeat, "Runs of each stage");
  app.add_option("--threads", options.threads, "Threads of every stage and of its limit")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--serve", options.serve,
               "Answer 'time STAGE COUNT' and 'write STAGE FILE' from standard input, line by line");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times the stages of a distillation.");
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    Workbench stages(options);
    options.serve ? serve(stages) : print_all(stages, options.repeat);
  } catch (const std::exception& error) {
    std::cerr << "infinipot-stages: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
