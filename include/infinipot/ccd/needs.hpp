// What a policy needs of an engine and a store, and what the compiler says if it is missing.
#pragma once

#include <type_traits>

#include "infinipot/concepts.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Settings of a policy, which name it.
template <class P>
concept NamesItsPolicy = requires {
  typename P::policy;
};

/// What constructors get by forwarding references.
template <class E, class T>
concept AnyTemporary = !std::is_reference_v<E> || !std::is_reference_v<T>;

/// Whether passes can show queries, by forward() or as the engine is described.
template <class Engine>
inline constexpr bool can_show_queries = YieldsQueries<Engine>;
template <DescribedPass Engine>
requires(!ForwardPass<Engine>) inline constexpr bool can_show_queries<Engine> = Engine::shows
                                                                                    == Shows::queries
                                                                                || Engine::shows
                                                                                       == Shows::either;

/// The same of attention.
template <class Engine>
inline constexpr bool can_show_attention = YieldsAttention<Engine>;
template <DescribedPass Engine>
requires(!ForwardPass<Engine>) inline constexpr bool can_show_attention<Engine> = Engine::shows
                                                                                      == Shows::attention
                                                                                  || Engine::shows
                                                                                         == Shows::either;

/// Whether to take an engine's queries rather than its probabilities, if it has both.
template <class Engine>
bool shows_queries(const Engine& engine) {
  if constexpr (can_show_queries<Engine> && can_show_attention<Engine> &&
                requires { bool(engine.shows_queries()); })
    return engine.shows_queries();
  else
    return true;
}

template <class Engine, class S, class P>
struct Needs {
  static_assert(
      ForwardPass<Engine> || DescribedPass<Engine>,
      "infinipot: the engine needs shape(), vocab_size() and forward(tokens, first, LogitsSink&); see "
      "ForwardPass in infinipot/concepts.hpp, or DescribedPass if somebody else runs it");
  static_assert(
      Store<S>,
      "infinipot: the store needs shape(), capacity(), granularity(), entries(), append(), truncate() and "
      "keep(); see Store in infinipot/concepts.hpp");
  static_assert(
      !NamesItsPolicy<P>,
      "infinipot: these are a policy's settings, not the policy; name that, or leave Ccd's template "
      "arguments to the compiler");
  static_assert(Policy<P> || NamesItsPolicy<P>,
                "infinipot: the policy needs name(), and score() unless it watches something; see Policy in "
                "infinipot/policy.hpp");
  /// Makes the compiler look.
  static constexpr bool asked = true;
  /// Whether it makes sense to look further.
  static constexpr bool basics = (ForwardPass<Engine> || DescribedPass<Engine>)&&Store<S> && Policy<P>;
  static constexpr Watch watch = watch_of<P>;
  /// Whether it watches attention.
  static constexpr bool watches = watch != Watch::nothing && !watches_entries(watch);
  /// Whether it gets the queries themselves.
  static constexpr bool observes = watch == Watch::queries_and_entries;
  /// Whether attention comes by way of queries, if the engine so chooses.
  static constexpr bool by_queries = can_show_queries<Engine> && ReadableKeys<S>;
  static constexpr bool by_attention = can_show_attention<Engine>;
  static_assert(
      !watches || can_show_queries<Engine> || by_attention,
      "infinipot: this policy scores entries by attention, so the engine needs a second forward() that also "
      "takes a QuerySink& or an AttentionSink&; see YieldsQueries in infinipot/concepts.hpp (or "
      "DescribedPass, whose `shows` says so)");
  static_assert(!watches || !can_show_queries<Engine> || ReadableKeys<S> || by_attention,
                "infinipot: to score by an engine's queries the store needs key_rows(); see ReadableKeys in "
                "infinipot/concepts.hpp");
  static_assert(watch != Watch::probes || RunsProbes<P>,
                "infinipot: a policy that watches probes needs longest_probe(), probe() and reduce(); see "
                "RunsProbes in "
                "infinipot/policy.hpp");
  static_assert(!observes || can_show_queries<Engine>,
                "infinipot: this policy observes queries, so the engine needs a second forward() that also "
                "takes a QuerySink&; see YieldsQueries in infinipot/concepts.hpp (or DescribedPass, whose "
                "`shows` says so)");
  static_assert(!observes || ObservesQueries<P>,
                "infinipot: a policy that observes queries needs begin(), observe(), commit() and forget(); "
                "see ObservesQueries in infinipot/policy.hpp");
  static_assert(!watches_entries(watch) || ScoresEntries<P>,
                "infinipot: a policy that watches entries needs score_entries(); see ScoresEntries in "
                "infinipot/policy.hpp");
  static_assert(!watches_entries(watch) || ReadableEntries<S>,
                "infinipot: this policy scores entries by keys or values, so the store needs key_rows() and "
                "value_rows(); see ReadableEntries in infinipot/concepts.hpp");
  static_assert(watch != Watch::last_queries || WatchesWindow<P>,
                "infinipot: a policy that watches the last queries needs window(); see WatchesWindow in "
                "infinipot/policy.hpp");
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
