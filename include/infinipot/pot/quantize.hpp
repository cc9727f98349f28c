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
    for (std::size_t i = 0; i < n; ++i) {
      const float code = std::clamp(in[i] * inverse, -127.0F, 127.0F);
      out[header + i] = static_cast<std::byte>(
          static_cast<std::int8_t>(inverse > 0 ? code + std::copysign(0.5F, code) : 0.0F));
    }
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
    float least = in[0], most = in[0];
    bool finite = true;
    for (std::size_t i = 0; i < n; ++i) {
      least = (std::min)(least, in[i]);
      most = (std::max)(most, in[i]);
      finite = finite && magnitude_bits(in[i]) < infinity_bits<float>;
    }
    const f16 offset = finite ? scale_of(least) : std::numeric_limits<f16>::quiet_NaN();
    const auto base = static_cast<float>(offset);
    const f16 scale = scale_of((most - base) / 15);
    const float inverse = inverse_of(static_cast<float>(scale));
    const f16 both[2] = {scale, offset};
    std::memcpy(out, both, header);
    const auto code = [&](std::size_t i) -> unsigned {
      constexpr float to_nearest = 0.5F;  // for what is not negative
      return i < n && inverse > 0
                 ? static_cast<unsigned>(std::clamp((in[i] - base) * inverse, 0.0F, 15.0F) + to_nearest)
                 : 0;
    };
    const std::size_t half = (n + 1) / 2;
    for (std::size_t i = 0; i < half; ++i)
      out[header + i] = static_cast<std::byte>(code(i) | code(i + half) << 4U);
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
