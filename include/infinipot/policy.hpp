// Seam 3: what stays. A policy says what it watches and scores entries.
//
// It needs name() and something to go by: `watch`, one of the members below that imply it, or its own
// score(). Everything else has a default (policy/defaults.hpp).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/policy/entry_rows.hpp"
#include "infinipot/policy/score_view.hpp"
#include "infinipot/policy/smooth.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What a policy watches: whose attention, or the entries themselves.
enum class Watch : std::uint8_t {
  nothing,
  every_query,   ///< of all tokens while they are read; what an entry received so far travels with it (h2o)
  last_queries,  ///< of the last window() tokens before a distillation (snapkv, tova)
  probes,        ///< of tokens run through the model only at a distillation: catalysts, re-read blocks
  entries,       ///< no attention, but keys or values of all entries at a distillation (knorm, keydiff)
  queries_and_entries,  ///< entries, and queries of all tokens while they are read (expected_attention)
};

/// What a policy sees when a probe is due.
struct ProbeContext {
  std::span<const Token> fresh;  ///< tokens read since the last distillation, oldest first
};

namespace detail {

/// One member of a kind is enough to tell: then the compiler asks for the others.
template <class P>
consteval Watch find_watch() {
  constexpr bool probes = requires(const P& policy) { policy.longest_probe(); }
  || requires(const P& policy, const ProbeContext& context) { policy.probe(0, context); };
  constexpr bool window = requires(const P& policy) { policy.window(); };
  constexpr bool observes = requires(P & policy, const Queries& queries) { policy.observe(0, 0, queries); }
  || requires(P & policy) { policy.forget(); };
  constexpr bool scores = requires(const P& policy, const EntryRows& rows, std::span<float> out) {
    policy.score_entries(rows, out);
  };
  if constexpr (requires { P::watch; })
    return P::watch;
  else if constexpr (probes)
    return Watch::probes;
  else if constexpr (window)
    return Watch::last_queries;
  else if constexpr (observes)
    return Watch::queries_and_entries;
  else
    return scores ? Watch::entries : Watch::nothing;
}

}  // namespace detail

/// What a policy watches: P::watch if declared, else what its members imply. probe() means probes, window()
/// the last queries, observe() queries and entries, score_entries() entries.
template <class P>
inline constexpr Watch watch_of = detail::find_watch<P>();

/// Whether a policy of this watch scores entries by their keys or values.
constexpr bool watches_entries(Watch watch) noexcept {
  return watch == Watch::entries || watch == Watch::queries_and_entries;
}

/// A part of the free budget (what protected entries leave of `keep`) and how it is spent.
struct Rule {
  /// Share of the free budget, 0 .. 1, rounded down; the last rule takes what is left.
  double share = 1;
  /// Heads that choose together. If coarser than the store's lanes, these choose the same tokens, among those
  /// that all still hold. If finer, no effect.
  Granularity scope = Granularity::head;
  Smoothing smoothing = {};  ///< of the scores, before the selection
  Smoothing then = {};       ///< of what that gave
};

/// Seam 3, the policy. A higher score means keep. Besides name() it may have
///   uses_nuc()                   whether it needs NuC, which costs logits of every token; default false
///   rules()                      at least one Rule, applied in order; default one
///   score(rule, view, scores)    fills scores[t] for the view's entries by the given rule; an executor runs
///                                several lanes at once; default the sum over heads of what was watched
/// and what the concepts below ask for.
template <class P>
concept Policy = requires(const P& policy) {
  { policy.name() } -> std::convertible_to<std::string_view>;
}
&&(watch_of<P> != Watch::nothing || requires(const P& policy, std::size_t rule, const ScoreView& view,
                                             std::span<float> scores) { policy.score(rule, view, scores); });

/// A policy that watches the last window() queries before a distillation. Those entries were read since the
/// last distillation, so they are never survivors.
template <class P>
concept WatchesWindow = Policy<P> && requires(const P& policy) {
  { policy.window() } -> std::convertible_to<std::size_t>;
};

/// A policy that runs probes. Probe i runs at the end of the full pot, its attention is added (or the maximum
/// taken, as reduce() says), and it is dropped; an empty probe ends the series. The pot leaves room for
/// longest_probe() tokens; forward() gets each probe in one call. A reader tries the probes out on a single
/// fresh token when the policy meets it, to check their tokens.
template <class P>
concept RunsProbes = Policy<P> && requires(const P& policy, std::size_t i, const ProbeContext& context) {
  { policy.longest_probe() } -> std::convertible_to<std::size_t>;
  { policy.probe(i, context) } -> std::convertible_to<std::span<const Token>>;
  { policy.reduce() } -> std::convertible_to<Reduce>;
};

/// A policy that, for a store of this granularity, needs its probes' attention only in the model's first
/// probe_layers(granularity) layers, at least 1. Entries of other layers receive 0, and the engine may stop
/// early (QuerySink::layers()).
template <class P>
concept ProbesLowerLayers = RunsProbes<P> && requires(const P& policy, Granularity granularity) {
  { policy.probe_layers(granularity) } -> std::convertible_to<std::size_t>;
};

/// Whether an entry keeps what it received from earlier probes, so that further probes add to it (or raise
/// it): P::carries_attention, default false. Otherwise each distillation's probes begin at 0.
template <class P>
inline constexpr bool carries_attention = false;
template <class P>
requires requires { P::carries_attention; }
inline constexpr bool carries_attention<P> = P::carries_attention;

/// A policy that watches entries. score_entries() fills scores[t] for every entry of one (layer, kv head);
/// the view shows them as attention(), to be reduced where heads choose together. An executor runs several
/// heads at once. The store must be ReadableEntries.
template <class P>
concept ScoresEntries = Policy<P> &&
    requires(const P& policy, const EntryRows& rows, std::span<float> scores) {
  policy.score_entries(rows, scores);
};

/// Whether a policy scores entries by their values, so that it is refused where there are none but the keys
/// (Shape::value_dim 0): P::reads_values, default false.
template <class P>
inline constexpr bool reads_values = false;
template <class P>
requires requires { P::reads_values; }
inline constexpr bool reads_values<P> = P::reads_values;

/// A policy that sets how many floats rows.scratch() has. Default: head_dim.
template <class P>
concept SizesScratch = Policy<P> && requires(const P& policy, const Shape& shape, std::size_t capacity) {
  { policy.scratch(shape, capacity) } -> std::convertible_to<std::size_t>;
};

/// A policy that observes queries while the text is read, for Watch::queries_and_entries.
///
/// begin(shape, capacity, chunk) comes first and starts over: positions stay below `capacity`, and forward()
/// never gets more than `chunk` tokens. It may allocate and throw. observe(layer, first, queries) is called
/// during forward() for every layer; the queries are rotated for positions first, first + 1, ... of the pot.
/// Where several of the model's layers read one layer of the store, it is called for each of them, and all
/// count. They count once commit(layer, kv_head) is called: for every pair after forward() returns, by an
/// executor for several at once. If forward() throws, the observe() of another chunk follows without
/// commit(). A policy that must know may have drop(), which comes before each forward(): what was observed
/// and not committed does not count. forget() undoes all commits.
template <class P>
concept ObservesQueries = Policy<P> &&
    requires(P& policy, const Shape& shape, std::size_t n, const Queries& queries) {
  policy.begin(shape, n, n);
  { policy.observe(n, n, queries) }
  noexcept;
  { policy.commit(n, n) }
  noexcept;
  { policy.forget() }
  noexcept;
};

/// A policy whose observations can be saved. memory() is what all commits have left; recall() takes it back
/// after begin() for the same shape, and throws std::invalid_argument, before anything changes, for bytes of
/// another size.
template <class P>
concept RemembersQueries = ObservesQueries<P> &&
    requires(P& policy, const P& view, std::span<const std::byte> bytes) {
  { view.memory() } -> std::same_as<std::vector<std::byte>>;
  policy.recall(bytes);
};

/// A policy that wants the newest entries protected: recent(keep) of the `keep` that stay.
template <class P>
concept ProtectsRecent = Policy<P> && requires(const P& policy, std::size_t keep) {
  { policy.recent(keep) } -> std::convertible_to<std::size_t>;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
