#pragma once

#include <concepts>
#include <cstddef>

#include "infinipot/concepts.hpp"
#include "infinipot/pot.hpp"

namespace smollm2 {

/// What the engine asks of the memory of its keys and values; infinipot::Pot has it. Rows may be written
/// anywhere below the capacity, and are read back from 0 on.
template <class M>
concept KvMemory = requires(const M& memory, std::size_t n, float* tile) {
  { memory.shape() } -> std::convertible_to<infinipot::Shape>;
  { memory.capacity() } -> std::convertible_to<std::size_t>;
  { memory.key_storage() } -> std::same_as<infinipot::KeyStorage>;
  /// Rows (layer, kv head, entry) of head_dim elements.
  { *memory.keys().row(n, n, n) } -> std::same_as<typename M::element&>;
  { *memory.values().row(n, n, n) } -> std::same_as<typename M::element&>;
  /// Keys of some entries as floats, rotated: in place or in `tile`.
  { memory.key_rows(n, n, n, n, tile) }
  noexcept->std::same_as<infinipot::KeyRows>;
}
&&infinipot::Element<typename M::element>;

}  // namespace smollm2
