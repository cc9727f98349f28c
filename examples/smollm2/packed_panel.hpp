// A panel of weights that stay as small as they are in their file: codes of 4 or 8 bits, and what turns 32
// of them into numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "dequantize.hpp"
#include "infinipot/element.hpp"
#include "matrix.hpp"

namespace smollm2 {

/// The weights of panel_width outputs for 32 inputs: weight = scale * code + offset. Codes are stored plus a
/// bias that makes them unsigned. A word holds an output's codes for inputs that follow one another, the
/// first in its lowest bits, so that shifts alone take a packet of them apart.
template <unsigned Bits>
struct PackedBlock {
  static constexpr std::size_t codes_per_word = 32 / Bits;
  static constexpr std::size_t words = CodedBlock::size / codes_per_word;

  infinipot::f16 scales[panel_width];
  infinipot::f16 offsets[panel_width];
  std::int32_t codes[words][panel_width];
};

/// A view of a panel's blocks, one after the other.
template <unsigned Bits>
struct PackedPanel {
  const PackedBlock<Bits>* blocks = nullptr;
  std::size_t rows = 0;  ///< inputs, a multiple of 32
  float bias = 0;
};

/// 32-bit integers as one packet. (By way of a function, since GCC warns of a packet as an argument.)
template <class P>
typename Eigen::internal::unpacket_traits<P>::integer_packet words_beside(const P&);
using WordPacket = decltype(words_beside(Packet()));

/// Code number Index of each word, as floats.
template <unsigned Bits, std::size_t Index>
Packet codes_of(const std::int32_t* words) noexcept {
  using namespace Eigen::internal;
  const WordPacket shifted = plogical_shift_right<static_cast<int>(Index * Bits)>(ploadu<WordPacket>(words));
  return pcast<WordPacket, Packet>(pand(shifted, pset1<WordPacket>((1 << Bits) - 1)));
}

/// Calls function<Index>(words) for each Index.
template <class Function, std::size_t... Index>
[[gnu::always_inline]] inline void call_each(const std::int32_t* words, const Function& function,
                                             std::index_sequence<Index...>) noexcept {
  (function.template operator()<Index>(words), ...);
}

/// Calls function(row, factors) for each row of a panel from the first on; `factors` are its packets.
template <unsigned Bits, class Function>
[[gnu::always_inline]] inline void for_each_row(const PackedPanel<Bits>& panel,
                                                const Function& function) noexcept {
  using namespace Eigen::internal;
  using Block = PackedBlock<Bits>;
  const Packet bias = pset1<Packet>(panel.bias);
  const Block* block = panel.blocks;
  for (std::size_t first = 0; first < panel.rows; first += CodedBlock::size, ++block) {
    float scales[panel_width], offsets[panel_width];
    infinipot::detail::to_float(block->scales, panel_width, scales);
    infinipot::detail::to_float(block->offsets, panel_width, offsets);
    std::size_t k = first;
    const auto give_row = [&]<std::size_t Index>(const std::int32_t* words) __attribute__((always_inline)) {
      Packet factors[panel_packets];
      for (std::size_t p = 0; p < panel_packets; ++p) {
        const std::size_t column = p * lanes;
        const Packet code = psub(codes_of<Bits, Index>(words + column), bias);
        // Scale times code is exact, so this rounds once, with and without a fused instruction.
        factors[p] = pmadd(ploadu<Packet>(scales + column), code, ploadu<Packet>(offsets + column));
      }
      function(k++, factors);
    };
    for (const auto& words : block->codes)
      call_each(words, give_row, std::make_index_sequence<Block::codes_per_word>());
  }
}

/// All weights as floats, into out (panel.rows, panel_width).
template <unsigned Bits>
void unpack(const PackedPanel<Bits>& panel, MatrixView out) noexcept {
  for_each_row(
      panel, [out](std::size_t k, const Packet(&factors)[panel_packets]) __attribute__((always_inline)) {
        for (std::size_t p = 0; p < panel_packets; ++p)
          Eigen::internal::pstoreu(out.row(k) + p * lanes, factors[p]);
      });
}

}  // namespace smollm2
