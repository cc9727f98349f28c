#pragma once

#include <cstddef>

#include "matrix.hpp"

namespace smollm2 {

/// out (columns, rows) from in (rows, columns).
inline void transpose(ConstMatrixView in, std::size_t columns, MatrixView out) noexcept {
  constexpr auto side = static_cast<int>(lanes);
  using Block = Eigen::Matrix<float, side, side, Eigen::RowMajor>;  // Eigen transposes these in registers
  using Stride = Eigen::OuterStride<>;
  const Stride from(static_cast<Eigen::Index>(in.stride)), to(static_cast<Eigen::Index>(out.stride));
  const std::size_t whole_rows = in.rows / lanes * lanes, whole_columns = columns / lanes * lanes;
  for (std::size_t r = 0; r < whole_rows; r += lanes)
    for (std::size_t c = 0; c < whole_columns; c += lanes) {
      Block block = Eigen::Map<const Block, 0, Stride>(in.row(r) + c, from);
      block.transposeInPlace();
      Eigen::Map<Block, 0, Stride>(out.row(c) + r, to) = block;
    }
  for (std::size_t r = 0; r < in.rows; ++r)
    for (std::size_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) out.row(c)[r] = in.row(r)[c];
}

}  // namespace smollm2
