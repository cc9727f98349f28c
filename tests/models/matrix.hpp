// Numbers of a small model, in double precision.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace models {

using Vector = std::vector<double>;

/// Row by row.
struct Matrix {
  Matrix() = default;
  Matrix(std::size_t row_count, std::size_t column_count)
      : rows(row_count), columns(column_count), values(row_count * column_count) {}
  Matrix(std::size_t row_count, std::size_t column_count, Vector numbers)
      : rows(row_count), columns(column_count), values(std::move(numbers)) {}

  std::span<double> row(std::size_t i) { return std::span(values).subspan(i * columns, columns); }
  std::span<const double> row(std::size_t i) const { return std::span(values).subspan(i * columns, columns); }

  std::size_t rows = 0;
  std::size_t columns = 0;
  Vector values;
};

inline double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline void add(const Matrix& from, Matrix& to) {
  for (std::size_t i = 0; i < from.values.size(); ++i) to.values[i] += from.values[i];
}

/// A layer of weights (out, in), with or without a bias (out).
struct Linear {
  Matrix weight;
  Vector bias = {};

  /// (tokens, in) -> (tokens, out)
  Matrix operator()(const Matrix& x) const {
    Matrix y(x.rows, weight.rows);
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t k = 0; k < weight.rows; ++k)
        y.row(i)[k] = dot(weight.row(k), x.row(i)) + (bias.empty() ? 0 : bias[k]);
    return y;
  }

  /// Of its outputs from .. from + count - 1.
  Linear part(std::size_t from, std::size_t count) const {
    Linear some{Matrix(count, weight.columns)};
    for (std::size_t k = 0; k < count; ++k) {
      std::ranges::copy(weight.row(from + k), some.weight.row(k).begin());
      if (!bias.empty()) some.bias.push_back(bias[from + k]);
    }
    return some;
  }
};

}  // namespace models
