#include "linear.hpp"

#include <algorithm>

namespace smollm2 {
namespace {

using Row = Eigen::Map<Eigen::Array<float, 1, Eigen::Dynamic>>;
using ConstRow = Eigen::Map<const Eigen::Array<float, 1, Eigen::Dynamic>>;

/// Calls function(panel, first row, row count, thread) for every panel of `linear` and every task_rows rows.
template <class Function>
void for_each_task(const Linear& linear, std::size_t rows, ThreadPool& pool,
                   const Function& function) noexcept {
  const std::size_t blocks = (rows + task_rows - 1) / task_rows;
  pool.parallel_for(linear.panels() * blocks, [&](std::size_t item, std::size_t thread) {
    const std::size_t first = item % blocks * task_rows;
    function(item / blocks, first, std::min(task_rows, rows - first), thread);
  });
}

/// gate = silu(gate) * up, for one panel's width.
void gate_row(float* gate, const float* up) noexcept {
  constexpr auto width = static_cast<Eigen::Index>(panel_width);
  Row g(gate, width);
  g = g / (1 + (-g).exp()) * ConstRow(up, width);
}

}  // namespace

Linear::Linear(std::size_t outputs, std::size_t inputs)
    : outputs_(outputs), inputs_(inputs), weights_(panels() * inputs, panel_width) {}

void Linear::set_row(std::size_t output, std::span<const float> weights) noexcept {
  const std::size_t first = output / panel_width * inputs_;
  for (std::size_t i = 0; i < inputs_; ++i) weights_.row(first + i)[output % panel_width] = weights[i];
}

void Linear::get_row(std::size_t output, std::span<float> weights) const noexcept {
  const std::size_t first = output / panel_width * inputs_;
  for (std::size_t i = 0; i < inputs_; ++i) weights[i] = weights_.view().row(first + i)[output % panel_width];
}

void Linear::multiply_all(ConstMatrixView x, MatrixView y, Write write, ThreadPool& pool) const noexcept {
  for_each_task(*this, x.rows, pool,
                [&](std::size_t panel, std::size_t first, std::size_t count, std::size_t /*thread*/) {
                  const MatrixView out = y.slice(first, count).from_column(panel * panel_width);
                  multiply_panel(panel, x.slice(first, count), out, write);
                });
}

void gated_multiply(const Linear& gate, const Linear& up, ConstMatrixView x, MatrixView y, MatrixView scratch,
                    ThreadPool& pool) noexcept {
  for_each_task(gate, x.rows, pool,
                [&](std::size_t panel, std::size_t first, std::size_t count, std::size_t thread) {
                  const ConstMatrixView in = x.slice(first, count);
                  const MatrixView out = y.slice(first, count).from_column(panel * panel_width);
                  const MatrixView lifted{scratch.row(thread), count, panel_width};
                  gate.multiply_panel(panel, in, out, Write::set);
                  up.multiply_panel(panel, in, lifted, Write::set);
                  for (std::size_t i = 0; i < count; ++i) gate_row(out.row(i), lifted.row(i));
                });
}

}  // namespace smollm2
