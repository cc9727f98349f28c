// Rows of floats: views of them, and memory for them.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace smollm2 {

/// A view of rows that stand `stride` floats apart. Its user knows how long a row is.
template <class Float>
struct RowView {
  Float* data = nullptr;
  std::size_t rows = 0;
  std::size_t stride = 0;

  Float* row(std::size_t i) const noexcept { return data + i * stride; }
  /// Rows first .. first + count - 1.
  RowView slice(std::size_t first, std::size_t count) const noexcept { return {row(first), count, stride}; }
  /// The same rows from column `column` on.
  RowView from_column(std::size_t column) const noexcept { return {data + column, rows, stride}; }

  operator RowView<const Float>() const noexcept requires(!std::is_const_v<Float>) {
    return {data, rows, stride};
  }
};

using MatrixView = RowView<float>;
using ConstMatrixView = RowView<const float>;

/// Floats as one packet (a SIMD register), and how many those are on this machine.
using Packet = Eigen::internal::packet_traits<float>::type;
inline constexpr std::size_t lanes = Eigen::internal::packet_traits<float>::size;

/// Columns that a matrix product makes at once (see product.hpp): a panel of several packets.
inline constexpr std::size_t panel_packets = 4;
inline constexpr std::size_t panel_width = panel_packets * lanes;

/// `columns` rounded up to whole panels.
constexpr std::size_t padded(std::size_t columns) noexcept {
  return (columns + panel_width - 1) / panel_width * panel_width;
}

/// Owns (rows, columns) floats, each row padded to whole panels and aligned; zero at first.
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::size_t rows, std::size_t columns)
      : rows_(rows), stride_(padded(columns)), memory_(rows * stride_) {}

  MatrixView view() noexcept { return {memory_.data(), rows_, stride_}; }
  ConstMatrixView view() const noexcept { return {memory_.data(), rows_, stride_}; }
  float* row(std::size_t i) noexcept { return view().row(i); }

 private:
  std::size_t rows_ = 0;
  std::size_t stride_ = 0;
  std::vector<float, Eigen::aligned_allocator<float>> memory_;  // (rows, stride)
};

}  // namespace smollm2
