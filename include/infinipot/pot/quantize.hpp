// Rows of 8-bit and 4-bit codes with their scales: 8.5 and 5 bits a channel.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "infinipot/detail/nan.hpp"
#include "infinipot/element.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Element types of pots that hold 8-bit or 4-bit codes (see Pot): tags, not numbers.
struct int8 {};  // NOLINT(readability-identifier-naming): as f32 and the others
struct int4 {};  // NOLINT(readability-identifier-naming)

/// An element type whose rows are quantised.
template <class T>
concept Quantized = std::same_as<T, int8> || std::same_as<T, int4>;

namespace detail {

/// Channels that share a scale.
inline constexpr std::size_t channel_group = 32;

constexpr std::size_t channel_groups(std::size_t width) noexcept {
  return (width + channel_group - 1) / channel_group;
}

/// f16(x), or NaN if that would be infinite.
inline f16 scale_of(const float& x) noexcept {
  constexpr float most = 65504;  // in f16
  return is_finite(x) && std::fabs(x) <= most ? f16(x) : std::numeric_limits<f16>::quiet_NaN();
}

/// 1 / step; 0 if the step is 0 or NaN, so that all codes are 0.
inline float inverse_of(const float& step) noexcept { return !is_nan(step) && step > 0 ? 1 / step : 0; }

/// A row is a piece per group of channels: the scale and, with 4 bits, the offset as f16, then the codes. A
/// value that is not finite or too large (|x| above 8 million for 8 bits, 65504 for 4) makes its group read
/// as NaN: seen, not hidden.
template <Quantized T>
struct RowCodec;

/// x = scale * code, codes -127 .. 127. Error: half a scale, which is the group's largest |x| / 127, rounded.
template <>
struct RowCodec<int8> {
  static constexpr std::size_t header = sizeof(f16);

  static std::size_t bytes(std::size_t width) noexcept { return channel_groups(width) * header + width; }

  static std::size_t encode_group(const float* in, std::size_t n, std::byte* out) noexcept {
    Bits<float> most = 0;  // of the magnitudes; NaN and infinity are above all others
    for (std::size_t i = 0; i < n; ++i) most = (std::max)(most, magnitude_bits(in[i]));
    const f16 scale = scale_of(std::bit_cast<float>(most) / 127);
    const float inverse = inverse_of(static_cast<float>(scale));
    std::memcpy(out, &scale, header);
    std::int8_t codes[channel_group]{};  // compilers know that this is not `in`
    if (inverse > 0)
      for (std::size_t i = 0; i < n; ++i) {
        const float code = in[i] * inverse;  // at most 254, if the scale is the smallest there is
        const auto rounded = static_cast<std::int32_t>(code + std::copysign(0.5F, code));
        codes[i] = static_cast<std::int8_t>(std::clamp(rounded, -127, 127));
      }
    std::memcpy(out + header, codes, n);
    return header + n;
  }

  static std::size_t decode_group(const std::byte* in, std::size_t n, float* out) noexcept {
    f16 scale;
    std::memcpy(&scale, in, header);
    const auto step = static_cast<float>(scale);
    const auto* const codes = reinterpret_cast<const std::int8_t*>(in + header);
    for (std::size_t i = 0; i < n; ++i) out[i] = step * static_cast<float>(codes[i]);
    return header + n;
  }
};

/// The bits as integers that are ordered as floats are; -0 is below 0.
inline std::int32_t ordered(const float& x) noexcept {
  const auto bits = std::bit_cast<std::int32_t>(x);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}
/// One of n floats by ordered(). Of zeros it is the first, whatever its sign.
inline float of_ordered(std::int32_t x, const float* in, std::size_t n) noexcept {
  return x == 0 || x == -1 ? *std::find(in, in + n, 0.0F) : std::bit_cast<float>(x ^ (x >> 31 & 0x7FFFFFFF));
}

/// x = offset + scale * code, codes 0 .. 15. Error: half a scale, which is the group's range / 15, rounded,
/// and the rounding of its smallest x to f16.
template <>
struct RowCodec<int4> {
  static constexpr std::size_t header = 2 * sizeof(f16);

  /// Two codes per byte: those of channels i and i + (n + 1) / 2 of a group.
  static std::size_t bytes(std::size_t width) noexcept {
    return channel_groups(width) * header + width / channel_group * (channel_group / 2) +
           (width % channel_group + 1) / 2;
  }

  static std::size_t encode_group(const float* in, std::size_t n, std::byte* out) noexcept {
    // As integers in the same order, whose extremes are found at once.
    std::int32_t low = ordered(in[0]), high = low;
    for (std::size_t i = 0; i < n; ++i) {
      low = (std::min)(low, ordered(in[i]));
      high = (std::max)(high, ordered(in[i]));
    }
    const auto above_all = static_cast<std::int32_t>(infinity_bits<float>);
    const bool finite = high < above_all && low > ~above_all;
    const float least = of_ordered(low, in, n), most = of_ordered(high, in, n);
    const f16 offset = finite ? scale_of(least) : std::numeric_limits<f16>::quiet_NaN();
    const auto base = static_cast<float>(offset);
    const f16 scale = scale_of((most - base) / 15);
    const float inverse = inverse_of(static_cast<float>(scale));
    const f16 both[2] = {scale, offset};
    std::memcpy(out, both, header);
    std::uint8_t codes[channel_group + channel_group / 2]{};
    if (inverse > 0)
      for (std::size_t i = 0; i < n; ++i) {
        constexpr float to_nearest = 0.5F;  // for what is not negative
        const auto rounded = static_cast<std::int32_t>((in[i] - base) * inverse + to_nearest);
        codes[i] = static_cast<std::uint8_t>(std::clamp(rounded, 0, 15));
      }
    const std::size_t half = (n + 1) / 2;
    std::uint64_t pairs[2], second[2];  // as two words: no code reaches into the next byte
    std::memcpy(pairs, codes, sizeof pairs);
    std::memcpy(second, codes + half, sizeof second);
    for (std::size_t i = 0; i < 2; ++i) pairs[i] |= second[i] << 4U;
    std::memcpy(out + header, pairs, half);
    return header + half;
  }

  static std::size_t decode_group(const std::byte* in, std::size_t n, float* out) noexcept {
    f16 both[2];
    std::memcpy(both, in, header);
    const auto step = static_cast<float>(both[0]), base = static_cast<float>(both[1]);
    const std::size_t half = (n + 1) / 2;
    const auto* const codes = reinterpret_cast<const std::uint8_t*>(in + header);
    for (std::size_t i = 0; i < half; ++i) out[i] = base + step * static_cast<float>(codes[i] & 15U);
    for (std::size_t i = half; i < n; ++i) out[i] = base + step * static_cast<float>(codes[i - half] >> 4U);
    return header + half;
  }
};

/// Bytes of a quantised row of `width` channels.
template <Quantized T>
std::size_t row_bytes(std::size_t width) noexcept {
  return RowCodec<T>::bytes(width);
}

/// (width) floats to row_bytes<T>(width) bytes, rounded once.
template <Quantized T>
void quantize_row(const float* in, std::size_t width, std::byte* out) noexcept {
  std::size_t i = 0;
  for (; i + channel_group <= width; i += channel_group)
    out += RowCodec<T>::encode_group(in + i, channel_group, out);
  if (i < width) RowCodec<T>::encode_group(in + i, width - i, out);
}

/// row_bytes<T>(width) bytes to (width) floats.
template <Quantized T>
void dequantize_row(const std::byte* in, std::size_t width, float* out) noexcept {
  std::size_t i = 0;
  for (; i + channel_group <= width; i += channel_group)
    in += RowCodec<T>::decode_group(in, channel_group, out + i);
  if (i < width) RowCodec<T>::decode_group(in, width - i, out + i);
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
