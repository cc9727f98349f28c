// The forward pass of a Llama model, over any memory of keys and values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "attention.hpp"
#include "batch_angles.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/nuc/online_nuc.hpp"
#include "kv_memory.hpp"
#include "linear.hpp"
#include "llama_weights.hpp"
#include "matrix.hpp"
#include "rms_norm.hpp"
#include "thread_pool.hpp"

namespace smollm2 {

/// Runs tokens through a Llama model; meets infinipot::YieldsQueries. Keys and values go to a KvMemory and
/// come from there, nowhere else: the engine itself remembers nothing between calls. Results are the same
/// bits for any number of threads and however the tokens are split into calls.
///
/// Memory is allocated in the constructor only. Weights, memory and pool must outlive the engine.
template <KvMemory Memory>
class LlamaEngine {
 public:
  /// At most `max_batch` tokens go through the layers at once. Throws std::invalid_argument if it is 0 or
  /// the memory is of another shape than the model.
  LlamaEngine(const LlamaWeights& weights, Memory& memory, ThreadPool& pool, std::size_t max_batch)
      : weights_(checked(weights, memory, max_batch)),
        memory_(memory),
        pool_(pool),
        max_batch_(max_batch),
        attention_(memory, pool),
        angles_(config().rope(memory.capacity()), max_batch),
        residual_(max_batch, config().embedding),
        normed_(max_batch, config().embedding),
        projected_(max_batch, weights.layers().front().queries_keys_values.outputs()),
        mixed_(max_batch, attention_width()),
        hidden_(max_batch, config().feed_forward),
        workspace_(pool, std::max({config().embedding, attention_width(), config().feed_forward})),
        rotated_(pool.size(), config().head_dim),
        logits_(logit_rows, config().vocab_size),
        logit_tiles_(pool.size() * score_rows, infinipot::LogSumExp::block),
        scores_(parts(config().vocab_size), infinipot::OnlineNuc(max_batch)) {}

  infinipot::Shape shape() const noexcept { return config().shape(); }
  std::size_t vocab_size() const noexcept { return config().vocab_size; }
  std::size_t max_batch() const noexcept { return max_batch_; }

  /// Runs `tokens` as entries `first` ... against the memory's rows before, writes their keys and values to
  /// the rows from `first` on, and gives the sink its logits or NuC, from several threads. They stand at
  /// positions `first` ..., unless the memory says otherwise. Throws std::out_of_range if a token or a row
  /// does not exist; nothing is written then.
  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    check(tokens, first);
    for (std::size_t done = 0; done < tokens.size(); done += max_batch_) {
      const Batch batch{tokens.subspan(done, std::min(max_batch_, tokens.size() - done)), first + done, done};
      run(batch, logits, nullptr);
    }
  }

  /// The same, and gives each layer's queries. They are of all tokens, so throws std::invalid_argument for
  /// more tokens than max_batch(). Where no logits are wanted, layers above those that the sink asks for
  /// are neither computed nor written.
  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& queries) {
    check(tokens, first);
    if (tokens.size() > max_batch_)
      fail<std::invalid_argument>(tokens.size(), " tokens whose queries are wanted, but a batch holds ",
                                  max_batch_);
    if (!tokens.empty()) run({tokens, first, 0}, logits, &queries);
  }

 private:
  /// Rows of logits computed at once: enough to pay for reading the output matrix.
  static constexpr std::size_t logit_rows = 32;
  /// Rows that are scored at once: their logits of LogSumExp::block tokens are still in the cache then.
  static constexpr std::size_t score_rows = 8 * tile_rows;
  /// Rows of one piece of work where work is small.
  static constexpr std::size_t few_rows = 16;

  /// Tokens that go through the layers together, entries `first` ...; rows `offset` ... of the call.
  struct Batch {
    std::span<const infinipot::Token> tokens;
    std::size_t first;
    std::size_t offset;
  };

  const LlamaConfig& config() const noexcept { return weights_.config(); }
  std::size_t attention_width() const noexcept { return config().query_heads * config().head_dim; }

  template <class Error, class... Parts>
  [[noreturn]] static void fail(const Parts&... parts) {
    std::ostringstream text;
    text << "llama engine: ";
    (text << ... << parts);
    throw Error(text.str());
  }

  static const LlamaWeights& checked(const LlamaWeights& weights, const Memory& memory,
                                     std::size_t max_batch) {
    if (max_batch == 0) fail<std::invalid_argument>("max_batch is 0, but must be at least 1");
    if (!(memory.shape() == weights.config().shape()))
      fail<std::invalid_argument>("the memory's shape is not the model's");
    return weights;
  }

  void check(std::span<const infinipot::Token> tokens, std::size_t first) const {
    const std::size_t capacity = memory_.capacity();
    if (first > capacity || tokens.size() > capacity - first)
      fail<std::out_of_range>(tokens.size(), " tokens from position ", first, " on do not fit in ", capacity,
                              " rows");
    for (const infinipot::Token token : tokens)
      if (token < 0 || static_cast<std::size_t>(token) >= vocab_size())
        fail<std::out_of_range>("token ", token, " is out of range 0 .. ", vocab_size() - 1);
  }

  void run(const Batch& batch, infinipot::LogitsSink& logits, infinipot::QuerySink* queries) noexcept {
    const std::size_t count = batch.tokens.size();
    const std::size_t unwanted =
        std::min(count, logits.first_row() - std::min(logits.first_row(), batch.offset));
    const std::size_t layers = layers_needed(unwanted < count, queries);
    embed(batch);
    for_each_row(count, [&](std::size_t row, std::size_t /*thread*/) {
      angles_.set(row, position_of(memory_, batch.first + row));
    });
    for (std::size_t layer = 0; layer < layers; ++layer) {
      project(layer, batch, queries);
      // After the last layer's keys and values only the rows with logits matter.
      const std::size_t from = layer + 1 < layers ? 0 : unwanted;
      if (from == count) return;
      attend(layer, batch, from);
      feed_forward(layer, from, count);
    }
    predict(batch, unwanted, logits);
  }

  /// All, unless only queries of the lower ones are wanted.
  std::size_t layers_needed(bool logits, const infinipot::QuerySink* queries) const noexcept {
    const std::size_t all = config().layers;
    return logits || queries == nullptr ? all : std::min(all, queries->layers());
  }

  /// residual = the tokens' embeddings.
  void embed(const Batch& batch) noexcept {
    for (std::size_t i = 0; i < batch.tokens.size(); ++i)
      weights_.embedding().get_row(static_cast<std::size_t>(batch.tokens[i]),
                                   {residual_.row(i), config().embedding});
  }

  /// normed = the norm of residual, for some rows; returns those.
  ConstMatrixView norm(const std::vector<float>& gain, std::size_t first, std::size_t count) noexcept {
    for_each_row(count, [&](std::size_t row, std::size_t /*thread*/) {
      rms_norm({residual_.row(first + row), gain.size()}, gain, config().norm_epsilon,
               normed_.row(first + row));
    });
    return normed_.view().slice(first, count);
  }

  /// Queries, keys and values of a layer: into `projected`, and the latter two into the memory.
  void project(std::size_t layer, const Batch& batch, infinipot::QuerySink* queries) noexcept {
    const LlamaLayer& weights = weights_.layers()[layer];
    const std::size_t count = batch.tokens.size();
    weights.queries_keys_values.multiply_all(norm(weights.attention_norm, 0, count),
                                             projected_.view().slice(0, count), Write::set, workspace_);
    for_each_row(count, [&](std::size_t row, std::size_t thread) {
      add_bias(weights.qkv_bias, projected_.row(row));
      if (config().head_norms) norm_heads(weights, projected_.row(row));
      rotate_and_store(layer, batch.first + row, angles_[row], projected_.row(row), rotated_.row(thread));
    });
    if (queries != nullptr) queries->layer(layer, query_rows(0, count));
  }

  /// row += bias, if there is one.
  static void add_bias(const std::vector<float>& bias, float* row) noexcept {
    std::transform(bias.begin(), bias.end(), row, row, std::plus<>());
  }

  /// `row` is a token's (query_heads + 2 * kv_heads, head_dim), of which values are left alone.
  void norm_heads(const LlamaLayer& weights, float* row) noexcept {
    const infinipot::Shape s = shape();
    for (std::size_t head = 0; head < s.query_heads + s.kv_heads; ++head) {
      float* const numbers = row + head * s.head_dim;
      rms_norm({numbers, s.head_dim}, head < s.query_heads ? weights.query_norm : weights.key_norm,
               config().norm_epsilon, numbers);
    }
  }

  /// `row` is a token's (query_heads + 2 * kv_heads, head_dim).
  void rotate_and_store(std::size_t layer, std::size_t entry, const infinipot::Angles& angles, float* row,
                        float* rotated) noexcept {
    const infinipot::Shape s = shape();
    const auto turn = [&](const float* in, float* out) {
      infinipot::rotate(in, angles, config().pairing, infinipot::Turn::forward, s.head_dim, out);
    };
    for (std::size_t head = 0; head < s.query_heads; ++head)
      turn(row + head * s.head_dim, row + head * s.head_dim);
    for (std::size_t head = 0; head < s.kv_heads; ++head) {
      const float* key = row + (s.query_heads + head) * s.head_dim;
      const float* const value = key + s.kv_heads * s.head_dim;
      if (memory_.key_storage() == infinipot::KeyStorage::rotated) {
        turn(key, rotated);
        key = rotated;
      }
      memory_.write(layer, head, entry, key, value);
    }
  }

  infinipot::Queries query_rows(std::size_t first, std::size_t count) noexcept {
    return {projected_.row(first), count, static_cast<std::ptrdiff_t>(projected_.view().stride),
            static_cast<std::ptrdiff_t>(config().head_dim)};
  }

  /// residual += attention, for rows `from` ...
  void attend(std::size_t layer, const Batch& batch, std::size_t from) noexcept {
    const std::size_t count = batch.tokens.size() - from;
    const MatrixView mixed = mixed_.view().slice(from, count);
    attention_.run(layer, query_rows(from, count), batch.first + from, mixed);
    const LlamaLayer& weights = weights_.layers()[layer];
    weights.attention_output.multiply_all(mixed, residual_.view().slice(from, count), Write::add, workspace_);
    if (weights.output_bias.empty()) return;
    for_each_row(count, [&](std::size_t row, std::size_t /*thread*/) {
      add_bias(weights.output_bias, residual_.row(from + row));
    });
  }

  /// residual += feed-forward, for rows first .. end - 1.
  void feed_forward(std::size_t layer, std::size_t first, std::size_t end) noexcept {
    const LlamaLayer& weights = weights_.layers()[layer];
    const std::size_t count = end - first;
    const MatrixView hidden = hidden_.view().slice(0, count);
    gated_multiply(weights.gate, weights.up, norm(weights.feed_forward_norm, first, count), hidden,
                   workspace_);
    weights.down.multiply_all(hidden, residual_.view().slice(first, count), Write::add, workspace_);
  }

  /// Rows `from` ...: the NuC of the sink's targets, and the logits of rows that have none.
  void predict(const Batch& batch, std::size_t from, infinipot::LogitsSink& logits) noexcept {
    const std::size_t targets = logits.targets().size() - std::min(logits.targets().size(), batch.offset);
    const std::size_t scored = std::clamp(targets, from, batch.tokens.size());
    if (scored > from) score(batch, from, scored - from, logits);
    for (std::size_t first = scored; first < batch.tokens.size(); first += logit_rows) {
      const std::size_t count = std::min(logit_rows, batch.tokens.size() - first);
      weights_.output().multiply_all(norm(weights_.output_norm(), first, count),
                                     logits_.view().slice(0, count), Write::set, workspace_);
      pool_.parallel_for(count, [&](std::size_t row, std::size_t /*thread*/) {
        logits.row(batch.offset + first + row, {logits_.row(row), vocab_size()});
      });
    }
  }

  /// Parts of a vocabulary that are summed on their own and then added up in order, so that NuC is the same
  /// bits on any number of threads, and as if made from whole logits.
  static std::size_t parts(std::size_t vocab_size) noexcept {
    return (vocab_size + infinipot::LogSumExp::block - 1) / infinipot::LogSumExp::block;
  }

  /// NuC of the targets of rows first ... by tiles of logits, so that the output matrix is read once.
  void score(const Batch& batch, std::size_t first, std::size_t count,
             infinipot::LogitsSink& logits) noexcept {
    const ConstMatrixView hidden = norm(weights_.output_norm(), first, count);
    for (infinipot::OnlineNuc& part : scores_)
      part.start(logits.targets().subspan(batch.offset + first, count));
    const std::size_t blocks = (count + score_rows - 1) / score_rows;
    pool_.parallel_for(scores_.size() * blocks, [&](std::size_t item, std::size_t thread) {
      const std::size_t row = item % blocks * score_rows;
      score_tile(hidden, item / blocks, row, std::min(score_rows, count - row), thread);
    });
    pool_.parallel_for(count, [&](std::size_t row, std::size_t /*thread*/) {
      for (std::size_t part = 1; part < scores_.size(); ++part) scores_[0].add_row(scores_[part], row);
      logits.nuc(batch.offset + first + row, scores_[0].nuc(row));
    });
  }

  /// Scores some rows on one part of the vocabulary.
  void score_tile(ConstMatrixView hidden, std::size_t part, std::size_t first, std::size_t count,
                  std::size_t thread) noexcept {
    constexpr std::size_t block = infinipot::LogSumExp::block, panels = block / panel_width;
    static_assert(block % panel_width == 0);
    const MatrixView tile = logit_tiles_.view().slice(thread * score_rows, count);
    const std::size_t begin = part * panels, end = std::min(begin + panels, weights_.output().panels());
    for (std::size_t panel = begin; panel < end; ++panel)
      weights_.output().multiply_panel(panel, hidden.slice(first, count),
                                       tile.from_column((panel - begin) * panel_width), Write::set,
                                       workspace_.panel(thread));
    const std::size_t token = part * block;
    scores_[part].add({tile.data, static_cast<std::ptrdiff_t>(tile.stride), first, count, token,
                       std::min(block, vocab_size() - token)});
  }

  /// Calls function(row, thread) for all rows below `count`.
  template <class Function>
  void for_each_row(std::size_t count, const Function& function) noexcept {
    pool_.parallel_for((count + few_rows - 1) / few_rows, [&](std::size_t block, std::size_t thread) {
      for (std::size_t row = block * few_rows; row < std::min(count, (block + 1) * few_rows); ++row)
        function(row, thread);
    });
  }

  const LlamaWeights& weights_;
  Memory& memory_;
  ThreadPool& pool_;
  std::size_t max_batch_;
  Attention<Memory> attention_;
  BatchAngles angles_;
  Matrix residual_;   // (max_batch, embedding)
  Matrix normed_;     // (max_batch, embedding)
  Matrix projected_;  // (max_batch, (query_heads + 2 * kv_heads) * head_dim)
  Matrix mixed_;      // (max_batch, query_heads * head_dim)
  Matrix hidden_;     // (max_batch, feed_forward)
  Workspace workspace_;
  Matrix rotated_;      // (threads, head_dim)
  Matrix logits_;       // (logit_rows, vocab_size), of rows whose whole logits are wanted
  Matrix logit_tiles_;  // (threads * score_rows, LogSumExp::block), of rows that are scored

  std::vector<infinipot::OnlineNuc> scores_;  // (parts of the vocabulary)
};

}  // namespace smollm2
