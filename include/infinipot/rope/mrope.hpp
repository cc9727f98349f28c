// M-RoPE (Qwen2-VL, arXiv 2409.12191): each channel pair takes its position from one of three axes.
//
// Given mrope.rope, a Pot re-indexes M-RoPE keys as they are. Turning a key back by a shift s subtracts
// s * frequency from the angle of every pair, whichever axis the pair follows, so the key for (t, h, w)
// becomes the key for (t - s, h - s, w - s). A text token at (p, p, p) moves to p - s, as under plain RoPE.
//
// Every kept entry shifts by the number of entries dropped before it. Entries with nothing dropped between
// them (an image kept whole) keep their distances on all axes; between others, even inside an image kept in
// part, every axis loses the dropped count. For this to leave text in order, positions must advance by one
// per entry, as within text: after an image of n entries, text must go on n positions after the image's
// start. Qwen-VL instead goes on after the image's largest position, fewer than n on. That is right while
// images are kept whole (pin them): what is kept then has the positions that Qwen-VL would give it. But an
// image dropped, in part or whole, moves what follows past it. An engine for which that matters must store
// unrotated keys and rotate them when it reads.
//
// A new token at index i of the pot thus stands at (i, i, i) plus what its positions in the stream were less
// its index in the stream, (t - j, h - j, w - j): a distillation does not change the difference.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Which of a token's three positions a channel pair follows. Qwen-VL calls the first one temporal.
enum class Axis : std::uint8_t { text, height, width };

/// The three positions of a token. They may be negative after a shift.
struct MropePosition {
  std::int64_t text = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;

  std::int64_t operator[](Axis axis) const noexcept {
    return axis == Axis::text ? text : axis == Axis::height ? height : width;
  }
};

/// The rotation of a vision-language model's keys.
struct Mrope {
  Rope rope;               ///< frequencies and pairing; what a Pot gets
  std::vector<Axis> axes;  ///< (rotary_dim / 2) one axis per pair, in any order

  /// Throws std::invalid_argument if the rope is not valid or the map does not cover its pairs.
  void validate(std::size_t head_dim) const {
    rope.validate(head_dim);
    if (axes.size() != rope.frequencies.size())
      detail::invalid("M-RoPE maps ", axes.size(), " pairs to axes, but the rope has ",
                      rope.frequencies.size());
  }
};

/// Contiguous sections (Qwen2-VL: 16, 24, 24): the first `text` pairs follow the text position, the next
/// `height` pairs the height, the last `width` pairs the width. Throws std::invalid_argument if the sections
/// do not sum to the number of pairs.
inline Mrope mrope_sections(Rope rope, std::size_t text, std::size_t height, std::size_t width) {
  const std::size_t pairs = rope.frequencies.size();
  // One by one, as the sum may overflow.
  if (text > pairs || height > pairs - text || width != pairs - text - height)
    detail::invalid("M-RoPE sections ", text, ", ", height, ", ", width, " do not sum to the rope's ", pairs,
                    " pairs");
  Mrope mrope{std::move(rope), std::vector<Axis>(text, Axis::text)};
  mrope.axes.resize(text + height, Axis::height);
  mrope.axes.resize(pairs, Axis::width);
  return mrope;
}

/// Interleaved sections (Qwen3-VL: 24, 20, 20): text, height and width in turn, and once the shorter sections
/// are used up, text. Throws std::invalid_argument if the sections do not sum to the number of pairs, or the
/// pairs end before a section does.
inline Mrope mrope_interleaved(Rope rope, std::size_t text, std::size_t height, std::size_t width) {
  Mrope mrope = mrope_sections(std::move(rope), text, height, width);
  const std::size_t pairs = mrope.axes.size();
  // The last pair of each is 3 * height - 2 and 3 * width - 1.
  if (3 * height > pairs + 1 || 3 * width > pairs)
    detail::invalid("M-RoPE sections ", text, ", ", height, ", ", width,
                    " do not interleave: text must have as many of the ", pairs, " pairs as the others");
  for (std::size_t i = 0; i < pairs; ++i)
    mrope.axes[i] = i % 3 == 1 && i < 3 * height  ? Axis::height
                    : i % 3 == 2 && i < 3 * width ? Axis::width
                                                  : Axis::text;
  return mrope;
}

/// Cosines and sines of a token, for all its heads: computed in double precision, rounded once. Fills
/// `memory` (rotary_dim), which must outlive the result.
inline Angles mrope_angles(const Mrope& mrope, const MropePosition& position,
                           std::span<float> memory) noexcept {
  const std::size_t pairs = mrope.rope.frequencies.size();
  for (std::size_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position[mrope.axes[i]]) * mrope.rope.frequencies[i];
    memory[i] = static_cast<float>(std::cos(angle));
    memory[pairs + i] = static_cast<float>(std::sin(angle));
  }
  return {memory.data(), memory.data() + pairs, pairs, mrope.rope.first_channel};
}

/// Rotates one key or query (head_dim floats) for its three positions, into `out`, which may be `in`, without
/// the attention factor. `memory` holds rotary_dim floats. For many heads of a token, call mrope_angles once.
inline void rotate(const float* in, const Mrope& mrope, const MropePosition& position, std::size_t head_dim,
                   std::span<float> memory, float* out) noexcept {
  rotate(in, mrope_angles(mrope, position, memory), mrope.rope.pairing, Turn::forward, head_dim, out);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
