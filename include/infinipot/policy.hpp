// The third seam: who decides what stays. A policy says what it wants to see and scores entries.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "infinipot/cap.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/entry_rows.hpp"
#include "infinipot/score_view.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/smooth.hpp"

namespace infinipot {

/// What a policy wants to see: whose attention, or the entries themselves.
enum class Watch : std::uint8_t {
  nothing,       ///< none
  every_query,   ///< of all tokens while they are read; what an entry received so far travels with it (h2o)
  last_queries,  ///< of the last window() tokens before a distillation (snapkv, tova)
  probes,        ///< of tokens that run through the model at a distillation only: catalysts, re-read blocks
  entries,       ///< no attention, but keys or values of all entries at a distillation (knorm, keydiff)
  queries_and_entries,  ///< entries, and queries of all tokens while they are read (expected_attention)
};

/// Whether a policy of this watch scores entries by their keys or values.
constexpr bool watches_entries(Watch watch) noexcept {
  return watch == Watch::entries || watch == Watch::queries_and_entries;
}

/// A part of the free budget (what protected entries leave of it) and how it is shared out.
struct Rule {
  /// Its share of the free budget, 0 .. 1, rounded down; the last rule takes whatever is left.
  double share = 1;
  /// Heads that must agree. Coarser than the store's lanes it is a part for all: those lanes take the same
  /// tokens, of those that they all still hold. Finer than the store's lanes it has no effect.
  Granularity scope = Granularity::head;
  Smoothing smoothing = {};  ///< of the scores, before the selection
};

/// What a policy gets to see when a probe run is due.
struct ProbeContext {
  std::span<const Token> fresh;  ///< tokens read since the last distillation, oldest first
};

/// Seam 3, the policy. A higher score means keep.
template <class P>
concept Policy = requires(const P& policy, std::size_t rule, const ScoreView& view, std::span<float> scores) {
  { P::watch } -> std::convertible_to<Watch>;
  { policy.name() } -> std::convertible_to<std::string_view>;
  /// Whether NuC must be known, which costs logits of every token.
  { policy.uses_nuc() } -> std::convertible_to<bool>;
  /// At least one; entries are chosen by one after the other.
  { policy.rules() } -> std::convertible_to<std::span<const Rule>>;
  /// Fills scores[t] for the view's entries by the given rule. Not from one thread alone: an executor runs
  /// several lanes at once.
  policy.score(rule, view, scores);
};

/// A policy that watches the last window() queries before a distillation; those entries cannot be survivors.
template <class P>
concept WatchesWindow = Policy<P> && requires(const P& policy) {
  { policy.window() } -> std::convertible_to<std::size_t>;
};

/// A policy that runs probes. Probe i is run at the end of the full pot, its attention is added (or, as
/// reduce() says, the maximum taken), and it is dropped; an empty probe ends the row. The pot leaves room for
/// longest_probe() tokens, and forward() gets each probe in one call.
template <class P>
concept RunsProbes = Policy<P> && requires(const P& policy, std::size_t i, const ProbeContext& context) {
  { policy.longest_probe() } -> std::convertible_to<std::size_t>;
  { policy.probe(i, context) } -> std::convertible_to<std::span<const Token>>;
  { policy.reduce() } -> std::convertible_to<Reduce>;
};

/// A policy that, of a store of this granularity, needs its probes' attention in the model's first
/// probe_layers(granularity) layers alone: at least 1. Others' entries receive 0 then, and the engine may
/// stop there, as QuerySink::layers() tells it.
template <class P>
concept ProbesLowerLayers = RunsProbes<P> && requires(const P& policy, Granularity granularity) {
  { policy.probe_layers(granularity) } -> std::convertible_to<std::size_t>;
};

/// Whether what an entry received from earlier probes goes on with it while it lives, so that further probes
/// add to it (or raise it): P::carries_attention, false if there is none. Other probes begin at 0.
template <class P>
inline constexpr bool carries_attention = false;
template <class P>
requires requires { P::carries_attention; }
inline constexpr bool carries_attention<P> = P::carries_attention;

/// A policy that watches entries. score_entries() fills scores[t] for every entry of one (layer, kv head);
/// the view shows them as attention(), to be aggregated where heads choose together. An executor runs several
/// heads at once. The store must be ReadableEntries.
template <class P>
concept ScoresEntries = Policy<P> &&
    requires(const P& policy, const detail::AnyEntryRows& rows, std::span<float> scores) {
  policy.score_entries(rows, scores);
};

/// A policy that scores entries with more scratch memory than the head_dim floats that rows.scratch() has
/// otherwise.
template <class P>
concept SizesScratch = Policy<P> && requires(const P& policy, const Shape& shape, std::size_t capacity) {
  { policy.scratch(shape, capacity) } -> std::convertible_to<std::size_t>;
};

/// A policy that observes queries while the text is read, for Watch::queries_and_entries.
///
/// begin(shape, start, capacity, chunk) comes before anything else, and makes all begin anew: positions are
/// below `capacity`, that of a stream's first token is `start` (EntryTable::start), and forward() will never
/// be given more than `chunk` tokens. It may allocate, and throw. observe(layer, first, queries) is called
/// during forward() for every layer; the queries are rotated for positions first, first + 1, ... of the pot.
/// What it was shown counts from commit(layer, kv_head) on, which is called for every pair when forward() has
/// returned, by an executor for several at once. If forward() throws, no commit() follows, but the observe()
/// of another chunk. forget() undoes all that was committed.
template <class P>
concept ObservesQueries = Policy<P> &&
    requires(P& policy, const Shape& shape, std::size_t n, const Queries& queries) {
  policy.begin(shape, n, n, n);
  { policy.observe(n, n, queries) }
  noexcept;
  { policy.commit(n, n) }
  noexcept;
  { policy.forget() }
  noexcept;
};

/// A policy that wants the newest entries protected: recent(keep) of the `keep` that stay.
template <class P>
concept ProtectsRecent = Policy<P> && requires(const P& policy, std::size_t keep) {
  { policy.recent(keep) } -> std::convertible_to<std::size_t>;
};

}  // namespace infinipot
