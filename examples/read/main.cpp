// infinipot-read: SmolLM2 (or another Llama model) reads long documents through a pot and answers questions.
#include <cstddef>
#include <cstdint>
#include <utility>

#include "any_pot.hpp"
#include "backend.hpp"
#include "infinipot/infinipot.hpp"
#include "key_channels.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "run_program.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/pool_executor.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2_text.hpp"

namespace reading {
namespace {

using Engine = smollm2::LlamaEngine<AnyPot>;

/// A pot and the engine that runs against it. Neither moves.
class Memory {
 public:
  Memory(const smollm2::LlamaWeights& weights, smollm2::ThreadPool& threads, AnyPot pot, std::size_t batch)
      : weights_(weights),
        threads_(threads),
        batch_(batch),
        pot_(std::move(pot)),
        engine_(weights, pot_, threads, batch) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  AnyPot& store() { return pot_; }
  Engine& engine() { return engine_; }
  std::uint64_t bytes() const { return pot_.bytes(); }
  smollm2::PoolExecutor executor() const { return smollm2::PoolExecutor(threads_); }
  Memory fork() const { return {weights_, threads_, pot_.fork(), batch_}; }

 private:
  const smollm2::LlamaWeights& weights_;
  smollm2::ThreadPool& threads_;
  std::size_t batch_;
  AnyPot pot_;
  Engine engine_;
};

class Smollm2 {
 public:
  /// The options must outlive the object. Throws UsageError, GgufError.
  explicit Smollm2(Options& options) : Smollm2(smollm2::GgufFile(checked(options).model), options) {}

  const TextModel& text() const { return text_; }
  std::uint64_t bytes_per_token() const { return bytes_per_token_; }
  infinipot::Rope rope() const { return weights_.config().rope(options_.pot); }
  infinipot::KeyChannels key_channels() { return reading::key_channels(weights_, text_, threads_); }
  Memory memory(const Options& options, std::size_t batch, bool /*forks*/) {
    return {weights_, threads_, pot(options), batch};
  }

 private:
  Smollm2(const smollm2::GgufFile& file, Options& options)
      : options_(options), text_(file), threads_(options.threads), weights_(file, threads_) {
    options.threads = threads_.size();
    const infinipot::Shape shape = weights_.config().shape();
    bytes_per_token_ = shape.heads() * 2 * bytes_of_row(options.cache_type, shape.head_dim);
  }

  static const Options& checked(const Options& options) {
    if (options.positions == "growing" && options.cache_type.starts_with("int"))
      throw UsageError("--positions growing: needs --cache-type f32, f16 or bf16, not " + options.cache_type);
    if (options.positions == "growing" && options.check)
      throw UsageError("--check: needs --positions reindexed: growing ones leave keys unturned on purpose");
    if (options.positions == "growing" && !(options.save + options.load + options.archive).empty())
      throw UsageError(
          "--positions growing: needs no --archive, --save or --load: its keys stay as they are");
    if (options.positions == "growing" && options.policy == "expected_attention")
      throw UsageError("--positions growing: expected_attention needs reindexed positions");
    return options;
  }

  AnyPot pot(const Options& options) {
    infinipot::PotSettings settings{.shape = weights_.config().shape(),
                                    .capacity = options.pot,
                                    .max_keep = options.keep,
                                    .granularity = granularity_of(options),
                                    .rope = weights_.config().rope(options.pot)};
    if (options.positions == "growing") return make_growing_pot(options.cache_type, std::move(settings));
    return make_pot(options.cache_type, std::move(settings), [&] { return key_channels(); });
  }

  const Options& options_;
  Smollm2Text text_;
  smollm2::ThreadPool threads_;
  smollm2::LlamaWeights weights_;
  std::uint64_t bytes_per_token_ = 0;
};

}  // namespace
}  // namespace reading

int main(int argc, char** argv) {
  const reading::Program program{
      .name = "infinipot-read",
      .model_help = "GGUF file of a Llama model (F32, F16, BF16, Q8_0, Q4_0, Q4_1)",
      .notes =
          "The paper's own settings: --granularity head --over-queries sum --over-heads sum --kernel 1\n"
          "--alpha 0.5 --sinks 0 --catalyst @question.\n",
      .reads_entries = true,
      .owns_pots = true,
      .more_options = {{"--cache-type",
                        &reading::Options::cache_type,
                        {"f32", "f16", "bf16", "int8", "int4"},
                        "f32|f16|bf16|int8|int4",
                        "element type of keys and values",
                        "f32",
                        reading::pot_group},
                       {"--positions",
                        &reading::Options::positions,
                        {"reindexed", "growing"},
                        "reindexed|growing",
                        "growing switches CR-RoPE off: kept entries stay at their positions in the text, and "
                        "new ones go on from there, past those that the model was trained on; for comparison "
                        "only",
                        "reindexed",
                        reading::pot_group}}};
  return reading::run_program(program, argc, argv,
                              [](reading::Options& options) { return reading::Smollm2(options); });
}
