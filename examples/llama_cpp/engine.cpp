#include "engine.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "decode_error.hpp"
#include "shift_check.hpp"

namespace llama_cpp {
namespace {

using infinipot::Token;

/// What GGML_OP_FLASH_ATTN_EXT keeps in its op_params.
struct FlashParameters {
  float scale, max_bias, soft_cap;
};

FlashParameters parameters_of(const ggml_tensor& node) noexcept {
  FlashParameters parameters{};
  std::memcpy(&parameters, node.op_params, sizeof parameters);
  return parameters;
}

/// All, unless nobody wants more than the sink's.
template <class Sink>
std::size_t layers_needed(const infinipot::LogitsSink& logits, std::span<const infinipot::Token> tokens,
                          const Sink& sink) noexcept {
  return logits.first_row() < tokens.size() ? infinipot::all_layers : sink.layers();
}

}  // namespace

/// Notes the cells of new entries, and passes on the attention that it is shown.
class Engine::Pass final : public Listener {
 public:
  /// With at most one of the sinks. The graph ends after the attention of the first `layers` layers.
  Pass(Engine& engine, std::size_t first, std::size_t layers, infinipot::AttentionSink* attention,
       infinipot::QuerySink* queries)
      : engine_(engine),
        first_(first),
        begin_(first),
        end_(first),
        layers_(layers),
        attention_(attention),
        queries_(queries) {
    engine_.tap_.listen(this);
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;
  ~Pass() { engine_.tap_.listen(nullptr); }

  std::size_t first() const noexcept { return first_; }
  /// One past the last entry that was given a cell.
  std::size_t end() const noexcept { return end_; }
  const char* problem() const noexcept { return problem_; }

  void cells(std::span<const std::int64_t> cells) noexcept override {
    begin_ = end_;
    end_ += cells.size();
    engine_.pot_.place(begin_, cells);
  }

  bool wants_attention() const noexcept override { return attention_ != nullptr || queries_ != nullptr; }

  bool attention(std::size_t layer, const ggml_tensor& node) noexcept override {
    if (layer >= engine_.shape().layers)
      problem_ = "it shows a layer that the model should not have";
    else if (attention_ != nullptr && node.op == GGML_OP_SOFT_MAX)
      show_probabilities(layer, node);
    else if (queries_ != nullptr && node.op == GGML_OP_FLASH_ATTN_EXT)
      show_queries(layer, node);
    return layer + 1 < layers_;
  }

 private:
  /// `node` is (cells, tokens, query_heads). A token's row is put into the order of the entries.
  void show_probabilities(std::size_t layer, const ggml_tensor& node) noexcept {
    const std::size_t heads = engine_.shape().query_heads, tokens = end_ - begin_;
    if (!is(node, node.ne[0], tokens, heads)) {
      problem_ = "its attention probabilities have an unexpected shape";
      return;
    }
    const std::byte* const bytes = engine_.probabilities_.read(node);
    const std::span<const infinipot::Index> cells = engine_.pot_.cells();
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t token = 0; token < tokens; ++token) {
        const auto* const paid =
            reinterpret_cast<const float*>(bytes + token * node.nb[1] + head * node.nb[2]);
        const auto row = std::span(engine_.row_).first(begin_ + token + 1);
        for (std::size_t entry = 0; entry < row.size(); ++entry) row[entry] = paid[cells[entry]];
        attention_->row(layer, head, begin_ - first_ + token, row);
      }
  }

  /// `node` attends from queries (head_dim, tokens, query_heads) to keys (head_dim, cells, kv_heads).
  void show_queries(std::size_t layer, const ggml_tensor& node) noexcept {
    const infinipot::Shape& shape = engine_.pot_.shape();
    const ggml_tensor &queries = *node.src[0], &keys = *node.src[1];
    const FlashParameters parameters = parameters_of(node);
    if (parameters.max_bias != 0 || node.src[4] != nullptr) {
      problem_ = "its attention has ALiBi or sinks, which are seen only without flash attention";
      return;
    }
    if (!is(queries, static_cast<std::int64_t>(shape.head_dim), end_ - begin_, shape.query_heads) ||
        keys.ne[0] != queries.ne[0] || keys.ne[2] != static_cast<std::int64_t>(shape.kv_heads)) {
      problem_ = "its queries or keys have an unexpected shape";
      return;
    }
    engine_.form_ = {.scale = parameters.scale, .soft_cap = parameters.soft_cap};
    engine_.pot_.show_keys(&keys, engine_.keys_.read(keys));
    const auto* const data = reinterpret_cast<const float*>(engine_.queries_.read(queries));
    const auto stride = [&](int axis) {
      return static_cast<std::ptrdiff_t>(queries.nb[axis] / sizeof(float));
    };
    queries_->layer(layer, {data, end_ - begin_, stride(1), stride(2)});
    engine_.pot_.show_keys(nullptr, nullptr);
  }

  /// Whether a tensor holds floats of this shape, of one sequence.
  static bool is(const ggml_tensor& tensor, std::int64_t width, std::size_t tokens,
                 std::size_t heads) noexcept {
    return tensor.type == GGML_TYPE_F32 && tensor.ne[0] == width &&
           tensor.ne[1] == static_cast<std::int64_t>(tokens) &&
           tensor.ne[2] == static_cast<std::int64_t>(heads) && tensor.ne[3] == 1;
  }

  Engine& engine_;
  std::size_t first_;        // entry of the call's first token
  std::size_t begin_, end_;  // entries of the micro-batch that runs
  std::size_t layers_;       // to be computed
  infinipot::AttentionSink* attention_;
  infinipot::QuerySink* queries_;
  const char* problem_ = nullptr;
};

Engine::Engine(GraphTap& tap, CellPot& pot)
    : tap_(tap),
      pot_(pot),
      row_(pot.capacity()),
      positions_(llama_n_batch(&pot.context())),
      counts_(positions_.size(), 1),
      wanted_(positions_.size()),
      sequence_(pot.sequence()),
      sequences_(positions_.size(), &sequence_) {
  if (!tap_.trusted()) try_out();
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
  if (tap_.shows() != Shows::probabilities)
    throw std::invalid_argument("llama.cpp: a context with flash attention has no attention probabilities");
  Pass pass(*this, first, layers_needed(logits, tokens, attention), &attention, nullptr);
  run(tokens, logits, pass);
}

void Engine::forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
                     infinipot::QuerySink& queries) {
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
  for (std::size_t done = 0; done < tokens.size();) {
    const auto batch = tokens.subspan(done, std::min(positions_.size(), tokens.size() - done));
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
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    positions_[i] = static_cast<llama_pos>(position + i);
    wanted_[i] = row + i >= logits.first_row() ? 1 : 0;
  }
  const llama_batch batch{
      .n_tokens = static_cast<std::int32_t>(tokens.size()),
      .token = const_cast<llama_token*>(tokens.data()),  // the C interface lacks the const
      .embd = nullptr,
      .pos = positions_.data(),
      .n_seq_id = counts_.data(),
      .seq_id = sequences_.data(),
      .logits = wanted_.data(),
  };
  if (const std::int32_t status = llama_decode(&pot_.context(), batch); status != 0)
    throw std::runtime_error("llama.cpp cannot decode " + std::to_string(tokens.size()) +
                             " tokens at position " + std::to_string(position) + ": " + decode_error(status));
  const std::size_t vocabulary = vocab_size();
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (wanted_[i] != 0)
      logits.row(row + i, {llama_get_logits_ith(&pot_.context(), static_cast<std::int32_t>(i)), vocabulary});
}

void Engine::try_out() {
  if (pot_.entries().size() != 0)
    throw std::invalid_argument("llama.cpp: the first engine of a tap needs an empty pot to try it out");
  check_shift(tap_, pot_.context(), pot_.sequence());
  if (!tap_.shows()) throw std::invalid_argument("llama.cpp: the model does not show its attention");
  tap_.trust();
}

}  // namespace llama_cpp
