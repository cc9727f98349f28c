// Runs one token many times and keeps its keys, values and queries in all layers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/check/rope_fit.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Whether an engine shows queries, at this time.
template <class Engine>
bool queries_shown(const Engine& engine) {
  if constexpr (YieldsQueries<Engine>)
    return shows_queries(engine);
  else
    return false;
}

/// Whether keys of a store can be read: at any time, or while queries are shown.
template <class Engine, class S>
bool keys_readable(const Engine& engine) {
  return ReadableEntries<S> || (ReadableKeys<S> && queries_shown(engine));
}

/// The Rope that a store says that a layer's keys have; without frequencies if it says nothing.
template <class S>
Rope claimed_rope(const S& store, std::size_t layer) {
  if constexpr (requires { bool(store.rotates(layer)); }) {
    if (!store.rotates(layer)) return {};
  }
  if constexpr (requires { Rope(store.rope()); })
    return store.rope();
  else
    return {};
}

template <class S>
KeyStorage claimed_storage(const S& store) {
  if constexpr (requires { KeyStorage(store.key_storage()); })
    return store.key_storage();
  else
    return KeyStorage::rotated;
}

/// Turns a vector by `positions` times a Rope's frequencies, in double.
inline void turn(const Rope& rope, double positions, double factor, float* row) {
  const PairLayout layout = layout_of(rope);
  for (std::size_t i = 0; i < layout.count; ++i) {
    const auto [first, second] = layout.channels(i);
    float &x = row[first], &y = row[second];
    const double angle = positions * rope.frequencies[i];
    const double c = factor * std::cos(angle), s = factor * std::sin(angle);
    const auto a = static_cast<double>(x), b = static_cast<double>(y);
    x = static_cast<float>(a * c - b * s);
    y = static_cast<float>(a * s + b * c);
  }
}

/// What a repeated token left behind. Entries are positions.
struct RepeatedToken {
  EntryNumbers keys;      ///< (layers, kv_heads, ...), empty if they cannot be read
  EntryNumbers values;    ///< the same, of value_channels; empty if there are none of their own
  EntryNumbers queries;   ///< (layers, some query heads, ...), empty if they are not shown
  std::size_t chunk = 0;  ///< tokens per call

  /// The heads of a layer, as vectors that turn, from entry `first` on. Returns false if a number is not
  /// finite.
  static bool layer(const EntryNumbers& numbers, std::size_t layer, Rounding rounding, Traces& traces,
                    std::size_t first = 0) {
    traces = {};
    traces.positions = numbers.entries - first;
    traces.head_dim = numbers.width;
    traces.rounding = rounding;
    for (std::size_t head = 0; head < numbers.heads; ++head)
      if (!traces.add(numbers.at(layer, head, first))) return false;
    return true;
  }

  /// Queries as if the tokens of each call had been shown last one first.
  EntryNumbers reversed_queries() const {
    EntryNumbers reversed = queries;
    for (std::size_t layer = 0; layer < queries.layers; ++layer)
      for (std::size_t head = 0; head < queries.heads; ++head)
        for (std::size_t from = 0; from < queries.entries; from += chunk) {
          const std::size_t count = (std::min)(chunk, queries.entries - from);
          for (std::size_t i = 0; i < count; ++i)
            std::copy_n(queries.at(layer, head, from + count - 1 - i), queries.width,
                        reversed.at(layer, head, from + i));
        }
    return reversed;
  }
};

/// Runs a token `count` times from an empty store on, which is left full of them. Calls look(KeptQueries)
/// after each call that shows queries.
template <class Engine, class S, class Look>
RepeatedToken repeat(Engine& engine, S& store, Token token, std::size_t count, std::size_t chunk,
                     const Look& look) {
  const Shape shape = store.shape();
  const bool shows = queries_shown(engine);
  RepeatedToken all{.keys = {}, .values = {}, .queries = {}, .chunk = chunk};
  if (keys_readable<Engine, S>(engine))
    all.keys = EntryNumbers(shape.layers, shape.kv_heads, count, shape.head_dim);
  if (shows) {
    constexpr std::size_t most = std::size_t{1} << 25;  // floats
    const std::size_t heads = most / (shape.layers * count * shape.head_dim);
    all.queries = EntryNumbers(shape.layers, std::clamp<std::size_t>(heads, 1, shape.query_heads), count,
                               shape.head_dim);
  }
  const std::vector<Token> tokens(chunk, token);
  for (std::size_t first = 0; first < count; first += chunk) {
    const auto some = std::span(tokens).first((std::min)(chunk, count - first));
    NoLogits logits(some.size());
    if constexpr (YieldsQueries<Engine>) {
      if (shows) {
        KeptQueries<S> queries(store, first, some.size(), all.queries, all.keys);
        engine.forward(some, first, logits, static_cast<QuerySink&>(queries));
        look(queries);
      }
    }
    if (!shows) engine.forward(some, first, logits);
    append_call(store, some, first);
  }
  if constexpr (ReadableEntries<S>) {
    all.values = EntryNumbers(shape.layers, shape.kv_heads, count, shape.value_channels());
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      read_keys(store, layer, 0, count, all.keys);
      read_values(store, layer, count, all.values);
    }
  }
  // As they are stored.
  if (claimed_storage(store) == KeyStorage::unrotated && !all.keys.numbers.empty()) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Rope rope = claimed_rope(store, layer);
      for (std::size_t head = 0; head < shape.kv_heads; ++head)
        for (std::size_t entry = 0; entry < count; ++entry)
          turn(rope, -static_cast<double>(entry), 1 / rope.attention_factor, all.keys.at(layer, head, entry));
    }
  }
  return all;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
