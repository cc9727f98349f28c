// A linear layer, its weights packed the way the matrix product reads them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <variant>

#include "matrix.hpp"
#include "product.hpp"
#include "thread_pool.hpp"
#include "weight_store.hpp"

namespace smollm2 {

/// Rows of one piece of work at most: enough to make the most of a panel and of unpacking it, few enough to
/// keep all threads busy.
inline constexpr std::size_t task_rows = 22 * tile_rows;

/// The threads that products run on, and scratch memory for each.
class Workspace {
 public:
  /// For layers of at most `most_inputs` inputs. The pool must outlive the workspace.
  Workspace(ThreadPool& pool, std::size_t most_inputs)
      : pool_(&pool),
        most_inputs_(most_inputs),
        panels_(pool.size() * most_inputs, panel_width),
        products_(pool.size() * task_rows, panel_width) {}

  ThreadPool& pool() const noexcept { return *pool_; }
  /// (most_inputs, panel_width)
  MatrixView panel(std::size_t thread) noexcept {
    return panels_.view().slice(thread * most_inputs_, most_inputs_);
  }
  /// (task_rows, panel_width)
  MatrixView product(std::size_t thread) noexcept {
    return products_.view().slice(thread * task_rows, task_rows);
  }

 private:
  ThreadPool* pool_;
  std::size_t most_inputs_;
  Matrix panels_;    // (threads, most_inputs, panel_width)
  Matrix products_;  // (threads, task_rows, panel_width)
};

/// y = W x without bias, for W (outputs, inputs). Only this class knows how weights are stored: those of the
/// Q types keep the size they have in their file, the others become floats. Results are the same bits as
/// with all weights unpacked to floats.
class Linear {
 public:
  Linear() = default;
  /// `types` are those of the rows that it will be given; `inputs` is a multiple of 32 if one is a Q type.
  Linear(std::size_t outputs, std::size_t inputs, std::span<const GgmlType> types);

  std::size_t outputs() const noexcept { return outputs_; }
  std::size_t inputs() const noexcept { return inputs_; }

  /// Sets the weights of one output, `inputs` numbers as a file has them. Different outputs may be set from
  /// different threads at once if they belong to different panels.
  void set_row(std::size_t output, GgmlType type, std::span<const std::byte> row);
  /// Reads them back into `weights`, (inputs).
  void get_row(std::size_t output, std::span<float> weights) const noexcept;

  /// Panels of panel_width outputs; the last may be filled up with outputs that are 0.
  std::size_t panels() const noexcept { return padded(outputs_) / panel_width; }

  /// One panel's outputs: y (rows, panel_width) from x (rows, inputs). `scratch` is a workspace's panel.
  void multiply_panel(std::size_t panel, ConstMatrixView x, MatrixView y, Write write,
                      MatrixView scratch) const noexcept;

  /// All outputs: y (rows, padded(outputs)) from x (rows, inputs).
  void multiply_all(ConstMatrixView x, MatrixView y, Write write, Workspace& workspace) const noexcept;

 private:
  std::size_t outputs_ = 0;
  std::size_t inputs_ = 0;
  std::variant<FloatStore, PackedStore<4>, PackedStore<8>> weights_;
};

/// The first half of a SwiGLU feed-forward layer: y = silu(gate x) * (up x), y (rows, padded(outputs)).
/// `gate` and `up` have the same shape.
void gated_multiply(const Linear& gate, const Linear& up, ConstMatrixView x, MatrixView y,
                    Workspace& workspace) noexcept;

}  // namespace smollm2
