// Rotary position embedding: which channels turn together, how fast, and the rotation itself.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Which channels form the pairs that RoPE turns, for a rotary dimension r.
enum class Pairing : std::uint8_t {
  half_split,   ///< (i, i + r/2): GPT-NeoX, Hugging Face, gemma.cpp
  interleaved,  ///< (2i, 2i + 1): GPT-J, llama.cpp's "norm", calm
};

/// The rotation of a model's keys. Of a head's channels it turns rotary_dim(), from `first_channel` on; the
/// others are left alone (partial rotary; MLA turns the last ones).
struct Rope {
  Pairing pairing = Pairing::half_split;
  std::vector<double> frequencies;  ///< (rotary_dim / 2) radians per position, one per pair
  /// Factor on rotated queries and keys (YaRN, LongRoPE); 1 without one.
  double attention_factor = 1;
  std::size_t first_channel = 0;

  std::size_t rotary_dim() const noexcept { return 2 * frequencies.size(); }

  bool operator==(const Rope&) const = default;

  /// Throws std::invalid_argument if more than head_dim channels would turn, or a number is out of range.
  void validate(std::size_t head_dim) const {
    if (first_channel > head_dim || rotary_dim() > head_dim - first_channel)
      detail::invalid("RoPE turns ", rotary_dim(), " channels from channel ", first_channel,
                      " on, but head_dim is ", head_dim);
    for (const double frequency : frequencies)
      if (!detail::is_finite(frequency)) detail::invalid("RoPE frequency ", frequency, " is not finite");
    if (!detail::is_finite(attention_factor) || attention_factor <= 0)
      detail::invalid("RoPE attention factor ", attention_factor, " is not a positive number");
  }
};

/// The plain table: pair i has frequency theta^(-2i / rotary_dim). Throws std::invalid_argument if rotary_dim
/// is odd or theta is not positive. A rotary_dim of 0 is a model without RoPE.
inline Rope plain_rope(std::size_t rotary_dim, double theta = 10000, Pairing pairing = Pairing::half_split) {
  if (rotary_dim % 2 != 0) detail::invalid("rotary_dim ", rotary_dim, " is odd; RoPE turns pairs");
  if (!detail::is_finite(theta) || theta <= 0)
    detail::invalid("RoPE theta ", theta, " is not a positive number");
  Rope rope{.pairing = pairing, .frequencies = std::vector<double>(rotary_dim / 2)};
  for (std::size_t i = 0; i < rope.frequencies.size(); ++i)
    rope.frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  return rope;
}

/// Cosines and sines of one shift for all pairs.
struct Angles {
  const float* cos = nullptr;  ///< (pairs)
  const float* sin = nullptr;  ///< (pairs)
  std::size_t pairs = 0;
  std::size_t first = 0;  ///< the first channel that turns
};

/// Cosines and sines of the shifts 0 .. shifts - 1, computed in double precision and rounded once.
class AngleTable {
 public:
  AngleTable() = default;

  /// Floats that a table needs.
  static std::size_t floats(const Rope& rope, std::size_t shifts) noexcept {
    return shifts * rope.rotary_dim();
  }

  /// Fills `memory` (floats(rope, shifts)), which must outlive the table.
  AngleTable(const Rope& rope, std::size_t shifts, std::span<float> memory) noexcept
      : data_(memory.data()), pairs_(rope.frequencies.size()), first_(rope.first_channel) {
    for (std::size_t shift = 0; shift < shifts; ++shift) {
      float* const cos = memory.data() + shift * 2 * pairs_;
      for (std::size_t i = 0; i < pairs_; ++i) {
        const double angle = static_cast<double>(shift) * rope.frequencies[i];
        cos[i] = static_cast<float>(std::cos(angle));
        cos[pairs_ + i] = static_cast<float>(std::sin(angle));
      }
    }
  }

  Angles operator[](std::size_t shift) const noexcept {
    const float* const cos = data_ + shift * 2 * pairs_;
    return {cos, cos + pairs_, pairs_, first_};
  }

 private:
  const float* data_ = nullptr;  // (shifts, 2, pairs)
  std::size_t pairs_ = 0, first_ = 0;
};

enum class Turn : std::int8_t { forward = 1, backward = -1 };

namespace detail {

/// Pairs `from` and above, one at a time; pair i has the channels first(i) and second(i).
template <class First, class Second>
void rotate_pairs(const float* in, const Angles& angles, float sign, std::size_t from, First first,
                  Second second, float* out) noexcept {
  for (std::size_t i = from; i < angles.pairs; ++i) {
    const float x = in[first(i)], y = in[second(i)];
    const float c = angles.cos[i], s = sign * angles.sin[i];
    out[first(i)] = x * c - y * s;
    out[second(i)] = x * s + y * c;
  }
}

inline void rotate_half_split(const float* in, const Angles& angles, float sign, float* out) noexcept {
  const std::size_t pairs = angles.pairs;
  const Packet signs = broadcast(sign);
  std::size_t i = 0;
  for (; i + packet_size <= pairs; i += packet_size) {
    const Packet x = load(in + i), y = load(in + pairs + i);
    const Packet c = load(angles.cos + i), s = multiply(signs, load(angles.sin + i));
    store(out + i, subtract(multiply(x, c), multiply(y, s)));
    store(out + pairs + i, multiply_add(x, s, multiply(y, c)));
  }
  rotate_pairs(
      in, angles, sign, i, [](std::size_t k) { return k; }, [pairs](std::size_t k) { return k + pairs; },
      out);
}

inline void rotate_interleaved(const float* in, const Angles& angles, float sign, float* out) noexcept {
  std::size_t i = 0;
  if constexpr (packet_size > 1) {
    constexpr std::size_t pairs = packet_size / 2;
    float alternating[packet_size];
    for (std::size_t k = 0; k < packet_size; ++k) alternating[k] = k % 2 == 0 ? -sign : sign;
    const Packet signs = load(alternating);
    for (; i + pairs <= angles.pairs; i += pairs) {
      const Packet x = load(in + 2 * i);
      const Packet c = load_twice(angles.cos + i), s = multiply(signs, load_twice(angles.sin + i));
      store(out + 2 * i, multiply_add(swap_neighbours(x), s, multiply(x, c)));
    }
  }
  rotate_pairs(
      in, angles, sign, i, [](std::size_t k) { return 2 * k; }, [](std::size_t k) { return 2 * k + 1; }, out);
}

}  // namespace detail

/// Rotates one key or query (head_dim floats) by a shift, into `out`, which may be `in`. Channels beside the
/// pairs are copied.
inline void rotate(const float* in, const Angles& angles, Pairing pairing, Turn turn, std::size_t head_dim,
                   float* out) noexcept {
  const auto sign = static_cast<float>(turn);
  const std::size_t first = angles.first, end = first + 2 * angles.pairs;
  if (pairing == Pairing::half_split)
    detail::rotate_half_split(in + first, angles, sign, out + first);
  else
    detail::rotate_interleaved(in + first, angles, sign, out + first);
  if (in == out) return;
  std::copy(in, in + first, out);
  std::copy(in + end, in + head_dim, out + end);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
