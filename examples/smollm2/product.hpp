// The one matrix product of the engine: rows times a panel of columns.
#pragma once

#include <cstddef>

#include "matrix.hpp"

namespace smollm2 {

/// Calls function(row, factors) for each row of a panel from the first on; `factors` are its packets. Other
/// kinds of panels have overloads of their own.
template <class Function>
[[gnu::always_inline]] inline void for_each_row(ConstMatrixView panel, const Function& function) noexcept {
  Packet factors[panel_packets];
  const float* in = panel.data;
  for (std::size_t k = 0; k < panel.rows; ++k, in += panel.stride) {
    for (std::size_t p = 0; p < panel_packets; ++p)
      factors[p] = Eigen::internal::ploadu<Packet>(in + p * lanes);
    function(k, factors);
  }
}

/// What a product does to the numbers already there.
enum class Write { set, add };

/// Rows that a product takes at once. With a panel's 4 packets these are the sums held in registers: 24 of
/// 32, or 12 of 16, which leaves room for their factors and hides the latency of multiply-add.
inline constexpr std::size_t tile_rows = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 6 : 3;

/// The product for `Rows` rows, x.rows or more.
template <std::size_t Rows, class Panel>
void multiply_tile(ConstMatrixView x, const Panel& panel, MatrixView y, Write write) noexcept {
  using namespace Eigen::internal;
  Packet sum[Rows][panel_packets];
  for (auto& row : sum)
    for (Packet& packet : row) packet = pset1<Packet>(0);

  for_each_row(
      panel, [&](std::size_t k, const Packet(&factors)[panel_packets]) __attribute__((always_inline)) {
        for (std::size_t i = 0; i < Rows; ++i) {
          const Packet value = pset1<Packet>(x.data[i * x.stride + k]);
          for (std::size_t p = 0; p < panel_packets; ++p) sum[i][p] = pmadd(value, factors[p], sum[i][p]);
        }
      });

  for (std::size_t i = 0; i < Rows; ++i)
    for (std::size_t p = 0; p < panel_packets; ++p) {
      float* const out = y.row(i) + p * lanes;
      pstoreu(out, write == Write::add ? padd(ploadu<Packet>(out), sum[i][p]) : sum[i][p]);
    }
}

/// The product for x.rows <= Rows rows.
template <std::size_t Rows, class Panel>
void multiply_few(ConstMatrixView x, const Panel& panel, MatrixView y, Write write) noexcept {
  if constexpr (Rows > 0) {
    if (x.rows == Rows) return multiply_tile<Rows>(x, panel, y, write);
    multiply_few<Rows - 1>(x, panel, y, write);
  }
}

/// y = x * panel or y += x * panel, for x (rows, depth), panel (depth, panel_width), y (rows, panel_width);
/// depth is panel.rows. Each element is one sum in the order of k, whichever rows are computed with it: that
/// is why results depend neither on threads nor on how a prompt is cut up.
inline void multiply(ConstMatrixView x, ConstMatrixView panel, MatrixView y, Write write) noexcept {
  std::size_t row = 0;
  for (; row + tile_rows <= x.rows; row += tile_rows)
    multiply_tile<tile_rows>(x.slice(row, tile_rows), panel, y.slice(row, tile_rows), write);
  const std::size_t rest = x.rows - row;
  multiply_few<tile_rows - 1>(x.slice(row, rest), panel, y.slice(row, rest), write);
}

}  // namespace smollm2
