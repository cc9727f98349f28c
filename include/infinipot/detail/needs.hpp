// What a policy needs of an engine and a store, and what the compiler says where it is missing.
#pragma once

#include "infinipot/concepts.hpp"
#include "infinipot/entry_rows.hpp"
#include "infinipot/policy.hpp"

namespace infinipot::detail {

template <class Engine, class S, class P>
struct Needs {
  static_assert(
      ForwardPass<Engine>,
      "infinipot: the engine needs shape(), vocab_size() and forward(tokens, first, LogitsSink&); see "
      "ForwardPass in infinipot/concepts.hpp");
  static_assert(
      Store<S>,
      "infinipot: the store needs shape(), capacity(), granularity(), entries(), append(), truncate() and "
      "keep(); see Store in infinipot/concepts.hpp");
  static_assert(Policy<P>,
                "infinipot: the policy needs watch, name(), uses_nuc(), rules() and score(); see Policy in "
                "infinipot/policy.hpp");
  /// Whether it watches attention.
  static constexpr bool watches = P::watch != Watch::nothing && !watches_entries(P::watch);
  /// Whether it is shown queries as they are.
  static constexpr bool observes = P::watch == Watch::queries_and_entries;
  /// Whether by way of queries, if the engine so chooses.
  static constexpr bool by_queries = YieldsQueries<Engine> && ReadableKeys<S>;
  static_assert(
      !watches || YieldsQueries<Engine> || YieldsAttention<Engine>,
      "infinipot: this policy scores entries by attention, so the engine needs a second forward() that also "
      "takes a QuerySink& or an AttentionSink&; see YieldsQueries in infinipot/concepts.hpp");
  static_assert(!watches || !YieldsQueries<Engine> || ReadableKeys<S> || YieldsAttention<Engine>,
                "infinipot: to score by an engine's queries the store needs key_rows(); see ReadableKeys in "
                "infinipot/concepts.hpp");
  static_assert(P::watch != Watch::probes || RunsProbes<P>,
                "infinipot: a policy that watches probes needs longest_probe(), probe() and reduce(); see "
                "RunsProbes in "
                "infinipot/policy.hpp");
  static_assert(!observes || YieldsQueries<Engine>,
                "infinipot: this policy observes queries, so the engine needs a second forward() that also "
                "takes a QuerySink&; see YieldsQueries in infinipot/concepts.hpp");
  static_assert(!observes || ObservesQueries<P>,
                "infinipot: a policy that observes queries needs begin(), observe(), commit() and forget(); "
                "see ObservesQueries in infinipot/policy.hpp");
  static_assert(!watches_entries(P::watch) || ScoresEntries<P>,
                "infinipot: a policy that watches entries needs score_entries(); see ScoresEntries in "
                "infinipot/policy.hpp");
  static_assert(!watches_entries(P::watch) || ReadableEntries<S>,
                "infinipot: this policy scores entries by keys or values, so the store needs key_rows() and "
                "value_rows(); see ReadableEntries in infinipot/entry_rows.hpp");
  static_assert(P::watch != Watch::last_queries || WatchesWindow<P>,
                "infinipot: a policy that watches the last queries needs window(); see WatchesWindow in "
                "infinipot/policy.hpp");
};

}  // namespace infinipot::detail
