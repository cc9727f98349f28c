// The two 16-bit formats read off their bits, and rounding by looking at all neighbours.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "infinipot/element.hpp"

namespace reference {

/// A binary interchange format of up to 32 bits: sign, exponent, mantissa.
struct Format {
  int exponent_bits = 0;
  int mantissa_bits = 0;
};

template <class T>
inline constexpr Format format{};
template <>
inline constexpr Format format<infinipot::f16>{5, 10};
template <>
inline constexpr Format format<infinipot::bf16>{8, 7};
template <>
inline constexpr Format format<float>{8, 23};

/// The value of a bit pattern. A denormal float too is a normal double, which no flag makes 0.
inline double decode(Format format, std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> format.mantissa_bits) & ((1 << format.exponent_bits) - 1);
  const int mantissa = static_cast<int>(bits & ((1U << format.mantissa_bits) - 1));
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const double sign = bits >> (format.exponent_bits + format.mantissa_bits) ? -1 : 1;
  if (exponent == (1 << format.exponent_bits) - 1) {
    const std::uint64_t infinity = sign < 0 ? 0xFFF0000000000000U : 0x7FF0000000000000U;
    return std::bit_cast<double>(infinity | (mantissa == 0 ? 0U : 1ULL << 51U));
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - format.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << format.mantissa_bits), exponent - bias - format.mantissa_bits);
}

/// The value of a float, denormal or not.
inline double exact(const float& x) { return decode(format<float>, std::bit_cast<std::uint32_t>(x)); }

/// The float of this value, which one has.
inline float float_of(double value) {
  const double magnitude = std::fabs(value);
  if (magnitude >= 0x1p-126) return static_cast<float>(value);
  const auto denormal = static_cast<std::uint32_t>(magnitude * 0x1p149);
  return std::bit_cast<float>(denormal | (std::signbit(value) ? 0x80000000U : 0U));
}

/// Rounds to nearest, ties to the even bit pattern, overflow to infinity; no NaN.
class Rounder {
 public:
  explicit Rounder(Format format) {
    const auto infinity =
        static_cast<std::uint16_t>(((1 << format.exponent_bits) - 1) << format.mantissa_bits);
    for (std::uint16_t bits = 0; bits < infinity; ++bits) values_.push_back(decode(format, bits));
    // Where the value after the largest would be, were the exponent not used up: from halfway on is infinite.
    values_.push_back(2 * values_.back() - values_[values_.size() - 2]);
  }

  std::uint16_t operator()(const float& value) const {
    const double magnitude = std::fabs(exact(value));
    const auto above = std::lower_bound(values_.begin(), values_.end(), magnitude);
    auto bits = static_cast<std::size_t>(above - values_.begin());
    if (above == values_.end()) {
      bits = values_.size() - 1;
    } else if (*above != magnitude) {
      const double to_above = *above - magnitude, to_below = magnitude - *(above - 1);
      const bool down = to_below < to_above || (to_below == to_above && bits % 2 == 1);
      bits -= down ? 1 : 0;
    }
    return static_cast<std::uint16_t>(bits | (std::bit_cast<std::uint32_t>(value) >> 16U & 0x8000U));
  }

  /// (pattern) non-negative finite values in order, then where infinity begins.
  const std::vector<double>& values() const { return values_; }

 private:
  std::vector<double> values_;
};

}  // namespace reference
