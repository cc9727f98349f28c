// Options of the checks.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "infinipot/check/rounding.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What check_adapter() may do. The defaults run some 400 tokens through the engine.
struct CheckOptions {
  std::size_t repeats = 100;  ///< times that a token is repeated to see RoPE; at least 16, or the capacity
  std::size_t text = 32;      ///< most tokens of the text that are used; at least 16
  std::size_t chunk = 32;     ///< most tokens per call of forward(); at least 16
  std::size_t fill = 256;  ///< pots up to this capacity are filled to the last row, to see that it is there
  /// How keys are rounded; by the store's element type if it names one (S::element), else as loose as int8.
  std::optional<Rounding> rounding = {};
  /// All of the engine's memory that may hold keys and values: no row of a Pot may reach outside it.
  std::vector<std::span<const std::byte>> memory = {};
  /// Bytes beside that memory that must not change.
  std::vector<std::span<const std::byte>> guards = {};
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
