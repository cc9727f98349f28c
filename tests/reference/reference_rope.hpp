// RoPE in double precision, written to be obviously right, and the bounds that the library must keep to.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <utility>
#include <vector>

#include "infinipot/detail/nan.hpp"
#include "infinipot/element.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/rope.hpp"

namespace reference {

/// The two channels of pair i.
inline std::pair<std::size_t, std::size_t> channels(const infinipot::Rope& rope, std::size_t i) {
  const std::size_t first = rope.first_channel, pairs = rope.frequencies.size();
  if (rope.pairing == infinipot::Pairing::half_split) return {first + i, first + i + pairs};
  return {first + 2 * i, first + 2 * i + 1};
}

/// What turns a layer's keys.
inline infinipot::Rope rope_of(const infinipot::PotSettings& settings, std::size_t layer) {
  const auto& without = settings.layers_without_rope;
  return std::ranges::count(without, layer) > 0 ? infinipot::Rope{} : settings.rope;
}

/// A raw key rotated by an angle a pair, and multiplied by the attention factor.
inline std::vector<double> rotated_by(const std::vector<double>& raw, const infinipot::Rope& rope,
                                      const std::vector<double>& angles) {
  std::vector<double> out = raw;
  for (std::size_t i = 0; i < angles.size(); ++i) {
    const auto [a, b] = channels(rope, i);
    const double c = std::cos(angles[i]), s = std::sin(angles[i]);
    out[a] = rope.attention_factor * (raw[a] * c - raw[b] * s);
    out[b] = rope.attention_factor * (raw[a] * s + raw[b] * c);
  }
  return out;
}

/// A raw key rotated for a position.
inline std::vector<double> rotated(const std::vector<double>& raw, const infinipot::Rope& rope,
                                   double position) {
  std::vector<double> angles = rope.frequencies;
  for (double& angle : angles) angle *= position;
  return rotated_by(raw, rope, angles);
}

/// (channels) length of the pair that a channel belongs to, attention factor included: what rotation errors
/// are relative to. 0 for channels that do not turn.
inline std::vector<double> pair_norms(const std::vector<double>& raw, const infinipot::Rope& rope) {
  std::vector<double> norms(raw.size(), 0.0);
  const std::size_t pairs = rope.frequencies.size();
  for (std::size_t i = 0; i < pairs; ++i) {
    const auto [a, b] = channels(rope, i);
    norms[a] = norms[b] = rope.attention_factor * std::hypot(raw[a], raw[b]);
  }
  return norms;
}

/// Unit roundoff: the largest relative error of rounding to T. bf16 has 8 significant bits, f16 11, f32 24.
template <class T>
inline constexpr double roundoff = 0x1p-24;
template <>
inline constexpr double roundoff<infinipot::f16> = 0x1p-11;
template <>
inline constexpr double roundoff<infinipot::bf16> = 0x1p-8;

/// Largest error of rounding a subnormal to T.
template <class T>
inline constexpr double subnormal_roundoff = 0x1p-134;
template <>
inline constexpr double subnormal_roundoff<float> = 0x1p-150;
template <>
inline constexpr double subnormal_roundoff<infinipot::f16> = 0x1p-25;

/// Largest error of one float rotation of a pair of length 1, in each channel: x*c - y*s has two roundings in
/// each product (the cosine's and its own) and one in the sum, 3u (|x c| + |y s|) <= 3u by Cauchy-Schwarz;
/// the last factor covers terms in u^2.
inline constexpr double rotation_error = 3 * 0x1p-24 * 1.0001;

/// Largest error of a stored key that was rotated exactly, rounded to T when first written, and turned at
/// most once since, by the shift from there to where it stands now; per channel, for a pair of length `norm`:
/// - writing: to float, then to T; the error vector of the pair is at most (u_T + u_f32) norm long, and
/// turning
///   keeps its length;
/// - turning: rotation_error * norm;
/// - rounding the turned key to T: u_T times a value of at most (1 + u_T) norm (f32: counted in the turning).
/// Subnormals add an absolute error for each rounding, sqrt(2) of it for the first. However often the entry
/// was distilled, nothing is added: that is the absence of drift.
template <class T>
double stored_key_bound(double norm) {
  const double u = roundoff<T>, single = roundoff<float>;
  const double writing = std::same_as<T, float> ? u : u + single;
  const double turning = rotation_error;
  const double rounding = std::same_as<T, float> ? 0 : u * (1 + writing + turning);
  return norm * (writing + turning * (1 + writing) + rounding) + 2.5 * subnormal_roundoff<T>;
}

/// The value rounded to T as an engine would: first to float.
template <class T>
T stored(double value) {
  return static_cast<T>(static_cast<float>(value));
}

/// Largest error of a stored key against the exact rotation of its raw key, as a share of stored_key_bound:
/// at most 1 if all is well. Channels that do not turn must be the raw ones rounded once; else it is
/// infinite.
template <class T>
double stored_error(const T* key, const std::vector<double>& exact, const std::vector<double>& raw,
                    const infinipot::Rope& rope) {
  const std::vector<double> norms = pair_norms(raw, rope);
  double worst = 0;
  for (std::size_t c = 0; c < raw.size(); ++c) {
    const auto value = static_cast<double>(static_cast<float>(key[c]));
    if (c < rope.first_channel || c >= rope.first_channel + rope.rotary_dim()) {
      if (key[c] != stored<T>(raw[c])) return HUGE_VAL;
      continue;
    }
    const double share = std::fabs(value - exact[c]) / stored_key_bound<T>(norms[c]);
    worst = infinipot::detail::is_nan(share) ? HUGE_VAL : std::max(worst, share);
  }
  return worst;
}

}  // namespace reference
