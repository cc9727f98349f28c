// Tests of a float's bits, correct under any floating-point flags (-ffast-math).
#pragma once

#include <bit>
#include <cstdint>

#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

inline bool is_nan(float x) noexcept { return (std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFU) > 0x7F800000U; }

/// False for NaN and infinity.
inline bool is_finite(float x) noexcept {
  return (std::bit_cast<std::uint32_t>(x) & 0x7F800000U) != 0x7F800000U;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
