// Element types of stored keys and values, and their conversion to and from float.
#pragma once

#include <Eigen/Core>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "infinipot/detail/nan.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

using f32 = float;
using f16 = Eigen::half;       // IEEE 754 binary16
using bf16 = Eigen::bfloat16;  // the upper half of a binary32

/// A type that a pot can store its keys and values in.
template <class T>
concept Element = std::same_as<T, f32> || std::same_as<T, f16> || std::same_as<T, bf16>;

/// An engine's own 16-bit floats (uint16_t, _Float16, ggml_fp16_t) as the library's: element_cast<f16>(keys).
/// Breaks no strict-aliasing rule: the library accesses 16-bit rows only through memcpy and vector
/// instructions.
template <Element T, class Bits>
T* element_cast(Bits* data) noexcept requires(sizeof(Bits) == sizeof(T)) {
  static_assert(std::is_trivially_copyable_v<Bits>);
  return static_cast<T*>(static_cast<void*>(data));
}

namespace detail {

// Converts values eight at a time where the processor has instructions for it; returns how many. Eigen 3.4
// has these for f16 too, but with GCC it converts in software and takes three times as long.
template <Element T>
std::size_t to_float_by_8(const T* /*in*/, std::size_t /*n*/, float* /*out*/) noexcept {
  return 0;
}
template <Element T>
std::size_t from_float_by_8(const float* /*in*/, std::size_t /*n*/, T* /*out*/) noexcept {
  return 0;
}
#ifdef __F16C__
template <>
inline std::size_t to_float_by_8(const f16* in, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  return i;
}
template <>
inline std::size_t from_float_by_8(const float* in, std::size_t n, f16* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
  return i;
}
#endif

// One element of an engine's row, by memcpy, as its memory may have another 16-bit type (element_cast).
template <Element T>
T load_element(const T* from) noexcept {
  T element;
  std::memcpy(static_cast<void*>(&element), from, sizeof element);
  return element;
}
template <Element T>
void store_element(T* to, T element) noexcept {
  std::memcpy(static_cast<void*>(to), &element, sizeof element);
}

// bf16 by integers, in loops that compilers vectorise, unlike Eigen 3.4's.
inline void to_float(const bf16* in, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i)
    out[i] = std::bit_cast<float>(std::uint32_t{load_element(in + i).value} << 16U);
}
inline void from_float(const float* in, std::size_t n, bf16* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(in[i]);
    const std::uint32_t rounded = (bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U;
    const std::uint32_t nan = (bits >> 16U & 0x8000U) | 0x7FC0U;
    bf16 element;
    element.value = static_cast<std::uint16_t>(magnitude_bits(in[i]) > infinity_bits<float> ? nan : rounded);
    store_element(out + i, element);
  }
}

/// out[i] = float(in[i]), exact. The ranges may not overlap.
template <Element T>
void to_float(const T* in, std::size_t n, float* out) noexcept {
  for (std::size_t i = to_float_by_8(in, n, out); i < n; ++i)
    out[i] = static_cast<float>(load_element(in + i));
}

/// out[i] = in[i] rounded to nearest even, infinite beyond the type's range. The ranges may not overlap.
template <Element T>
void from_float(const float* in, std::size_t n, T* out) noexcept {
  for (std::size_t i = from_float_by_8(in, n, out); i < n; ++i) store_element(out + i, T(in[i]));
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
