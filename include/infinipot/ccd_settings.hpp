// What a reader is told when it is made, what it tells of itself, and whether it can work.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/entries.hpp"
#include "infinipot/entry_rows.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/selection.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

struct CcdSettings {
  /// C: entries that stay at a distillation, below the capacity; 0 means the pot's max_keep, or half of the
  /// capacity in stores that have none. In a pot with budgets for layers, the largest of these.
  std::size_t keep = 0;
  std::size_t sinks = 4;    ///< first entries that always stay
  std::size_t recent = 0;   ///< last entries that always stay
  std::size_t chunk = 256;  ///< most tokens in one call of forward() while reading, at least 1
};

/// Whether a token may ever be dropped.
enum class Retention : std::uint8_t { evictable, pinned };

/// What one distillation did.
struct Distillation {
  std::uint64_t number = 0;        ///< from 1
  std::size_t entries_before = 0;  ///< per lane (EntryTable::size)
  std::size_t nan_scores = 0;      ///< scores that were NaN and counted as lowest
  double seconds = 0;              ///< all of it
  double probe_seconds = 0;        ///< of that, the catalyst's forward passes and their scoring
  double cap_seconds = 0;          ///< of that, the scoring; 0 if the engine shows probabilities, not queries
  const Selection& kept;           ///< valid during the call only
};

/// What a distillation has chosen and not yet carried out.
struct Choice {
  std::uint64_t number = 0;   ///< of the distillation, from 1
  const EntryTable& entries;  ///< all that there are
  /// (layers, kv_heads, capacity) by which the policy chose: attention received (0 in layers that a policy
  /// does without, see ProbesLowerLayers), or its own scores of entries; empty if it watches nothing.
  std::span<const float> attention;
  const Selection& kept;  ///< indices of entries; all of these are valid during the call only
};

/// Running totals of a reader.
struct CcdStats {
  std::uint64_t tokens_read = 0;
  std::uint64_t distillations = 0;
  std::uint64_t nan_scores = 0;
  double distill_seconds = 0;
  double probe_seconds = 0;
  double cap_seconds = 0;
};

namespace detail {

/// Room that a policy's probes need, tokens.
template <Policy P>
std::size_t longest_probe(const P& policy) {
  if constexpr (RunsProbes<P>)
    return policy.longest_probe();
  else
    return 0;
}

/// Layers, from the first, whose attention a policy's probes are run for.
template <Policy P>
std::size_t probed_layers(const P& policy, Granularity granularity) {
  if constexpr (ProbesLowerLayers<P>)
    return policy.probe_layers(granularity);
  else
    return all_layers;
}

/// Last queries that a policy watches.
template <Policy P>
std::size_t watched_window(const P& policy) {
  if constexpr (P::watch == Watch::last_queries)
    return policy.window();
  else
    return 0;
}

/// (workers) what EntryRows need; none for a policy that does not watch entries.
template <class S, Policy P>
std::vector<std::vector<float>> entry_rooms(const S& store, const P& policy, std::size_t workers) {
  if constexpr (!watches_entries(P::watch)) return {};
  const Shape shape = store.shape();
  std::size_t scratch = shape.head_dim;
  if constexpr (SizesScratch<P>) scratch = policy.scratch(shape, store.capacity());
  const std::vector<float> room(EntryRows<S>::room(shape.head_dim, scratch));
  return std::vector<std::vector<float>>(workers, room);
}

/// How many recent entries always stay in a lane that keeps `keep`: what the settings say, or more if the
/// policy wants more.
template <Policy P>
std::size_t recent_of(const P& policy, std::size_t recent, std::size_t keep) {
  if constexpr (ProtectsRecent<P>)
    return std::max(recent, policy.recent(keep));
  else
    return recent;
}

/// The largest std::size_t where the sum is larger: a setting may be a difference that fell below zero.
inline std::size_t saturating_sum(std::initializer_list<std::size_t> parts) {
  std::size_t total = 0;
  for (const std::size_t part : parts) total = part > ~total ? ~std::size_t{0} : total + part;
  return total;
}

/// The settings with what was not given filled in. Throws std::invalid_argument if they cannot work.
template <class Engine, class S, Policy P>
CcdSettings checked_settings(const Engine& engine, const S& store, const P& policy, CcdSettings settings) {
  const Shape shape = store.shape();
  shape.validate();
  if (!(Shape(engine.shape()) == shape)) invalid("the engine's shape differs from the store's");
  const EntryTable& entries = store.entries();
  if (!entries.empty()) invalid("the store holds ", entries.size() - entries.begin(0), " entries already");
  if (!entries.budgets().empty()) {
    if constexpr (!AttendsFromBegin<Engine>)
      invalid(
          "the store has budgets for single layers, but the engine does not say that it attends to entries "
          "begin(layer) .. only; see AttendsFromBegin in infinipot/concepts.hpp");
    const std::size_t most = *std::max_element(entries.budgets().begin(), entries.budgets().end());
    if (settings.keep == 0) settings.keep = most;
    if (settings.keep != most)
      invalid("keep ", settings.keep, " is not the largest of the store's budgets, ", most,
              "; leave it at 0");
  }
  const std::size_t capacity = store.capacity(), probe = longest_probe(policy),
                    watched = watched_window(policy);
  if constexpr (requires { store.max_keep(); })
    if (settings.keep == 0) settings.keep = store.max_keep();
  if (settings.keep == 0) settings.keep = capacity / 2;
  const std::size_t recent = settings.recent;
  settings.recent = recent_of(policy, recent, settings.keep);
  if (settings.keep >= capacity)
    invalid("keep ", settings.keep, " must be below the pot's capacity ", capacity);
  if constexpr (requires { store.max_keep(); })
    if (settings.keep > store.max_keep())
      invalid("keep ", settings.keep, " exceeds the pot's max_keep ", store.max_keep());
  if (settings.keep == 0) invalid("keep must be at least 1; a pot of ", capacity, " is too small");
  const std::size_t needed = saturating_sum({settings.sinks, settings.recent, probe, 1});
  if (needed > capacity)
    invalid("capacity ", capacity, " is too small for ", settings.sinks, " sinks, ", settings.recent,
            " recent, ", probe, " catalyst tokens and one more; it must be at least ", needed);
  if (settings.sinks + settings.recent > settings.keep)
    invalid("keep ", settings.keep, " is too small for ", settings.sinks, " sinks and ", settings.recent,
            " recent entries");
  for (std::size_t lane = 0; lane < entries.budgets().size(); ++lane)
    if (const std::size_t budget = entries.budgets()[lane], last = recent_of(policy, recent, budget);
        saturating_sum({settings.sinks, last}) > budget)
      invalid("budget ", budget, " of layer ", lane * shape.layers / entries.lanes(), " is too small for ",
              settings.sinks, " sinks and ", last, " recent entries");
  const std::size_t room = saturating_sum({settings.keep, std::max<std::size_t>(watched, 1), probe});
  if (room > capacity)
    invalid("capacity ", capacity, " leaves no room to read beside ", settings.keep, " kept entries, ", probe,
            " catalyst tokens and a window of ", watched, "; it must be at least ", room);
  if (settings.chunk == 0) invalid("chunk 0 must be at least 1");
  return settings;
}

}  // namespace detail
}  // namespace infinipot
