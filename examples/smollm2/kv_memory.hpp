#pragma once

#include <concepts>
#include <cstddef>

#include "infinipot/concepts.hpp"
#include "infinipot/pot.hpp"

namespace smollm2 {

/// What the engine asks of the memory of its keys and values; infinipot::Pot has it, of every element type.
/// Entries may be written anywhere below the capacity, different ones from different threads at once, and are
/// read back from 0 on, or from begin(layer) on if there is such a function. A memory of rotated keys that
/// does not re-index them says by position(entry) for which position the next key and query of an entry are
/// to be rotated; with all others that is `entry`.
template <class M>
concept KvMemory = requires(M& memory, const M& view, std::size_t n, const float* row, float* tile) {
  { view.shape() } -> std::convertible_to<infinipot::Shape>;
  { view.capacity() } -> std::convertible_to<std::size_t>;
  { view.key_storage() } -> std::same_as<infinipot::KeyStorage>;
  /// A key and a value of head_dim floats for (layer, kv head, entry).
  memory.write(n, n, n, row, row);
  /// Keys of some entries as floats, rotated: in place or in `tile`. (layer, kv head, first, count, tile)
  { view.key_rows(n, n, n, n, tile) }
  noexcept->std::same_as<infinipot::KeyRows>;
  /// And their values.
  { view.value_rows(n, n, n, n, tile) }
  noexcept->std::same_as<infinipot::KeyRows>;
};

/// The position of a token that is about to become an entry.
template <KvMemory Memory>
std::size_t position_of(const Memory& memory, std::size_t entry) noexcept {
  if constexpr (requires { memory.position(entry); })
    return memory.position(entry);
  else
    return entry;
}

/// A memory whose layers may begin at different entries.
template <class M>
concept BeginsByLayer = KvMemory<M> && requires(const M& view, std::size_t layer) {
  { view.begin(layer) } -> std::convertible_to<std::size_t>;
};

/// The first entry of a layer.
template <KvMemory M>
std::size_t begin_of(const M& memory, std::size_t layer) noexcept {
  if constexpr (BeginsByLayer<M>)
    return memory.begin(layer);
  else
    return 0;
}

}  // namespace smollm2
