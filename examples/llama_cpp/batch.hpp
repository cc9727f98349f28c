// Forward passes of several sequences of a context, in one llama_decode() and on one thread.
#pragma once

#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache_pot.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "shown_attention.hpp"

namespace llama_cpp {

/// What became of a pass.
struct Outcome {
  llama_seq_id sequence = 0;
  std::string error = {};  ///< empty if it was run, and its sinks were given what they want
};

/// Runs the passes that readers of one context ask for (Ccd::next()), each with a pot of its own: chunks of
/// texts, catalysts and single tokens in one batch. It is the engine that such readers are made with
/// (infinipot::DescribedPass):
///
///   infinipot::Ccd reader(batch, pot, policy, settings);  // and as many more as the context has sequences
///   reader.start(tokens);
///   batch.add(pot, *reader.next());
///   for (const Outcome& outcome : batch.decode()) outcome.error.empty() ? reader.done() : reader.failed();
///
/// decode() allocates nothing, unless it has an error to tell. Tap, context and pots must outlive the object.
class Batch {
 public:
  static constexpr infinipot::Shows shows = infinipot::Shows::either;

  /// Of a context that was made with the tap. Throws what CachePot's constructor throws of a context, whose
  /// first sequence must be empty if it has no pot yet.
  Batch(GraphTap& tap, llama_context& context);
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() = default;

  infinipot::Shape shape() const noexcept { return tap_.cache()->shape(); }
  std::size_t vocab_size() const noexcept { return vocab_size_; }
  bool shows_queries() const noexcept { return tap_.shows() == Shows::queries; }
  infinipot::AttentionForm attention_form(std::size_t layer) const noexcept { return shown_.form(layer); }

  std::size_t sequences() const noexcept { return passes_.size(); }
  /// Calls of llama_decode() so far.
  std::uint64_t decodes() const noexcept { return decodes_; }

  /// Takes the next pass of the pot's sequence. Its tokens and sinks must stay until it is among the outcomes
  /// or removed. Throws, before anything changes, std::invalid_argument if the pot is of another context or
  /// one whose gaps llama.cpp closes (CachePotSettings::k_shift), its sequence has a pass here already, or
  /// there are more queries to show than n_ubatch; std::out_of_range if the pot has no room for the tokens.
  void add(CachePot& pot, const infinipot::Pass& pass);

  /// Takes it back, if there is one; the reader's failed() must follow.
  void remove(llama_seq_id sequence) noexcept;

  /// Whether there is nothing to run.
  bool empty() const noexcept { return waiting_.empty(); }

  /// One llama_decode() of as many tokens as fit in n_batch: of those that wait longest first, so that none
  /// waits for ever. Returns which passes are at their end, which may be none; they are no longer here. If
  /// llama_decode() fails, that is all that had tokens in it. Valid until the next call.
  std::span<const Outcome> decode();

 private:
  class Hearing;  // what a decode shows

  /// The pass of a sequence.
  struct Running {
    CachePot* pot = nullptr;  // null: there is none
    infinipot::Pass pass;
    std::size_t layers = 0;          // of the pot, to be computed
    bool apart = false;              // not in micro-batches with passes that have other numbers of tokens
    std::size_t ran = 0;             // tokens that were decoded before
    std::size_t count = 0;           // tokens in this batch
    std::size_t at = 0;              // place of the first one there
    std::size_t placed = 0;          // tokens whose cells are known
    std::size_t windows_placed = 0;  // the same in layers with windows
    const char* problem = nullptr;   // what was not as it should be

    std::size_t left() const noexcept { return pass.tokens.size() - ran; }
    bool watched() const noexcept { return pass.queries != nullptr || pass.attention != nullptr; }
  };

  /// Its tokens in a micro-batch.
  struct Part {
    Running* running;
    ShownPart shown;
  };

  Running& of(llama_seq_id sequence) noexcept { return passes_[static_cast<std::size_t>(sequence)]; }
  void choose() noexcept;
  void arrange() noexcept;
  bool joins(std::size_t begin, std::size_t end) noexcept;
  void put(llama_seq_id sequence) noexcept;
  std::int32_t run() noexcept;
  std::string error_of(const Running& running, std::int32_t status) const;
  void give_logits(const Running& running) noexcept;

  GraphTap& tap_;
  llama_context& context_;
  std::size_t vocab_size_, micro_batch_;
  std::uint64_t decodes_ = 0;
  ShownAttention shown_;
  std::vector<Running> passes_;        // (sequences)
  std::vector<llama_seq_id> waiting_;  // those that have one, the longest first
  std::vector<llama_seq_id> chosen_;   // those in this batch, ascending
  std::vector<Part> parts_;            // of the micro-batch that runs
  std::vector<Outcome> outcomes_;

  // (n_batch) llama.cpp's batch.
  std::size_t size_ = 0;
  std::vector<llama_token> tokens_;
  std::vector<llama_pos> positions_;
  std::vector<std::int32_t> counts_;  // of sequences per token: 1
  std::vector<llama_seq_id*> sequences_;
  std::vector<std::int8_t> wanted_;    // whether logits of a token are
  std::vector<llama_seq_id> numbers_;  // (sequences) 0, 1, ...
};

}  // namespace llama_cpp
