#include "linear.hpp"

#include <algorithm>
#include <iterator>

namespace smollm2 {
namespace {

using Row = Eigen::Map<Eigen::Array<float, 1, Eigen::Dynamic>>;
using ConstRow = Eigen::Map<const Eigen::Array<float, 1, Eigen::Dynamic>>;

/// Panels of one piece of work at most, where rows are few.
constexpr std::size_t task_panels = 8;

/// Calls function(panel, 0, rows, thread) for every panel of `linear`. Threads share the panels out in runs
/// of equal length, since with few rows a panel takes no longer than agreeing on who takes it.
template <class Function>
void for_each_panel(const Linear& linear, std::size_t rows, Workspace& workspace,
                    const Function& function) noexcept {
  const std::size_t panels = linear.panels(), threads = workspace.pool().size();
  const std::size_t rounds = (panels + threads * task_panels - 1) / (threads * task_panels);
  const std::size_t runs = std::min(panels, rounds * threads);
  workspace.pool().parallel_for(runs, [&](std::size_t run, std::size_t thread) {
    for (std::size_t panel = run * panels / runs; panel < (run + 1) * panels / runs; ++panel)
      function(panel, 0, rows, thread);
  });
}

/// Calls function(panel, first row, row count, thread) for every panel of `linear` and all rows, cut into
/// blocks of about the same size.
template <class Function>
void for_each_task(const Linear& linear, std::size_t rows, Workspace& workspace,
                   const Function& function) noexcept {
  if (rows <= tile_rows) return for_each_panel(linear, rows, workspace, function);
  const std::size_t blocks = (rows + task_rows - 1) / task_rows;
  const std::size_t tiles = (rows + tile_rows - 1) / tile_rows;
  const std::size_t most = (tiles + blocks - 1) / blocks * tile_rows;
  workspace.pool().parallel_for(linear.panels() * blocks, [&](std::size_t item, std::size_t thread) {
    const std::size_t first = std::min(rows, item % blocks * most);
    function(item / blocks, first, std::min(most, rows - first), thread);
  });
}

/// gate = silu(gate) * up, for one panel's width.
void gate_row(float* gate, const float* up) noexcept {
  constexpr auto width = static_cast<Eigen::Index>(panel_width);
  Row g(gate, width);
  g = g / (1 + (-g).exp()) * ConstRow(up, width);
}

}  // namespace

Linear::Linear(std::size_t outputs, std::size_t inputs, std::span<const GgmlType> types)
    : outputs_(outputs), inputs_(inputs) {
  const auto all = [types](GgmlType type) { return std::ranges::count(types, type) == std::ssize(types); };
  // A nibble holds codes of one range only, so rows of both 4-bit types share bytes.
  if (!std::ranges::all_of(types, is_coded)) {
    weights_.emplace<FloatStore>(panels(), inputs);
  } else if (all(GgmlType::q4_0)) {
    weights_.emplace<PackedStore<4>>(panels(), inputs, 8);
  } else if (all(GgmlType::q4_1)) {
    weights_.emplace<PackedStore<4>>(panels(), inputs, 0);
  } else {
    weights_.emplace<PackedStore<8>>(panels(), inputs, 128);
  }
}

void Linear::set_row(std::size_t output, GgmlType type, std::span<const std::byte> row) {
  std::visit([&](auto& weights) { weights.set_row(output, type, row); }, weights_);
}

void Linear::get_row(std::size_t output, std::span<float> weights) const noexcept {
  std::visit([&](const auto& store) { store.get_row(output, weights); }, weights_);
}

void Linear::multiply_panel(std::size_t panel, ConstMatrixView x, MatrixView y, Write write,
                            MatrixView scratch) const noexcept {
  std::visit([&](const auto& weights) { weights.multiply(panel, x, y, write, scratch); }, weights_);
}

void Linear::multiply_all(ConstMatrixView x, MatrixView y, Write write, Workspace& workspace) const noexcept {
  for_each_task(*this, x.rows, workspace,
                [&](std::size_t panel, std::size_t first, std::size_t count, std::size_t thread) {
                  const MatrixView out = y.slice(first, count).from_column(panel * panel_width);
                  multiply_panel(panel, x.slice(first, count), out, write, workspace.panel(thread));
                });
}

void gated_multiply(const Linear& gate, const Linear& up, ConstMatrixView x, MatrixView y,
                    Workspace& workspace) noexcept {
  for_each_task(gate, x.rows, workspace,
                [&](std::size_t panel, std::size_t first, std::size_t count, std::size_t thread) {
                  const ConstMatrixView in = x.slice(first, count);
                  const MatrixView out = y.slice(first, count).from_column(panel * panel_width);
                  const MatrixView lifted = workspace.product(thread), scratch = workspace.panel(thread);
                  gate.multiply_panel(panel, in, out, Write::set, scratch);
                  up.multiply_panel(panel, in, lifted, Write::set, scratch);
                  for (std::size_t i = 0; i < count; ++i) gate_row(out.row(i), lifted.row(i));
                });
}

}  // namespace smollm2
