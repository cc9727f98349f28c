// Whether the engine has all the rows that the store's capacity says.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "infinipot/ccd/watchers.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Runs tokens until the store is full. Returns what forward() threw, and nothing if it did not.
template <class Engine, class S>
std::string fill(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk) {
  const auto run = [&] {
    while (store.entries().size() < store.capacity()) {
      const std::size_t size = store.entries().size();
      const auto some = tokens.first((std::min)({chunk, tokens.size(), store.capacity() - size}));
      NoLogits logits(some.size());
      engine.forward(some, size, logits);
      append_call(store, some, size);
    }
  };
#ifdef __cpp_exceptions
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
#else
  run();
#endif
  return {};
}

/// Fills the store to the last row: forward() must take it, and earlier rows must stay as they were, which
/// they do not if the engine's rows begin anew.
template <class Engine, class S>
void check_room(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk,
                AdapterReport& report) {
  const Shape shape = store.shape();
  const std::size_t count = (std::min)(tokens.size(), chunk);
  EntryNumbers before(shape.layers, shape.kv_heads, count, shape.head_dim), after = before;
  const auto read = [&](EntryNumbers& keys) {
    if constexpr (ReadableEntries<S>)
      for (std::size_t layer = 0; layer < shape.layers; ++layer) read_keys(store, layer, 0, count, keys);
  };
  store.truncate(0);
  NoLogits logits(count);
  engine.forward(tokens.first(count), 0, logits);
  append_call(store, tokens.first(count), 0);
  read(before);
  const std::string thrown = fill(engine, store, tokens, chunk);
  if (!thrown.empty()) {
    report.found(Flaw::capacity, "forward() threw with ", store.entries().size(), " of ", store.capacity(),
                 " entries in the store: ", thrown);
    return;
  }
  read(after);
  if (before.numbers != after.numbers)
    report.found(Flaw::capacity, "the first ", count,
                 " entries changed while the store was filled to its capacity of ", store.capacity(),
                 ": the engine has fewer rows");
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
