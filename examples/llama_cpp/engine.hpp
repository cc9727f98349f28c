// llama.cpp as an engine of infinipot: the forward pass of one sequence of a context.
#pragma once

#include <llama.h>

#include <cstddef>
#include <span>

#include "cache_pot.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "sequence_batch.hpp"
#include "shown_attention.hpp"

namespace llama_cpp {

/// Runs tokens through llama_decode() for one pot; meets infinipot::YieldsQueries and YieldsAttention, and
/// shows whichever the context has. Several engines may share a context, each with a pot of its own, as long
/// as one works at a time.
///
/// Context, tap and pot must outlive the engine. Tokens are decoded in batches of the context's n_batch.
class Engine {
 public:
  Engine(GraphTap& tap, CachePot& pot);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() = default;

  infinipot::Shape shape() const noexcept { return pot_.shape(); }
  std::size_t vocab_size() const noexcept;

  /// As infinipot::ForwardPass has it. Throws std::out_of_range if the pot has no room for the tokens, and
  /// std::runtime_error if llama_decode() fails, with the cause, or puts an entry where the pot does not have
  /// it.
  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits);

  /// The same, and gives attention probabilities (of contexts without flash attention).
  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::AttentionSink& attention);

  /// The same, and gives queries (of contexts with flash attention). Throws std::invalid_argument if there
  /// are more tokens than the context's n_ubatch: a layer's queries come at once.
  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& queries);

  /// Whether the context shows queries, not probabilities.
  bool shows_queries() const noexcept { return tap_.shows() == Shows::queries; }

  /// What the model does between q.k and the softmax, once a forward pass has shown the layer's queries.
  infinipot::AttentionForm attention_form(std::size_t layer) const noexcept { return shown_.form(layer); }

 private:
  class Pass;  // what a forward pass hears

  void run(std::span<const infinipot::Token> tokens, infinipot::LogitsSink& logits, Pass& pass);
  void decode(std::span<const infinipot::Token> tokens, std::size_t position, std::size_t row,
              infinipot::LogitsSink& logits);

  GraphTap& tap_;
  CachePot& pot_;
  SequenceBatch batch_;
  ShownAttention shown_;
};

}  // namespace llama_cpp
