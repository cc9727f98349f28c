// NaN and infinity by their bits: right under any floating-point flags. With -ffast-math compilers take it
// that there are none: they drop or turn round any comparison that would tell, and from clang 17 on they know
// of the bits too that no argument, result or sum is NaN. So the bits pass through a register that they
// cannot see into. Loops over memory, which must vectorise, compare magnitude_bits().
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Whether the flags allow the compiler to lose NaN and infinities in vector instructions (-ffast-math).
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
inline constexpr bool finite_math_only = true;
#else
inline constexpr bool finite_math_only = false;
#endif

template <std::floating_point Float>
using Bits = std::conditional_t<sizeof(Float) == sizeof(std::uint32_t), std::uint32_t, std::uint64_t>;

template <std::floating_point Float>
inline constexpr Bits<Float> sign_bit = Bits<Float>{1} << (8 * sizeof(Float) - 1);
template <std::floating_point Float>
inline constexpr Bits<Float> infinity_bits = sizeof(Float) == sizeof(std::uint32_t)
                                                 ? Bits<Float>{0x7F800000U}
                                                 : static_cast<Bits<Float>>(0x7FF0000000000000U);

/// The bits without the sign, of a float in memory that has not just been computed.
template <std::floating_point Float>
Bits<Float> magnitude_bits(const Float& x) noexcept {
  return std::bit_cast<Bits<Float>>(x) & ~sign_bit<Float>;
}

/// The bits of any float.
template <std::floating_point Float>
Bits<Float> hidden_bits(const Float& x) noexcept {
  auto bits = std::bit_cast<Bits<Float>>(x);
  __asm__("" : "+r"(bits));
  return bits;
}

template <std::floating_point Float>
bool is_nan(const Float& x) noexcept {
  return (hidden_bits(x) & ~sign_bit<Float>) > infinity_bits<Float>;
}

/// False for NaN and infinity.
template <std::floating_point Float>
bool is_finite(const Float& x) noexcept {
  return (hidden_bits(x) & ~sign_bit<Float>) < infinity_bits<Float>;
}

template <std::floating_point Float>
bool is_minus_infinity(const Float& x) noexcept {
  return hidden_bits(x) == (infinity_bits<Float> | sign_bit<Float>);
}

/// NaN or +inf: such a logit makes its softmax NaN. (-inf is an impossible token, or a hidden entry.)
inline bool spoils(const float& logit) noexcept { return !is_finite(logit) && !is_minus_infinity(logit); }

/// A float of these bits. The compiler does not see them: it may take a constant NaN for impossible.
template <std::floating_point Float>
Float float_of_bits(Bits<Float> bits) noexcept {
  __asm__("" : "+r"(bits));
  return std::bit_cast<Float>(bits);
}

template <std::floating_point Float>
Float quiet_nan() noexcept {
  return float_of_bits<Float>(infinity_bits<Float> | infinity_bits<Float> >> 1U);
}

inline float minus_infinity() noexcept {
  return float_of_bits<float>(infinity_bits<float> | sign_bit<float>);
}

/// Raises a score. NaN stays, to be reported.
inline void raise_score(float& score, const float& to) noexcept {
  if (is_nan(to) || (!is_nan(score) && to > score)) score = to;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
