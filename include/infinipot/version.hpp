// The library's version, and the inline namespace that carries it.
#pragma once

#if __cplusplus < 202002L
#error "infinipot needs C++20: compile with -std=c++20 or later"
#endif

#define INFINIPOT_VERSION_MAJOR 0
#define INFINIPOT_VERSION_MINOR 1
#define INFINIPOT_VERSION_PATCH 0
/// As one number: 10203 is 1.2.3.
#define INFINIPOT_VERSION \
  (10000 * INFINIPOT_VERSION_MAJOR + 100 * INFINIPOT_VERSION_MINOR + INFINIPOT_VERSION_PATCH)

// Floats in one of the target's widest registers, as Eigen chooses them.
#if defined(EIGEN_DONT_VECTORIZE) || defined(__CUDACC__) || defined(__HIPCC__)
#define INFINIPOT_PACKET 1
#elif defined(__AVX512F__)
#define INFINIPOT_PACKET 16
#elif defined(__AVX__)
#define INFINIPOT_PACKET 8
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__ALTIVEC__) || defined(__VSX__)
#define INFINIPOT_PACKET 4
#else
#define INFINIPOT_PACKET 1
#endif
#ifdef __FMA__
#define INFINIPOT_FMA _fma
#else
#define INFINIPOT_FMA
#endif

// All names live in an inline namespace of the version and the instruction set, such as v0_1_0_packet8_fma:
// parts of a program compiled against another version or with other -m flags link to their own code, not to
// whichever the linker met first.
#define INFINIPOT_JOIN(major, minor, patch, packet, fma) v##major##_##minor##_##patch##_packet##packet##fma
#define INFINIPOT_EXPAND(...) INFINIPOT_JOIN(__VA_ARGS__)
#define INFINIPOT_NAMESPACE                                                                   \
  INFINIPOT_EXPAND(INFINIPOT_VERSION_MAJOR, INFINIPOT_VERSION_MINOR, INFINIPOT_VERSION_PATCH, \
                   INFINIPOT_PACKET, INFINIPOT_FMA)

namespace infinipot::inline INFINIPOT_NAMESPACE {

inline constexpr int version_major = INFINIPOT_VERSION_MAJOR;
inline constexpr int version_minor = INFINIPOT_VERSION_MINOR;
inline constexpr int version_patch = INFINIPOT_VERSION_PATCH;

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
