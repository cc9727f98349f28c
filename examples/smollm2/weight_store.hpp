// The weights of a linear layer in memory, in panels of outputs: as floats or as codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dequantize.hpp"
#include "matrix.hpp"
#include "packed_panel.hpp"
#include "product.hpp"

namespace smollm2 {

/// Weights (outputs, inputs) as floats.
class FloatStore {
 public:
  FloatStore() = default;
  /// All weights 0.
  FloatStore(std::size_t panels, std::size_t inputs)
      : inputs_(inputs), weights_(panels * inputs, panel_width) {}

  /// Sets the weights of one output from those of a file, which are a row of `inputs` numbers.
  void set_row(std::size_t output, GgmlType type, std::span<const std::byte> row);
  void get_row(std::size_t output, std::span<float> weights) const noexcept;

  /// y (x.rows, panel_width) from x (x.rows, inputs).
  void multiply(std::size_t panel, ConstMatrixView x, MatrixView y, Write write,
                MatrixView /*scratch*/) const noexcept {
    smollm2::multiply(x, weights_.view().slice(panel * inputs_, inputs_), y, write);
  }

 private:
  std::size_t inputs_ = 0;
  Matrix weights_;  // (panels, inputs, panel_width)
};

/// Weights (outputs, inputs) as blocks of a Q type, with codes of 4 or 8 bits.
template <unsigned Bits>
class PackedStore {
 public:
  /// All weights 0. `bias` makes the codes unsigned.
  PackedStore(std::size_t panels, std::size_t inputs, int bias)
      : inputs_(inputs), bias_(bias), blocks_(panels * blocks_per_panel()) {}

  void set_row(std::size_t output, GgmlType type, std::span<const std::byte> row);
  void get_row(std::size_t output, std::span<float> weights) const noexcept;

  /// `scratch` holds a panel of floats, (inputs, panel_width). The weights of many rows are unpacked to it
  /// once, those of a few where they are used; they are the same bits.
  void multiply(std::size_t panel, ConstMatrixView x, MatrixView y, Write write,
                MatrixView scratch) const noexcept {
    const PackedPanel<Bits> packed{blocks_.data() + panel * blocks_per_panel(), inputs_,
                                   static_cast<float>(bias_)};
    if (x.rows <= tile_rows) return multiply_few<tile_rows>(x, packed, y, write);
    const MatrixView unpacked = scratch.slice(0, inputs_);
    unpack(packed, unpacked);
    smollm2::multiply(x, unpacked, y, write);
  }

 private:
  using Block = PackedBlock<Bits>;

  std::size_t blocks_per_panel() const noexcept { return inputs_ / CodedBlock::size; }
  std::size_t block_index(std::size_t output, std::size_t block) const noexcept {
    return output / panel_width * blocks_per_panel() + block;
  }

  std::size_t inputs_ = 0;
  int bias_ = 0;
  std::vector<Block, Eigen::aligned_allocator<Block>> blocks_;  // (panels, blocks)
};

extern template class PackedStore<8>;
extern template class PackedStore<4>;

}  // namespace smollm2
