// A linear layer, its weights packed the way the matrix product reads them.
#pragma once

#include <cstddef>
#include <span>

#include "matrix.hpp"
#include "product.hpp"
#include "thread_pool.hpp"

namespace smollm2 {

/// y = W x without bias, for W (outputs, inputs) of floats. Only this class knows how weights are stored.
class Linear {
 public:
  Linear() = default;
  /// All weights 0.
  Linear(std::size_t outputs, std::size_t inputs);

  std::size_t outputs() const noexcept { return outputs_; }
  std::size_t inputs() const noexcept { return inputs_; }

  /// Sets the weights of one output, (inputs). Different outputs may be set from different threads at once.
  void set_row(std::size_t output, std::span<const float> weights) noexcept;
  /// Reads them back into `weights`, (inputs).
  void get_row(std::size_t output, std::span<float> weights) const noexcept;

  /// Panels of panel_width outputs; the last may be filled up with outputs that are 0.
  std::size_t panels() const noexcept { return padded(outputs_) / panel_width; }

  /// One panel's outputs: y (rows, panel_width) from x (rows, inputs).
  void multiply_panel(std::size_t panel, ConstMatrixView x, MatrixView y, Write write) const noexcept {
    multiply(x, weights_.view().slice(panel * inputs_, inputs_), y, write);
  }

  /// All outputs: y (rows, padded(outputs)) from x (rows, inputs).
  void multiply_all(ConstMatrixView x, MatrixView y, Write write, ThreadPool& pool) const noexcept;

 private:
  std::size_t outputs_ = 0;
  std::size_t inputs_ = 0;
  Matrix weights_;  // (panels, inputs, panel_width)
};

/// Rows of one piece of work: enough to make the most of a panel, few enough to keep all threads busy.
inline constexpr std::size_t task_rows = 16 * tile_rows;

/// Floats of scratch that gated_multiply needs per thread.
inline constexpr std::size_t gated_scratch = task_rows * panel_width;

/// The first half of a SwiGLU feed-forward layer: y = silu(gate x) * (up x), y (rows, padded(outputs)).
/// `gate` and `up` have the same shape; `scratch` is (pool.size(), gated_scratch).
void gated_multiply(const Linear& gate, const Linear& up, ConstMatrixView x, MatrixView y, MatrixView scratch,
                    ThreadPool& pool) noexcept;

}  // namespace smollm2
