// Element types of stored keys and values, and their conversion to and from float.
#pragma once

#include <Eigen/Core>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace infinipot {

using f32 = float;
using f16 = Eigen::half;       // IEEE 754 binary16
using bf16 = Eigen::bfloat16;  // the upper half of a binary32

/// A type that a pot can store its keys and values in.
template <class T>
concept Element = std::same_as<T, f32> || std::same_as<T, f16> || std::same_as<T, bf16>;

namespace detail {

template <class T>
using Row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <class T>
using ConstRow = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

// Conversion of as many values as the processor's own instructions can take eight at a time; returns their
// number. Eigen 3.4 has these for f16 too, but with GCC it takes its way in software, three times as long.
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

// bf16 by integers, in loops that compilers vectorise; those of Eigen 3.4 they do not.
inline void to_float(const bf16* in, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(std::uint32_t{in[i].value} << 16U);
}
inline void from_float(const float* in, std::size_t n, bf16* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(in[i]);
    const std::uint32_t rounded = (bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U;
    const std::uint32_t nan = (bits >> 16U & 0x8000U) | 0x7FC0U;
    const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
    out[i].value = static_cast<std::uint16_t>(is_nan ? nan : rounded);
  }
}

/// out[i] = float(in[i]), exact. The ranges may not overlap.
template <Element T>
void to_float(const T* in, std::size_t n, float* out) noexcept {
  const std::size_t done = to_float_by_8(in, n, out);
  const auto rest = static_cast<Eigen::Index>(n - done);
  Row<float>(out + done, rest) = ConstRow<T>(in + done, rest).template cast<float>();
}

/// out[i] = in[i] rounded to nearest even; beyond the type's range it becomes infinite. No overlap.
template <Element T>
void from_float(const float* in, std::size_t n, T* out) noexcept {
  const std::size_t done = from_float_by_8(in, n, out);
  const auto rest = static_cast<Eigen::Index>(n - done);
  Row<T>(out + done, rest) = ConstRow<float>(in + done, rest).template cast<T>();
}

}  // namespace detail
}  // namespace infinipot
