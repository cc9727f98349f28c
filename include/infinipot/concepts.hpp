// The seams between infinipot and an engine: forward pass, store. (The third, policy, is in policy.hpp.)
//
// A minimal engine needs shape(), vocab_size() and one forward(). What else it can show, it says by the
// overloads of forward() that it has; a policy that needs more than that does not compile, with a message.
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>

#include "infinipot/entries.hpp"
#include "infinipot/selection.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// Receives logits from a forward pass, or what is wanted of them. Different rows may be given from different
/// threads at once.
///
/// An engine may give every row to row(), and is right then. One that can score a token without whole logits
/// (see online_nuc.hpp and nuc_from_hidden.hpp) gives the rows below targets().size() to nuc() instead, each
/// row to one of the two.
class LogitsSink {
 public:
  /// Rows below this one are not wanted and need not be computed; the number of tokens means none is wanted.
  std::size_t first_row() const noexcept { return first_row_; }

  /// Of row r < targets().size() only the NuC of token targets()[r] is wanted. Fewer than the tokens of the
  /// call: of later rows the logits themselves are. Valid during the call, empty if the sink wants all
  /// logits.
  std::span<const Token> targets() const noexcept { return targets_; }

  /// The logits (vocab_size) after token `row` of the call: the model's prediction of what follows it.
  virtual void row(std::size_t row, std::span<const float> logits) noexcept = 0;

  /// The NuC of targets()[row] after token `row`: what infinipot::nuc() would be of these logits. Only for
  /// rows first_row() <= row < targets().size().
  virtual void nuc(std::size_t /*row*/, float /*nuc*/) noexcept {}

 protected:
  explicit LogitsSink(std::size_t first_row, std::span<const Token> targets = {}) noexcept
      : first_row_(first_row), targets_(targets) {}
  LogitsSink(const LogitsSink&) = default;
  LogitsSink& operator=(const LogitsSink&) = default;
  ~LogitsSink() = default;

 private:
  std::size_t first_row_;
  std::span<const Token> targets_;
};

/// Query vectors of one layer, (count, query_heads, head_dim), after RoPE, as strides in elements.
struct Queries {
  const float* data = nullptr;
  std::size_t count = 0;           ///< tokens
  std::ptrdiff_t row_stride = 0;   ///< from one token to the next
  std::ptrdiff_t head_stride = 0;  ///< from one query head to the next

  const float* at(std::size_t token, std::size_t head) const noexcept {
    return data + static_cast<std::ptrdiff_t>(token) * row_stride +
           static_cast<std::ptrdiff_t>(head) * head_stride;
  }
};

/// Queries that stand side by side, (count, query_heads, head_dim).
inline Queries contiguous_queries(const float* data, std::size_t count, const Shape& shape) noexcept {
  return {data, count, static_cast<std::ptrdiff_t>(shape.query_heads * shape.head_dim),
          static_cast<std::ptrdiff_t>(shape.head_dim)};
}

/// A number of layers that stands for all of a model's, however many it has.
inline constexpr std::size_t all_layers = std::numeric_limits<std::size_t>::max();

/// Receives the queries of a forward pass, layer by layer.
class QuerySink {
 public:
  /// Only the model's first so many layers, at least 1, are of interest. An engine may show the others too,
  /// and is right then; where no logits are wanted either, it may return behind the last of these.
  virtual std::size_t layers() const noexcept { return all_layers; }

  /// Called once per layer, when the layer's new keys are in the store already. Not from two threads at once.
  virtual void layer(std::size_t layer, const Queries& queries) noexcept = 0;

 protected:
  QuerySink() = default;
  QuerySink(const QuerySink&) = default;
  QuerySink& operator=(const QuerySink&) = default;
  ~QuerySink() = default;
};

/// Receives attention probabilities, for engines that have them and do not show their queries.
class AttentionSink {
 public:
  /// As QuerySink::layers().
  virtual std::size_t layers() const noexcept { return all_layers; }

  /// The attention that one query head of token `row` pays to entries 0 .. probabilities.size() - 1. (What it
  /// says of entries before the layer's first one does not count.)
  /// Heads of one layer that share a kv head must not be given from two threads at once.
  virtual void row(std::size_t layer, std::size_t query_head, std::size_t row,
                   std::span<const float> probabilities) noexcept = 0;

 protected:
  AttentionSink() = default;
  AttentionSink(const AttentionSink&) = default;
  AttentionSink& operator=(const AttentionSink&) = default;
  ~AttentionSink() = default;
};

/// Seam 1, the forward pass. `forward(tokens, first, logits)` runs the tokens at positions first,
/// first + 1, ... against the store's entries 0 .. first - 1 (and, causally, one another), writes their keys
/// and values into the store's rows from `first` on, and hands over the logits that the sink wants (or the
/// NuC of its targets). It may throw; the loop then truncates the store to `first` entries.
template <class E>
concept ForwardPass = requires(E& engine, const E& view, std::span<const Token> tokens, std::size_t first,
                               LogitsSink& logits) {
  { view.shape() } -> std::convertible_to<Shape>;
  { view.vocab_size() } -> std::convertible_to<std::size_t>;
  engine.forward(tokens, first, logits);
};

/// A forward pass that can also show its queries.
template <class E>
concept YieldsQueries = ForwardPass<E> &&
    requires(E& engine, std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
             QuerySink& queries) {
  engine.forward(tokens, first, logits, queries);
};

/// A forward pass that can also show its attention probabilities.
template <class E>
concept YieldsAttention = ForwardPass<E> &&
    requires(E& engine, std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
             AttentionSink& attention) {
  engine.forward(tokens, first, logits, attention);
};

/// An engine that can show either, but only one at a time, says which: attention probabilities for instance
/// do not exist where a fused kernel computes attention. Without shows_queries() queries are preferred.
template <class E>
concept ChoosesWhatToShow = YieldsQueries<E> && YieldsAttention<E> && requires(const E& view) {
  { view.shows_queries() } -> std::convertible_to<bool>;
};

/// A forward pass that knows that layers may begin at different entries: those of a layer, and so all that
/// its queries may see, are EntryTable::begin() .. first - 1 (Pot::begin(layer)), and it says so with a
/// constant attends_from_begin that is true. Needed only for pots with PotSettings::budgets.
template <class E>
concept AttendsFromBegin = ForwardPass<E> && requires {
  requires E::attends_from_begin;
};

/// Seam 2, the store: the memory of keys and values. All lanes hold entries().size() entries, which stand at
/// positions 0 .. size() - 1, unless its table says that they begin elsewhere. The library's Pot is one, over
/// its own memory or over an engine's.
template <class S>
concept Store = requires(S& store, const S& view, std::span<const Entry> added, const Selection& kept,
                         std::size_t size) {
  { view.shape() } -> std::convertible_to<Shape>;
  { view.capacity() } -> std::convertible_to<std::size_t>;
  { view.granularity() } -> std::convertible_to<Granularity>;
  { view.entries() } -> std::convertible_to<const EntryTable&>;
  /// The forward pass has written these entries' keys and values: from now on the store holds them.
  store.append(added);
  /// Entries from `size` on are gone, whether appended or only written.
  store.truncate(size);
  /// Only the selected entries stay. Their keys become as if rotated for their new positions from the start.
  store.keep(kept);
};

/// Key rows of one (layer, kv head), (count, head_dim), `stride` floats apart, rotated for their positions.
struct KeyRows {
  const float* data = nullptr;
  std::ptrdiff_t stride = 0;
};

/// A store whose keys can be read back, which an engine that yields queries needs: rows first ..
/// first + count - 1, which may be written but not yet appended, either where they are or converted into
/// `tile` (count * head_dim floats).
template <class S>
concept ReadableKeys = Store<S> && requires(const S& store, std::size_t layer, std::size_t kv_head,
                                            std::size_t first, std::size_t count, float* tile) {
  { store.key_rows(layer, kv_head, first, count, tile) }
  noexcept->std::same_as<KeyRows>;
};

}  // namespace infinipot
