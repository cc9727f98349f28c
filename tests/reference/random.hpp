// Random numbers that are the same on every platform, which std::normal_distribution's are not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace reference {

/// SplitMix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  /// 0 .. bound - 1.
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>(bits() % bound); }

  /// -1 .. 1, a multiple of 2^-23: exact in float and double.
  double uniform() { return static_cast<double>(bits() >> 40) * 0x1p-23 - 1; }

  std::vector<double> uniforms(std::size_t n) {
    std::vector<double> values(n);
    for (double& value : values) value = uniform();
    return values;
  }

  /// `count` different numbers below `bound`, ascending.
  template <class Integer>
  std::vector<Integer> subset(std::size_t count, std::size_t bound) {
    std::vector<Integer> all(bound);
    for (std::size_t i = 0; i < bound; ++i) all[i] = static_cast<Integer>(i);
    for (std::size_t i = 0; i < count; ++i) std::swap(all[i], all[i + below(bound - i)]);
    all.resize(count);
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  std::uint64_t state_;
};

}  // namespace reference
