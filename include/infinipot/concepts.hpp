// The seams between infinipot and an engine: the forward pass and the store. (The third, the policy, is in
// policy.hpp; the fourth, threads, in executor.hpp.)
//
// An engine needs shape(), vocab_size() and one forward(). Further overloads of forward() say what else it
// can show. A policy that needs more does not compile; the message names what is missing.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/queries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Receives the logits of a forward pass, a row for each token of the call: the logits after that token. Rows
/// may come from several threads at once.
///
/// Giving every row to row() is always correct. An engine that can score a token without whole logits
/// (nuc/online_nuc.hpp, nuc/nuc_from_hidden.hpp) may give rows below targets().size() to nuc() instead, each
/// row to one of the two.
class LogitsSink {
 public:
  /// Rows below this one need not be computed. None is wanted if it equals the number of tokens.
  std::size_t first_row() const noexcept { return first_row_; }

  /// Of a row r < targets().size() only the NuC of token targets()[r] is wanted, of later rows the logits.
  /// Fewer than the call's tokens; empty if all logits are wanted. Valid during the call.
  std::span<const Token> targets() const noexcept { return targets_; }

  /// What to add to the call's positions to get those in the stream: 0 while the store holds all of it. For
  /// layers that go on at the stream's positions. Right for the call's first token, and for all of them
  /// unless entries with gaps between are read anew after a recall.
  std::uint64_t stream_offset() const noexcept { return stream_offset_; }

  /// Whether the call is a probe, such as a catalyst: its entries are dropped once it has returned.
  bool probe() const noexcept { return probe_; }

  /// The logits (vocab_size) after token `token` of the call: the model's prediction of the next token.
  virtual void row(std::size_t token, std::span<const float> logits) noexcept = 0;

  /// The NuC of targets()[token] after token `token`: infinipot::nuc() of those logits. Only for
  /// first_row() <= token < targets().size().
  virtual void nuc(std::size_t /*token*/, float /*nuc*/) noexcept {}

 protected:
  explicit LogitsSink(std::size_t first_row, std::span<const Token> targets = {},
                      std::uint64_t stream_offset = 0, bool probe = false) noexcept
      : first_row_(first_row), targets_(targets), stream_offset_(stream_offset), probe_(probe) {}
  LogitsSink(const LogitsSink&) = default;
  LogitsSink& operator=(const LogitsSink&) = default;
  ~LogitsSink() = default;

 private:
  std::size_t first_row_;
  std::span<const Token> targets_;
  std::uint64_t stream_offset_;
  bool probe_;
};

/// All layers of a model, however many it has.
inline constexpr std::size_t all_layers = (std::numeric_limits<std::size_t>::max)();

/// Receives the queries of a forward pass, layer by layer.
class QuerySink {
 public:
  /// Only the model's first layers() layers matter, at least 1. Showing more is correct. If no logits are
  /// wanted either, the engine may return after the last of these layers.
  virtual std::size_t layers() const noexcept { return all_layers; }

  /// Called once for each layer of the store, once its new keys are there; or, where several of the model's
  /// layers read one layer of the store (KV sharing), once for each of those: what they pay adds up. Never
  /// from two threads at once.
  virtual void layer(std::size_t layer, const Queries& queries) noexcept = 0;

 protected:
  QuerySink() = default;
  QuerySink(const QuerySink&) = default;
  QuerySink& operator=(const QuerySink&) = default;
  ~QuerySink() = default;
};

/// Receives attention probabilities, for engines that have them but do not show queries.
class AttentionSink {
 public:
  /// As QuerySink::layers().
  virtual std::size_t layers() const noexcept { return all_layers; }

  /// The attention that one query head of token `token` pays to entries 0 .. probabilities.size() - 1. Never
  /// from two threads at once for query heads of a layer that share a kv head.
  virtual void row(std::size_t layer, std::size_t query_head, std::size_t token,
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
/// NuC of its targets). It may throw; the loop then truncates the store to `first` entries. A reader refuses
/// a call that left out logits or queries, or showed some of another number of tokens.
///
/// The store holds the layers that keep the whole context; what else a model remembers stays the engine's.
/// Layers with a sliding window go on at the stream's positions (LogitsSink::stream_offset()) in a ring of
/// window - 1 entries and the longest call of forward(). Recurrent and convolutional states are put back
/// after a call that is a probe() or that throws. A call may begin elsewhere in the stream than where the one
/// before ended: earlier, since a policy reads the last tokens anew; anywhere, since a text is recalled; or
/// where it was before either. Both then go there, or forward() throws.
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

/// An engine that can show either, one at a time, and says which: a fused kernel, for instance, has no
/// attention probabilities. Without shows_queries(), queries are used.
template <class E>
concept ChoosesWhatToShow = YieldsQueries<E> && YieldsAttention<E> && requires(const E& view) {
  { view.shows_queries() } -> std::convertible_to<bool>;
};

/// What the passes of an engine that is only described can show besides logits. Either: one of the two, as
/// its shows_queries() says.
enum class Shows : std::uint8_t { logits, queries, attention, either };

/// An engine that is only described: without forward(), for somebody else runs its passes (Ccd::next()). A
/// constant, E::shows, says what they can show. An engine with forward() need not describe itself.
template <class E>
concept DescribedPass = requires(const E& view) {
  { view.shape() } -> std::convertible_to<Shape>;
  { view.vocab_size() } -> std::convertible_to<std::size_t>;
  { E::shows } -> std::convertible_to<Shows>;
};

/// Seam 2, the store: the memory of keys and values. Lanes all hold entries().size() entries, at positions
/// 0 .. size() - 1. The library's Pot is one, over its own memory or an engine's.
///
/// append(), truncate() and keep() may throw; the loop passes it on. append() and truncate() must then have
/// changed nothing: truncate() is called again before anything else is read. After a keep() that threw,
/// nothing is read until the store is in order and Ccd::resume() is called.
template <class S>
concept Store = requires(S& store, const S& view, std::span<const Entry> added, const Selection& kept,
                         std::size_t size) {
  { view.shape() } -> std::convertible_to<Shape>;
  { view.capacity() } -> std::convertible_to<std::size_t>;
  { view.granularity() } -> std::convertible_to<Granularity>;
  { view.entries() } -> std::convertible_to<const EntryTable&>;
  /// Adds entries whose keys and values the forward pass has written; or, if reading them anew failed, those
  /// that truncate() has just dropped. A store that cannot take these back must throw.
  store.append(added);
  /// Drops entries from `size` on, whether appended or only written.
  store.truncate(size);
  /// Keeps only the selected entries. Their keys become as if rotated for their new positions from the start.
  store.keep(kept);
};

/// A store whose keys can be read back, for engines that yield queries: entries first .. first + count - 1,
/// written though perhaps not yet appended, in place or converted into `tile` (count * head_dim floats).
template <class S>
concept ReadableKeys = Store<S> && requires(const S& store, std::size_t layer, std::size_t kv_head,
                                            std::size_t first, std::size_t count, float* tile) {
  { store.key_rows(layer, kv_head, first, count, tile) }
  noexcept->std::same_as<FloatRows>;
};

/// A store whose keys and values can be read back at any time, for policies that score entries by them. (With
/// ReadableKeys alone, keys need be readable only while a forward pass shows its queries.)
template <class S>
concept ReadableEntries = ReadableKeys<S> && requires(const S& store, std::size_t layer, std::size_t kv_head,
                                                      std::size_t first, std::size_t count, float* tile) {
  { store.value_rows(layer, kv_head, first, count, tile) }
  noexcept->std::same_as<FloatRows>;
};

/// A store whose entries can be archived with their rows: it can give back keys as projected, before RoPE.
template <class S>
concept ArchivableEntries = ReadableEntries<S> &&
    requires(const S& view, std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) {
  { view.read_projected(layer, kv_head, entry, key) }
  noexcept;
};

/// A store that takes back archived rows: it rotates `key`, which it may use as scratch, for the place that
/// it gets. Called for different entries from several threads at once, before append().
template <class S>
concept WritableEntries = ArchivableEntries<S> &&
    requires(S& store, std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
             const float* value) {
  { store.write_projected(layer, kv_head, entry, key, value) }
  noexcept;
};

/// A store that asks for at least so many of the newest entries to stay at every distillation, whatever
/// CcdSettings::recent says: window - 1, if layers with a sliding window live in it.
template <class S>
concept AsksForRecent = Store<S> && requires(const S& view) {
  { view.keeps_recent() } -> std::convertible_to<std::size_t>;
};

/// A store that can become a copy of another's first `count` entries. It may throw, before anything changes.
template <class S>
concept AssignableStore = Store<S> && requires(S& store, const S& other, std::size_t count) {
  store.assign(other, count);
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
