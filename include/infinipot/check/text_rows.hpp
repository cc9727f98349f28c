// Runs a text and keeps its keys and values, as far as they can be read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/ccd/watchers.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

struct TextRows {
  EntryNumbers keys;     ///< (layers, kv_heads, entries, head_dim), rotated; empty if they cannot be read
  EntryNumbers shown;    ///< the same while queries were shown; empty if they are not
  EntryNumbers values;   ///< of value_channels; empty if they cannot be read or are none of their own
  EntryNumbers queries;  ///< (layers, query_heads, entries, head_dim); empty if they are not shown
};

/// Runs tokens from an empty store on, which then holds them.
template <class Engine, class S>
TextRows run_text(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk) {
  const Shape shape = store.shape();
  const auto numbers = [&](std::size_t heads) {
    return EntryNumbers(shape.layers, heads, tokens.size(), shape.head_dim);
  };
  const bool shows = queries_shown(engine);
  TextRows rows;
  if (shows) rows.queries = numbers(shape.query_heads);
  if (shows && ReadableKeys<S>) rows.shown = numbers(shape.kv_heads);
  store.truncate(0);
  for (std::size_t first = 0; first < tokens.size(); first += chunk) {
    const auto some = tokens.subspan(first, (std::min)(chunk, tokens.size() - first));
    NoLogits logits(some.size());
    if constexpr (YieldsQueries<Engine>) {
      if (shows) {
        KeptQueries<S> queries(store, first, some.size(), rows.queries, rows.shown, !ReadableEntries<S>);
        engine.forward(some, first, logits, static_cast<QuerySink&>(queries));
      }
    }
    if (!shows) engine.forward(some, first, logits);
    append_call(store, some, first);
  }
  if constexpr (ReadableEntries<S>) {
    rows.keys = numbers(shape.kv_heads);
    rows.values = EntryNumbers(shape.layers, shape.kv_heads, tokens.size(), shape.value_channels());
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      read_keys(store, layer, 0, tokens.size(), rows.keys);
      read_values(store, layer, tokens.size(), rows.values);
    }
  } else {
    rows.keys = rows.shown;
  }
  return rows;
}

/// Whether rows of different places are told apart by the store, and come in their layer's turn. The text has
/// two tokens at least that differ, and the rows held others before.
class TextRowsCheck {
 public:
  TextRowsCheck(const TextRows& rows, AdapterReport& report) : rows_(rows), report_(report) {}

  void run() {
    if (!rows_.shown.numbers.empty()) check_turn();
    check_apart(rows_.keys, "keys");
    check_apart(rows_.values, "values");
  }

 private:
  /// Rows of a layer that were written only after its queries were shown.
  void check_turn() {
    std::vector<std::size_t> late;
    const EntryNumbers &shown = rows_.shown, &keys = rows_.keys;
    for (std::size_t layer = 0; layer < keys.layers; ++layer)
      if (!std::equal(shown.at(layer, 0, 0), shown.at(layer, 0, 0) + keys.heads * keys.entries * keys.width,
                      keys.at(layer, 0, 0)))
        late.push_back(layer);
    if (late.empty()) return;
    const bool all = late.size() == keys.layers;
    report_.found(all ? Flaw::keys_late : Flaw::layer_stride, "keys of ", words_for_layers(late, keys.layers),
                  " were not yet in the store when the layer's queries were shown, but later",
                  all ? ": show queries once the keys are written"
                      : "; those of other layers were: layers of the store's layout are in another order");
  }

  void check_apart(const EntryNumbers& rows, const char* what) {
    if (rows.numbers.empty()) return;
    const std::size_t head_size = rows.entries * rows.width, layer_size = rows.heads * head_size;
    const auto same = [&](const float* a, const float* b, std::size_t size) {
      return std::equal(a, a + size, b);
    };
    bool entries = true, heads = rows.heads > 1;
    for (std::size_t layer = 0; layer < rows.layers; ++layer)
      for (std::size_t head = 0; head < rows.heads; ++head) {
        heads = heads && same(rows.at(layer, 0, 0), rows.at(layer, head, 0), head_size);
        for (std::size_t entry = 1; entry < rows.entries; ++entry)
          entries = entries && same(rows.at(layer, head, 0), rows.at(layer, head, entry), rows.width);
      }
    if (entries)
      add(Flaw::entry_stride, what,
          " of all entries are the same, though tokens differ: is an entry stride 0?");
    else if (heads)
      add(Flaw::head_stride, what, " of all kv heads are the same: is a head stride 0?");
    for (std::size_t layer = 1; layer < rows.layers; ++layer)
      if (same(rows.at(0, 0, 0), rows.at(layer, 0, 0), layer_size)) {
        add(Flaw::layer_stride, what, " of layers 0 and ", layer, " are the same: is a layer stride 0?");
        return;
      }
  }

  template <class... Parts>
  void add(Flaw flaw, const Parts&... parts) {
    if (!report_.has(flaw)) report_.found(flaw, parts...);
  }

  const TextRows& rows_;
  AdapterReport& report_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
