// What the benchmarks share: inputs that are the same on every machine, checks, and counters.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "infinipot/shape.hpp"
#include "reference/random.hpp"

namespace inputs {

inline std::vector<float> floats(std::size_t n, std::uint64_t seed, float spread = 1) {
  reference::Random random(seed);
  std::vector<float> values(n);
  for (float& x : values) x = spread * static_cast<float>(random.uniform());
  return values;
}

/// `count` different numbers below `bound`, ascending.
inline std::vector<infinipot::Index> subset(std::size_t count, std::size_t bound, std::uint64_t seed) {
  return reference::Random(seed).subset<infinipot::Index>(count, bound);
}

/// Fails the benchmark if two results differ by more than `tolerance` times the largest value.
inline void expect_near(benchmark::State& state, std::span<const float> actual,
                        std::span<const float> expected, float tolerance) {
  float most = 0;
  for (const float x : expected) most = std::max(most, std::abs(x));
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!(std::abs(actual[i] - expected[i]) <= tolerance * most))
      return state.SkipWithError("results differ");
}

/// Work per iteration, reported per second.
inline void set_rate(benchmark::State& state, const char* name, double work) {
  state.counters[name] = benchmark::Counter(work, benchmark::Counter::kIsIterationInvariantRate);
}

inline void set_bytes(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * static_cast<std::int64_t>(state.iterations()));
}

inline void set_items(benchmark::State& state, std::size_t items) {
  state.SetItemsProcessed(static_cast<std::int64_t>(items) * static_cast<std::int64_t>(state.iterations()));
}

}  // namespace inputs
