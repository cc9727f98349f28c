// The few vector operations of the kernels, on the widest registers that the build's target has (Eigen's
// packets: SSE2, AVX2, AVX-512, NEON, ...).
#pragma once

#include <Eigen/Core>
#include <cstddef>

namespace infinipot::detail {

using Packet = Eigen::internal::packet_traits<float>::type;
inline constexpr std::size_t packet_size = Eigen::internal::packet_traits<float>::size;

inline Packet load(const float* from) noexcept { return Eigen::internal::ploadu<Packet>(from); }
inline void store(float* to, const Packet& x) noexcept { Eigen::internal::pstoreu(to, x); }
inline Packet broadcast(float x) noexcept { return Eigen::internal::pset1<Packet>(x); }
inline Packet add(const Packet& a, const Packet& b) noexcept { return Eigen::internal::padd(a, b); }
inline Packet subtract(const Packet& a, const Packet& b) noexcept { return Eigen::internal::psub(a, b); }
inline Packet multiply(const Packet& a, const Packet& b) noexcept { return Eigen::internal::pmul(a, b); }
inline float sum(const Packet& x) noexcept { return Eigen::internal::predux(x); }

/// top[i] = the larger of top[i] and x[i]; NaN in x is passed over. A plain loop that compilers vectorise:
/// GCC 12 warns of uninitialised memory inside its own AVX-512 maximum.
template <std::size_t n>
inline void raise(float (&top)[n], const float* x) noexcept {
  for (std::size_t i = 0; i < n; ++i) top[i] = x[i] > top[i] ? x[i] : top[i];
}

template <std::size_t n>
inline float largest(const float (&x)[n]) noexcept {
  float top = x[0];
  for (std::size_t i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

/// a * b + c
inline Packet multiply_add(const Packet& a, const Packet& b, const Packet& c) noexcept {
  return Eigen::internal::pmadd(a, b, c);
}

/// exp(x) for x <= 0, exactly 0 below -87 (where floats turn subnormal), NaN for NaN.
inline Packet exp_nonpositive(const Packet& x) noexcept {
  using namespace Eigen::internal;
  const Packet tiny = pcmp_lt(x, broadcast(-87.0F));
  const Packet result = pselect(tiny, broadcast(0.0F), pexp(x));
  return pselect(pcmp_eq(x, x), result, x);
}

}  // namespace infinipot::detail
