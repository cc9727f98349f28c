#include "engine.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace llama_cpp {
namespace {

using infinipot::Token;

/// All, unless nobody wants more than the sink's.
template <class Sink>
std::size_t layers_needed(const infinipot::LogitsSink& logits, std::span<const infinipot::Token> tokens,
                          const Sink& sink) noexcept {
  return logits.first_row() < tokens.size() ? infinipot::all_layers : sink.layers();
}

}  // namespace

/// Sees to it that new entries get the cells that they should, and passes on the attention that it is shown.
class Engine::Pass final : public Listener {
 public:
  /// With at most one of the sinks. The graph ends after the attention of the pot's first `layers` layers.
  Pass(Engine& engine, std::size_t first, std::size_t layers, infinipot::AttentionSink* attention,
       infinipot::QuerySink* queries)
      : engine_(engine),
        first_(first),
        begin_(first),
        end_(first),
        windows_end_(first),
        layers_(layers),
        attention_(attention),
        queries_(queries),
        listening_(engine.tap_, *this) {}

  std::size_t first() const noexcept { return first_; }
  /// One past the last entry that was given a cell.
  std::size_t end() const noexcept { return end_; }
  const char* problem() const noexcept { return problem_; }

  void rows(std::span<const CacheRow> rows) noexcept override {
    begin_ = end_;
    end_ += rows.size();
    if (!engine_.pot_.place(begin_, rows)) problem_ = wrong_cells;
  }

  void window_rows(std::span<const CacheRow> rows) noexcept override {
    if (!engine_.pot_.place(windows_end_, rows)) problem_ = wrong_cells;
    windows_end_ += rows.size();
  }

  bool wants_attention() const noexcept override { return attention_ != nullptr || queries_ != nullptr; }

  bool attention(std::size_t model_layer, const ggml_tensor& node) noexcept override {
    const std::size_t layer = engine_.pot_.cache().pot_layer(model_layer);
    if (layer == Cache::no_layer) return true;
    const ShownPart part{.part = 0, .first = begin_, .count = end_ - begin_, .before = begin_ - first_};
    const char* problem = nullptr;
    if (attention_ != nullptr && node.op == GGML_OP_SOFT_MAX)
      problem = engine_.shown_.probabilities(node, layer, part, *attention_);
    else if (queries_ != nullptr && node.op == GGML_OP_FLASH_ATTN_EXT)
      problem = engine_.shown_.queries(node, layer, part, *queries_);
    if (problem != nullptr) problem_ = problem;
    return layer + 1 < layers_;
  }

 private:
  static constexpr const char* wrong_cells = "it puts tokens into other cells than those of their positions";

  Engine& engine_;
  std::size_t first_;        // entry of the call's first token
  std::size_t begin_, end_;  // entries of the micro-batch that runs
  std::size_t windows_end_;  // the same as end_, in layers with windows
  std::size_t layers_;       // of the pot, to be computed
  infinipot::AttentionSink* attention_;
  infinipot::QuerySink* queries_;
  const char* problem_ = nullptr;
  Listening listening_;
};

Engine::Engine(GraphTap& tap, CachePot& pot)
    : tap_(tap), pot_(pot), batch_(pot.context(), pot.sequence()), shown_(pot.cache()) {
  if (&tap != &pot.tap()) throw std::invalid_argument("llama.cpp: the pot was made with another tap");
}

std::size_t Engine::vocab_size() const noexcept {
  return static_cast<std::size_t>(
      llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(&pot_.context()))));
}

void Engine::forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
  Pass pass(*this, first, infinipot::all_layers, nullptr, nullptr);
  run(tokens, logits, pass);
}

void Engine::forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
                     infinipot::AttentionSink& attention) {
  if (pot_.shifts())
    throw std::invalid_argument("llama.cpp: a pot whose gaps llama.cpp closes is not shown attention");
  if (tap_.shows() != Shows::probabilities)
    throw std::invalid_argument("llama.cpp: a context with flash attention has no attention probabilities");
  Pass pass(*this, first, layers_needed(logits, tokens, attention), &attention, nullptr);
  run(tokens, logits, pass);
}

void Engine::forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
                     infinipot::QuerySink& queries) {
  if (pot_.shifts())
    throw std::invalid_argument("llama.cpp: a pot whose gaps llama.cpp closes is not shown attention");
  if (tap_.shows() != Shows::queries)
    throw std::invalid_argument("llama.cpp: a context shows its queries only with flash attention");
  if (const std::size_t most = llama_n_ubatch(&pot_.context()); tokens.size() > most)
    throw std::invalid_argument("llama.cpp: queries of " + std::to_string(tokens.size()) +
                                " tokens are wanted at once, but n_ubatch is " + std::to_string(most));
  Pass pass(*this, first, layers_needed(logits, tokens, queries), nullptr, &queries);
  run(tokens, logits, pass);
}

void Engine::run(std::span<const Token> tokens, infinipot::LogitsSink& logits, Pass& pass) {
  if (const std::size_t capacity = pot_.capacity();
      pass.first() > capacity || tokens.size() > capacity - pass.first())
    throw std::out_of_range("llama.cpp: " + std::to_string(tokens.size()) + " tokens from position " +
                            std::to_string(pass.first()) + " on do not fit in a pot of " +
                            std::to_string(capacity));
  pot_.prepare(pass.first(), tokens.size() == 1 && !logits.probe());
  for (std::size_t done = 0; done < tokens.size();) {
    const auto batch = tokens.subspan(done, std::min(batch_.most(), tokens.size() - done));
    decode(batch, pass.first() + done, done, logits);
    done += batch.size();
  }
  if (pass.problem() != nullptr)
    throw std::runtime_error(std::string("llama.cpp cannot be watched: ") + pass.problem());
  if (pass.end() != pass.first() + tokens.size())
    throw std::runtime_error("llama.cpp does not tell the cells of " + std::to_string(tokens.size()) +
                             " tokens: was its context made with GraphTap::install()?");
}

void Engine::decode(std::span<const Token> tokens, std::size_t position, std::size_t row,
                    infinipot::LogitsSink& logits) {
  const std::size_t first = logits.first_row() > row ? logits.first_row() - row : 0;
  batch_.decode(tokens, position, first);
  const std::size_t vocabulary = vocab_size();
  for (std::size_t i = first; i < tokens.size(); ++i)
    logits.row(row + i, {llama_get_logits_ith(&pot_.context(), static_cast<std::int32_t>(i)), vocabulary});
}

}  // namespace llama_cpp
