// infinipot-llama: llama.cpp reads a long document through a pot and answers a question.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cell_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "model.hpp"
#include "run_program.hpp"
#include "text.hpp"

namespace llama_cpp {
namespace {

using reading::Options;

ggml_type cache_type(const std::string& name) {
  return name == "f32" ? GGML_TYPE_F32 : name == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
}

std::vector<std::string> separated(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

/// Keys and values of one token in all layers.
std::uint64_t bytes_per_token(const llama_model& model, const ContextSettings& settings) {
  const infinipot::Shape shape = shape_of(model);
  const auto row = static_cast<std::int64_t>(shape.head_dim);
  return shape.heads() *
         (ggml_row_size(settings.key_type(), row) + ggml_row_size(settings.value_type(), row));
}

/// A context, the pot in its first sequence, and space for a fork in its second.
class Memory {
 public:
  Memory(llama_model& model, const ContextSettings& settings, std::size_t capacity)
      : settings_(settings),
        context_(make_context(model, tap_, settings)),
        pot_(*context_, 0, capacity),
        engine_(tap_, pot_) {}

  CellPot& store() noexcept { return pot_; }
  Engine& engine() noexcept { return engine_; }
  std::uint64_t bytes() const {
    return llama_n_ctx_seq(context_.get()) * bytes_per_token(*llama_get_model(context_.get()), settings_);
  }

  class Fork {
   public:
    explicit Fork(Memory& memory) : pot_(memory.pot_.fork(1)), engine_(memory.tap_, pot_) {}
    Fork(const Fork&) = delete;
    Fork& operator=(const Fork&) = delete;
    /// Another one may follow. Removing a whole sequence never fails.
    ~Fork() { llama_memory_seq_rm(llama_get_memory(&pot_.context()), pot_.sequence(), -1, -1); }

    CellPot& store() noexcept { return pot_; }
    Engine& engine() noexcept { return engine_; }

   private:
    CellPot pot_;
    Engine engine_;
  };

  Fork fork() { return Fork(*this); }

 private:
  ContextSettings settings_;
  GraphTap tap_;
  llama_context_ptr context_;
  CellPot pot_;
  Engine engine_;
};

class Backend {
 public:
  explicit Backend(Options& options)
      : model_(load_model(options.model, separated(options.rpc))), text_(*model_, options.model) {
    if (options.threads == 0) options.threads = std::max(1U, std::thread::hardware_concurrency());
    settings_.threads = static_cast<int>(options.threads);
    settings_.cache_type = cache_type(options.cache_type);
    settings_.flash_attention = options.flash_attention == "on";
  }

  const reading::TextModel& text() const noexcept { return text_; }
  std::uint64_t bytes_per_token() const { return llama_cpp::bytes_per_token(*model_, settings_); }

  Memory memory(const Options& options, std::size_t batch, bool forks) {
    settings_.cells = options.pot;
    settings_.sequences = forks ? 2 : 1;
    settings_.batch = batch;
    return Memory(*model_, settings_, options.pot);
  }

 private:
  llama_model_ptr model_;
  Text text_;
  ContextSettings settings_;
};

const reading::Program program{
    .name = "infinipot-llama",
    .model_help = "GGUF file of a Llama model, as llama.cpp reads it",
    .notes =
        "--policy context_shift is what llama.cpp itself does when a context is full.\n"
        "The paper's own settings, but for its granularity: --over-queries sum --over-heads sum --kernel 1\n"
        "--alpha 0.5 --sinks 0 --catalyst @question.\n",
    .granularities = {"shared"},
    .context_shift = true,
    .archive_types = {"tokens"},
    .more_options = {
        {"--cache-type",
         &Options::cache_type,
         {"f32", "f16", "q8_0"},
         "f32|f16|q8_0",
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

}  // namespace
}  // namespace llama_cpp

int main(int argc, char** argv) {
  llama_cpp::keep_quiet();
  llama_backend_init();
  return reading::run_program(llama_cpp::program, argc, argv,
                              [](reading::Options& options) { return llama_cpp::Backend(options); });
}
