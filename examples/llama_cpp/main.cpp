// infinipot-llama: llama.cpp reads a long document through a pot and answers a question.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "find_cache.hpp"
#include "graph_tap.hpp"
#include "model.hpp"
#include "parallel.hpp"
#include "policies.hpp"
#include "run_program.hpp"
#include "text.hpp"

namespace llama_cpp {
namespace {

using reading::Options;

constexpr std::pair<const char*, ggml_type> cache_types[] = {
    {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16}, {"q8_0", GGML_TYPE_Q8_0},
    {"q5_1", GGML_TYPE_Q5_1}, {"q5_0", GGML_TYPE_Q5_0}, {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0}};

ggml_type cache_type(const std::string& name) {
  return std::ranges::find(cache_types, name, [](const auto& type) { return std::string(type.first); })
      ->second;
}

std::vector<std::string> separated(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

/// A context, the pot in its first sequence, and space for a fork in its second.
class Memory {
 public:
  Memory(llama_model& model, const ContextSettings& settings, const CachePotSettings& pot,
         std::uint64_t& bytes_per_token)
      : context_(make_context(model, tap_, settings)), pot_(tap_, *context_, 0, pot), engine_(tap_, pot_) {
    bytes_per_token = pot_.cache().bytes_per_token();
  }

  CachePot& store() noexcept { return pot_; }
  Engine& engine() noexcept { return engine_; }
  std::uint64_t bytes() const { return pot_.cache().cells() * pot_.cache().bytes_per_token(); }

  class Fork {
   public:
    explicit Fork(Memory& memory) : pot_(memory.pot_.fork(1)), engine_(memory.tap_, pot_) {}
    Fork(const Fork&) = delete;
    Fork& operator=(const Fork&) = delete;
    /// Another one may follow. Removing a whole sequence never fails.
    ~Fork() { llama_memory_seq_rm(llama_get_memory(&pot_.context()), pot_.sequence(), -1, -1); }

    CachePot& store() noexcept { return pot_; }
    Engine& engine() noexcept { return engine_; }

   private:
    CachePot pot_;
    Engine engine_;
  };

  Fork fork() { return Fork(*this); }

 private:
  GraphTap tap_;
  llama_context_ptr context_;
  CachePot pot_;
  Engine engine_;
};

class Backend {
 public:
  /// The options must outlive the object.
  explicit Backend(Options& options)
      : options_(checked(options)),
        model_(load_model(options.model, separated(options.rpc))),
        text_(*model_, options.model) {
    if (options.threads == 0) options.threads = std::max(1U, std::thread::hardware_concurrency());
    settings_.threads = static_cast<int>(options.threads);
    settings_.cache_type = cache_type(options.cache_type);
    settings_.flash_attention = options.flash_attention == "on";
  }

  const reading::TextModel& text() const noexcept { return text_; }
  /// Known once there is a memory.
  std::uint64_t bytes_per_token() const noexcept { return bytes_per_token_; }

  /// For who needs it; it takes a context.
  infinipot::Rope rope() const {
    if (options_.archive.empty() && options_.policy != "expected_attention") return {};
    ContextSettings settings = settings_;
    settings.cells = options_.pot;
    settings.sequences = 1;
    settings.batch = 16;
    GraphTap tap;
    const llama_context_ptr context = make_context(*model_, tap, settings);
    return find_cache(tap, *context, 0)->rope();
  }

  /// Those of a file, several at once.
  int converse(const reading::Program& program, const Options& options) {
    settings_.cells = options.pot;
    return run_conversations({*model_, text_, settings_, pot_settings(options), rope()}, program, options);
  }

  Memory memory(const Options& options, std::size_t batch, bool forks) {
    settings_.cells = options.pot;
    settings_.sequences = forks ? 2 : 1;
    settings_.batch = batch;
    return Memory(*model_, settings_, pot_settings(options), bytes_per_token_);
  }

 private:
  /// Throws reading::UsageError for what llama.cpp's own shifting cannot do.
  static const Options& checked(const Options& options) {
    if (options.policy != "context_shift") return options;
    if (!(options.archive + options.save + options.load).empty())
      throw reading::UsageError(
          "--policy context_shift: needs no --archive, --save or --load: llama.cpp moves its cells");
    if (options.granularity != "shared")
      throw reading::UsageError(
          "--policy context_shift: needs --granularity shared: llama.cpp drops whole cells");
    return options;
  }

  static CachePotSettings pot_settings(const Options& options) {
    return {.capacity = options.pot,
            .max_keep = options.keep,
            .granularity = reading::granularity_of(options),
            .k_shift = options.policy == "context_shift"};
  }

  const Options& options_;
  llama_model_ptr model_;
  Text text_;
  ContextSettings settings_;
  std::uint64_t bytes_per_token_ = 0;
};

const reading::Program program{
    .name = "infinipot-llama",
    .model_help = "GGUF file of a Llama model, as llama.cpp reads it",
    .notes =
        "--policy context_shift is what llama.cpp itself does when a context is full.\n"
        "The paper's own settings: --granularity head --over-queries sum --over-heads sum --kernel 1\n"
        "--alpha 0.5 --sinks 0 --catalyst @question.\n",
    .context_shift = true,
    .reads_entries = true,
    .owns_pots = true,
    .parallel = true,
    .more_options = {
        {"--cache-type",
         &Options::cache_type,
         {"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"},
         "f32|f16|bf16|q8_0|q5_1|q5_0|q4_1|q4_0",
         "element type of keys and, with flash attention, of values",
         "f16",
         reading::pot_group},
        {"--flash-attention",
         &Options::flash_attention,
         {"on", "off"},
         "on|off",
         "with it CaP is computed from queries and keys, without it from attention probabilities",
         "on"},
        {"--rpc", &Options::rpc, {}, "HOST:PORT,...", "llama.cpp RPC servers that share the layers", ""},
    }};

/// ggml aborts where it does not know how to go on, such as when an RPC server is gone.
void end_in_one_line(const char* message) {
  const char* const behind_place = std::strstr(message, ": ");  // FILE:LINE: MESSAGE
  std::fprintf(stderr, "%s: llama.cpp has given up: %s\n", program.name.c_str(),
               behind_place != nullptr ? behind_place + 2 : message);
  std::_Exit(2);
}

}  // namespace
}  // namespace llama_cpp

int main(int argc, char** argv) {
  llama_cpp::keep_quiet();
  ggml_set_abort_callback(llama_cpp::end_in_one_line);
  llama_backend_init();
  return reading::run_program(llama_cpp::program, argc, argv,
                              [](reading::Options& options) { return llama_cpp::Backend(options); });
}
