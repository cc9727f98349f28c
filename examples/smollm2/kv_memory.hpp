#pragma once

#include <concepts>
#include <cstddef>

#include "infinipot/concepts.hpp"
#include "infinipot/pot.hpp"

namespace smollm2 {

/// What the engine asks of the memory of its keys and values; infinipot::Pot has it, of every element type.
/// Entries may be written anywhere below the capacity, different ones from different threads at once, and are
/// read back from 0 on. A memory of rotated keys that does not re-index them says by position(entry) for
/// which position the next key and query of an entry are to be rotated; with all others that is `entry`.
template <class M>
concept KvMemory = requires(M& memory, const M& view, std::size_t n, const float* row, float* tile) {
  { view.shape() } -> std::convertible_to<infinipot::Shape>;
  { view.capacity() } -> std::convertible_to<std::size_t>;
  { view.key_storage() } -> std::same_as<infinipot::KeyStorage>;
  /// A key and a value of head_dim floats for (layer, kv head, entry).
  memory.write(n, n, n, row, row);
  /// Keys of some entries as floats, rotated: in place or in `tile`. (layer, kv head, first, count, tile)
  { view.key_rows(n, n, n, n, tile) }
  noexcept->std::same_as<infinipot::FloatRows>;
  /// And their values.
  { view.value_rows(n, n, n, n, tile) }
  noexcept->std::same_as<infinipot::FloatRows>;
};

/// The position of a token that is about to become an entry.
template <KvMemory Memory>
std::size_t position_of(const Memory& memory, std::size_t entry) noexcept {
  if constexpr (requires { memory.position(entry); })
    return memory.position(entry);
  else
    return entry;
}

}  // namespace smollm2
