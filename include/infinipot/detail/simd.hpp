// The kernels' few vector operations, on the target's widest registers (Eigen's packets: SSE2, AVX2, AVX-512,
// NEON, ...).
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "infinipot/detail/nan.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

using Packet = Eigen::internal::packet_traits<float>::type;
inline constexpr std::size_t packet_size = Eigen::internal::packet_traits<float>::size;

inline Packet load(const float* from) noexcept { return Eigen::internal::ploadu<Packet>(from); }
inline void store(float* to, const Packet& x) noexcept { Eigen::internal::pstoreu(to, x); }
inline Packet broadcast(float x) noexcept { return Eigen::internal::pset1<Packet>(x); }
inline Packet add(const Packet& a, const Packet& b) noexcept { return Eigen::internal::padd(a, b); }
inline Packet subtract(const Packet& a, const Packet& b) noexcept { return Eigen::internal::psub(a, b); }
inline Packet multiply(const Packet& a, const Packet& b) noexcept { return Eigen::internal::pmul(a, b); }
/// Prefetches the cache line of an address, which need not be valid.
template <class T>
void prefetch(const T* from) noexcept {
  Eigen::internal::prefetch(from);
}
inline float sum(const Packet& x) noexcept { return Eigen::internal::predux(x); }

/// top[i] = the larger of top[i] and x[i], neither of them NaN. A plain loop that compilers vectorise: GCC 12
/// warns of uninitialised memory inside its own AVX-512 maximum.
template <std::size_t n>
inline void raise(float (&top)[n], const float* x) noexcept {
  for (std::size_t i = 0; i < n; ++i) top[i] = x[i] > top[i] ? x[i] : top[i];
}

/// The largest of n values, none of them NaN; n is a power of two. By halves, which compilers vectorise.
template <std::size_t n>
inline float largest(const float (&x)[n]) noexcept {
  if constexpr (n == 1) {
    return x[0];
  } else {
    float halves[n / 2];
    for (std::size_t i = 0; i < n / 2; ++i) halves[i] = x[i] > x[i + n / 2] ? x[i] : x[i + n / 2];
    return largest(halves);
  }
}

/// x[1], x[0], x[3], x[2], ...
template <class P>
P swap_neighbours(const P& x) noexcept {
  using Float = typename Eigen::internal::unpacket_traits<P>::type;
  using Complex = typename Eigen::internal::packet_traits<std::complex<Float>>::type;
  return Eigen::internal::pcplxflip(Complex(x)).v;
}

/// Without vectors there are none.
inline float swap_neighbours(float x) noexcept { return x; }

/// a * b + c
inline Packet multiply_add(const Packet& a, const Packet& b, const Packet& c) noexcept {
  return Eigen::internal::pmadd(a, b, c);
}

// load_twice(from): from[0], from[0], from[1], from[1], ...: packet_size / 2 values, each twice.
// low_bits_to_exponent(x): the floats whose exponent bits are the low bits of x.
// larger(a, b), smaller(a, b): of each pair. If either is NaN, the one of a, or on some targets NaN; if
// finite_math_only, either.
#ifdef EIGEN_VECTORIZE_AVX512

// Not Eigen's: in users' code, GCC 12 warns of uninitialised memory inside its own AVX-512 intrinsics (bug
// 105593), though not in those with a mask, even if that is all ones and costs nothing.
inline constexpr __mmask16 every_float = 0xFFFF;

inline Packet load_twice(const float* from) noexcept {
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  const __m512i apart = _mm512_maskz_cvtepu32_epi64(0xFF, values);
  return _mm512_maskz_moveldup_ps(every_float, _mm512_castsi512_ps(apart));
}
inline Packet low_bits_to_exponent(const Packet& x) noexcept {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(every_float, _mm512_castps_si512(x), 23));
}
inline Packet larger(const Packet& a, const Packet& b) noexcept {
  return _mm512_maskz_max_ps(every_float, b, a);
}
inline Packet smaller(const Packet& a, const Packet& b) noexcept {
  return _mm512_maskz_min_ps(every_float, b, a);
}

#else

inline Packet load_twice(const float* from) noexcept { return Eigen::internal::ploaddup<Packet>(from); }
/// (A template, as GCC warns of a packet argument.)
template <class P>
P low_bits_to_exponent(const P& x) noexcept {
  using Integers = typename Eigen::internal::unpacket_traits<P>::integer_packet;
  const auto shifted = Eigen::internal::plogical_shift_left<23>(Eigen::internal::preinterpret<Integers>(x));
  return Eigen::internal::preinterpret<P>(shifted);
}
/// The same without vectors.
inline float low_bits_to_exponent(float x) noexcept {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) << 23U);
}
inline Packet larger(const Packet& a, const Packet& b) noexcept { return Eigen::internal::pmax(a, b); }
inline Packet smaller(const Packet& a, const Packet& b) noexcept { return Eigen::internal::pmin(a, b); }

#endif

/// Keeps the compiler from merging what x was computed by with what it is used for.
template <class P>
void settle(P& x) noexcept {
#ifdef __SSE2__
  __asm__("" : "+v"(x));  // in a register: with Eigen's barrier, clang stores it
#else
  EIGEN_OPTIMIZATION_BARRIER(x)
#endif
}

/// exp(x) = power * scale.
struct ExpFactors {
  Packet power;  // 2^-0.5 .. 2^0.5
  Packet scale;  // a power of 2, or 0
};

inline ExpFactors exp_factors(const Packet& any) noexcept {
  const Packet x = larger(any, broadcast(-88));  // where the exponent's bits are all 0
  const Packet log2_e = broadcast(1.44269504F);
  // Adding this rounds to a whole number, which the lowest bits then hold: the biased exponent.
  const Packet rounder = broadcast(0x1.8p23F + 127);
  Packet rounded = multiply_add(x, log2_e, rounder);
  settle(rounded);                            // -ffast-math would cancel the two
  Packet whole = subtract(rounder, rounded);  // minus the exponent
  settle(whole);
  const Packet part = multiply_add(x, log2_e, whole);  // -0.5 .. 0.5
  // 2^part by interpolation of (2^part - 1) / part at six Chebyshev nodes, to 2^-26.
  Packet power = broadcast(0.00015453163F);
  power = multiply_add(power, part, broadcast(0.0013390863F));
  power = multiply_add(power, part, broadcast(0.009618083F));
  power = multiply_add(power, part, broadcast(0.05550357F));
  power = multiply_add(power, part, broadcast(0.24022651F));
  power = multiply_add(power, part, broadcast(0.6931472F));
  power = multiply_add(power, part, broadcast(1));
  return {power, low_bits_to_exponent(rounded)};
}

/// exp(x) for x <= 88: relative error below (3 + 1.5 |x|) 2^-24 where the result is normal (from -87.3 on),
/// exp(0) = 1, exactly 0 from -88 down, NaN for NaN unless finite_math_only. Takes half as long as Eigen's,
/// which serves every x. exp(x) = 2^(whole + part).
inline Packet exp_to_88(const Packet& x) noexcept {
  const ExpFactors exp = exp_factors(x);
  return multiply(exp.power, exp.scale);
}

/// sum + exp(x), likewise.
inline Packet add_exp(const Packet& sum, const Packet& x) noexcept {
  const ExpFactors exp = exp_factors(x);
  return multiply_add(exp.power, exp.scale, sum);
}

/// tanh(x) within a few units in the last place; a number in place of NaN. Eigen's rational function, without
/// its branches.
inline Packet tanh(const Packet& any) noexcept {
  constexpr float most = 7.9053111F;  // beyond, tanh is 1 within a few units
  const Packet x = smaller(larger(any, broadcast(-most)), broadcast(most));
  const Packet x2 = multiply(x, x);
  Packet p = broadcast(-2.76076847742355e-16F);
  p = multiply_add(x2, p, broadcast(2.00018790482477e-13F));
  p = multiply_add(x2, p, broadcast(-8.60467152213735e-11F));
  p = multiply_add(x2, p, broadcast(5.12229709037114e-08F));
  p = multiply_add(x2, p, broadcast(1.48572235717979e-05F));
  p = multiply_add(x2, p, broadcast(6.37261928875436e-04F));
  p = multiply_add(x2, p, broadcast(4.89352455891786e-03F));
  Packet q = broadcast(1.19825839466702e-06F);
  q = multiply_add(x2, q, broadcast(1.18534705686654e-04F));
  q = multiply_add(x2, q, broadcast(2.26843463243900e-03F));
  q = multiply_add(x2, q, broadcast(4.89352518554385e-03F));
  return Eigen::internal::pdiv(multiply(x, p), q);
}

/// Whether one of n logits may spoil() a softmax. Sums say so: NaN stays, and so does +inf, unless -inf makes
/// NaN of it. (A sum of sound logits may overflow, and then says so too.) n is a multiple of packet_size.
inline bool may_be_spoilt(const float* x, std::size_t n) noexcept {
  constexpr std::size_t step = 4 * packet_size;
  Packet totals[4];
  for (Packet& total : totals) total = broadcast(0);
  std::size_t i = 0;
  for (; i + step <= n; i += step)
    for (std::size_t p = 0; p < 4; ++p) totals[p] = add(totals[p], load(x + i + p * packet_size));
  for (; i < n; i += packet_size) totals[0] = add(totals[0], load(x + i));
  float sums[packet_size];
  store(sums, add(add(totals[0], totals[1]), add(totals[2], totals[3])));
  return std::any_of(std::begin(sums), std::end(sums), spoils);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
