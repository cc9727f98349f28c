// The two 16-bit formats read off their bits, and rounding by looking at all neighbours.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "infinipot/element.hpp"

namespace reference {

/// A binary interchange format of 16 bits: sign, exponent, mantissa.
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

/// The value of a bit pattern.
inline double decode(Format format, std::uint16_t bits) {
  const int exponent = (bits >> format.mantissa_bits) & ((1 << format.exponent_bits) - 1);
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << format.exponent_bits) - 1)
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - format.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << format.mantissa_bits), exponent - bias - format.mantissa_bits);
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

  std::uint16_t operator()(float value) const {
    const double magnitude = std::fabs(static_cast<double>(value));
    const auto above = std::lower_bound(values_.begin(), values_.end(), magnitude);
    auto bits = static_cast<std::size_t>(above - values_.begin());
    if (above == values_.end()) {
      bits = values_.size() - 1;
    } else if (*above != magnitude) {
      const double to_above = *above - magnitude, to_below = magnitude - *(above - 1);
      const bool down = to_below < to_above || (to_below == to_above && bits % 2 == 1);
      bits -= down ? 1 : 0;
    }
    return static_cast<std::uint16_t>(bits | (std::signbit(value) ? 0x8000u : 0u));
  }

  /// (pattern) non-negative finite values in order, then where infinity begins.
  const std::vector<double>& values() const { return values_; }

 private:
  std::vector<double> values_;
};

}  // namespace reference
