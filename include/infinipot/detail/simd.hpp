// The kernels' few vector operations, on the target's widest registers (Eigen's packets: SSE2, AVX2, AVX-512,
// NEON, ...).
#pragma once

#include <Eigen/Core>
#include <bit>
#include <complex>
#include <cstddef>
#include <cstdint>

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

/// top[i] = the larger of top[i] and x[i]; ignores NaN in x. A plain loop that compilers vectorise: GCC 12
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

/// from[0], from[0], from[1], from[1], ...: packet_size / 2 values, each twice.
inline Packet load_twice(const float* from) noexcept { return Eigen::internal::ploaddup<Packet>(from); }

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

/// The floats whose exponent bits are the low bits of x. (A template, as GCC warns of a packet argument.)
template <class P>
inline P low_bits_to_exponent(const P& x) noexcept {
  using Integers = typename Eigen::internal::unpacket_traits<P>::integer_packet;
  const auto shifted = Eigen::internal::plogical_shift_left<23>(Eigen::internal::preinterpret<Integers>(x));
  return Eigen::internal::preinterpret<P>(shifted);
}

/// The same without vectors.
inline float low_bits_to_exponent(float x) noexcept {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) << 23U);
}

/// The larger of each pair. If either is NaN, the one of a, or on some targets NaN.
inline Packet larger(const Packet& a, const Packet& b) noexcept { return Eigen::internal::pmax(a, b); }

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
  // -ffast-math would cancel the two.
  EIGEN_OPTIMIZATION_BARRIER(rounded)
  Packet whole = subtract(rounder, rounded);  // minus the exponent
  EIGEN_OPTIMIZATION_BARRIER(whole)
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
/// exp(0) = 1, exactly 0 from -88 down, NaN for NaN. Takes half as long as Eigen's, which serves every x.
/// exp(x) = 2^(whole + part).
inline Packet exp_to_88(const Packet& x) noexcept {
  const ExpFactors exp = exp_factors(x);
  return multiply(exp.power, exp.scale);
}

/// sum + exp(x), likewise.
inline Packet add_exp(const Packet& sum, const Packet& x) noexcept {
  const ExpFactors exp = exp_factors(x);
  return multiply_add(exp.power, exp.scale, sum);
}

/// tanh(x) within a few units in the last place, NaN for NaN.
inline Packet tanh(const Packet& x) noexcept {
  using namespace Eigen::internal;
  return pselect(pcmp_eq(x, x), ptanh(x), x);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
