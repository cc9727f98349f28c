// Settings of a reader, what it reports, and the check that the settings can work.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/policy/entry_rows.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

struct CcdSettings {
  /// C: entries that a distillation keeps, below the capacity; 0 means the pot's max_keep, or half the
  /// capacity of a store without one.
  std::size_t keep = 0;
  std::size_t sinks = 4;    ///< first entries that always stay
  std::size_t recent = 0;   ///< last entries that always stay; the policy or the store may want more
  std::size_t chunk = 256;  ///< most tokens per call of forward() while reading, at least 1
};

/// Whether a token may ever be dropped.
enum class Retention : std::uint8_t { evictable, pinned };

/// What one distillation did.
struct Distillation {
  std::uint64_t number = 0;        ///< from 1
  std::size_t entries_before = 0;  ///< per lane (EntryTable::size)
  std::size_t nan_scores = 0;      ///< scores that were NaN and counted as lowest
  double seconds = 0;              ///< all of it, and what a scheduler did between the passes
  double probe_seconds = 0;        ///< of that, the catalyst's forward passes and their scoring
  double cap_seconds = 0;          ///< of that, the scoring; 0 if the engine shows probabilities, not queries
  const Selection& kept;           ///< valid during the call only
};

/// What a distillation has chosen but not yet carried out.
struct Choice {
  std::uint64_t number = 0;   ///< of the distillation, from 1
  const EntryTable& entries;  ///< all entries
  /// (layers, kv_heads, capacity) that the policy chose by: attention received (0 in layers that it does
  /// without, see ProbesLowerLayers), or its own scores of entries; empty if it watches nothing.
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

/// (workers) memory for EntryRows; none for a policy that does not watch entries.
template <class S, Policy P>
std::vector<std::vector<float>> entry_memory(const S& store, const P& policy, std::size_t workers) {
  if constexpr (!watches_entries(watch_of<P>)) return {};
  const Shape shape = store.shape();
  std::size_t scratch = shape.head_dim;
  if constexpr (SizesScratch<P>) scratch = policy.scratch(shape, store.capacity());
  return std::vector(workers, std::vector<float>(EntryRows::floats(shape, scratch)));
}

/// The sum, or on overflow the largest std::size_t: a setting may be a difference that fell below zero.
inline std::size_t saturating_sum(std::initializer_list<std::size_t> parts) {
  std::size_t total = 0;
  for (const std::size_t part : parts) total = part > ~total ? ~std::size_t{0} : total + part;
  return total;
}

/// How many recent entries stay in a store: `recent`, or more if it asks for more.
template <class S>
std::size_t recent_in(const S& store, std::size_t recent) {
  if constexpr (AsksForRecent<S>)
    return (std::max)(recent, static_cast<std::size_t>(store.keeps_recent()));
  else
    return recent;
}

/// The settings with defaults filled in. Throws std::invalid_argument if they cannot work.
template <class Engine, class S, Policy P>
CcdSettings checked_settings(const Engine& engine, const S& store, const P& policy, CcdSettings settings) {
  const Shape shape = store.shape();
  shape.validate();
  if (const Shape other = engine.shape(); !(other == shape))
    invalid("the engine's shape ", other, " differs from the store's ", shape);
  if (reads_values<P> && shape.value_channels() == 0)
    invalid(policy.name(),
            " scores entries by their values, but this shape has none but the keys (value_dim 0)");
  if (const EntryTable& entries = store.entries(); !entries.empty())
    invalid("the store holds ", entries.size(), " entries already");
  const std::size_t capacity = store.capacity(), probe = longest_probe(policy),
                    watched = watched_window(policy);
  if constexpr (requires { store.max_keep(); })
    if (settings.keep == 0) settings.keep = store.max_keep();
  if (settings.keep == 0) settings.keep = capacity / 2;
  settings.recent = recent_in(store, recent_of(policy, settings.recent, settings.keep));
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
  const std::size_t filled = saturating_sum({settings.keep, std::max<std::size_t>(watched, 1), probe});
  if (filled > capacity)
    invalid("capacity ", capacity, " leaves no room to read beside ", settings.keep, " kept entries, ", probe,
            " catalyst tokens and a window of ", watched, "; it must be at least ", filled);
  if (settings.chunk == 0) invalid("chunk 0 must be at least 1");
  return settings;
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
