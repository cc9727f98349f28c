// Causal attention over the rows of a KvMemory, a tile of keys at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "kv_memory.hpp"
#include "matrix.hpp"
#include "product.hpp"
#include "softmax.hpp"
#include "thread_pool.hpp"
#include "transpose.hpp"

namespace smollm2 {

/// Softmax attention with grouped queries. The queries of a few tokens that share a kv head are taken
/// together, as rows of two matrix products per tile of keys; the softmax over all tiles is kept up to date
/// from tile to tile (flash attention), so that scores never leave the cache. Rows do not mix: a row's
/// result depends on nothing but its query, keys and values.
template <KvMemory Memory>
class Attention {
 public:
  /// Allocates scratch for each thread of the pool.
  Attention(const Memory& memory, ThreadPool& pool) : memory_(memory), shape_(memory.shape()), pool_(pool) {
    for (std::size_t i = 0; i < pool.size(); ++i) scratch_.emplace_back(shape_);
  }

  /// Attention of queries.count tokens at positions `first` ..., each to the entries up to its own,
  /// into out (count, query_heads * head_dim).
  void run(std::size_t layer, const infinipot::Queries& queries, std::size_t first, MatrixView out) noexcept {
    const std::size_t tokens = tokens_per_task(shape_);
    const std::size_t blocks = (queries.count + tokens - 1) / tokens;
    pool_.parallel_for(blocks * shape_.kv_heads, [&](std::size_t item, std::size_t thread) {
      // Late tokens first: they have the most keys, and long tasks are best begun early.
      const std::size_t token = (blocks - 1 - item / shape_.kv_heads) * tokens;
      const Task task{layer, item % shape_.kv_heads, token, std::min(tokens, queries.count - token),
                      first + token};
      attend(task, queries, out, scratch_[thread]);
    });
  }

 private:
  static constexpr std::size_t key_tile = 256;
  static constexpr std::size_t most_rows = 96;

  static std::size_t tokens_per_task(const infinipot::Shape& shape) noexcept {
    return std::max<std::size_t>(1, most_rows / shape.group());
  }

  /// Tokens `token` .. token + tokens - 1 of the call, of which the first stands at `position`.
  struct Task {
    std::size_t layer, kv_head, token, tokens, position;
  };

  /// What a thread needs; r rows are a task's (tokens, group).
  struct Scratch {
    explicit Scratch(const infinipot::Shape& shape)
        : Scratch(tokens_per_task(shape) * shape.group(), shape.head_dim) {}
    Scratch(std::size_t rows, std::size_t head_dim)
        : queries(rows, head_dim),
          mixed(rows, head_dim),
          keys(key_tile, head_dim),
          columns(head_dim, key_tile),
          values(key_tile, head_dim),
          scores(rows, key_tile),
          softmax(rows) {}

    Matrix queries;                // (r, head_dim), scaled
    Matrix mixed;                  // (r, head_dim), sums of values not yet divided by those of weights
    Matrix keys;                   // (key_tile, head_dim), keys, then values, that must be converted
    Matrix columns;                // (head_dim, key_tile), keys transposed
    Matrix values;                 // (key_tile, head_dim), in whole panels
    Matrix scores;                 // (r, key_tile), then weights
    std::vector<Softmax> softmax;  // (r)
  };

  void attend(const Task& task, const infinipot::Queries& queries, MatrixView out, Scratch& s) noexcept {
    const std::size_t rows = task.tokens * shape_.group();
    gather(task, queries, s);
    std::fill_n(s.softmax.begin(), rows, Softmax{});
    std::fill_n(s.mixed.row(0), rows * s.mixed.view().stride, 0.0F);
    const std::size_t end = task.position + task.tokens;  // the last token's keys end here
    for (std::size_t key = 0; key < end; key += key_tile) {
      const std::size_t count = std::min(key_tile, end - key);
      score(task, key, count, rows, s);
      weigh(task, key, count, rows, s);
      mix(task, key, count, rows, s);
    }
    scatter(task, s, out);
  }

  /// Row (t, g) is query g of the group of token t.
  void gather(const Task& task, const infinipot::Queries& queries, Scratch& s) const noexcept {
    const float scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    for (std::size_t t = 0, row = 0; t < task.tokens; ++t)
      for (std::size_t g = 0; g < shape_.group(); ++g, ++row) {
        const float* const query = queries.at(task.token + t, task.kv_head * shape_.group() + g);
        std::transform(query, query + shape_.head_dim, s.queries.row(row),
                       [scale](float x) { return x * scale; });
      }
  }

  /// scores = queries * keys^T. Columns from `count` on are not to be read.
  void score(const Task& task, std::size_t key, std::size_t count, std::size_t rows,
             Scratch& s) const noexcept {
    const infinipot::FloatRows keys = memory_.key_rows(task.layer, task.kv_head, key, count, s.keys.row(0));
    transpose({keys.data, count, static_cast<std::size_t>(keys.stride)}, shape_.head_dim, s.columns.view());
    for (std::size_t column = 0; column < count; column += panel_width)
      multiply(s.queries.view().slice(0, rows), s.columns.view().from_column(column),
               s.scores.view().slice(0, rows).from_column(column), Write::set);
  }

  /// Turns the scores of what each row may see into weights, the others into 0.
  void weigh(const Task& task, std::size_t key, std::size_t count, std::size_t rows,
             Scratch& s) const noexcept {
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t position = task.position + row / shape_.group();
      const std::size_t visible = position < key ? 0 : std::min(count, position + 1 - key);
      float* const scores = s.scores.row(row);
      if (visible > 0) s.softmax[row].add({scores, visible}, {s.mixed.row(row), shape_.head_dim});
      std::fill(scores + visible, scores + count, 0.0F);
    }
  }

  /// mixed += weights * values.
  void mix(const Task& task, std::size_t key, std::size_t count, std::size_t rows,
           Scratch& s) const noexcept {
    const ConstMatrixView values = value_rows(task, key, count, s);
    for (std::size_t column = 0; column < shape_.head_dim; column += panel_width)
      multiply(s.scores.view().slice(0, rows), values.from_column(column),
               s.mixed.view().slice(0, rows).from_column(column), Write::add);
  }

  /// Values as whole panels of floats: where they are, or converted.
  ConstMatrixView value_rows(const Task& task, std::size_t key, std::size_t count,
                             Scratch& s) const noexcept {
    const std::size_t d = shape_.head_dim;
    const bool fills_panels = d % panel_width == 0;
    const infinipot::FloatRows rows = memory_.value_rows(task.layer, task.kv_head, key, count,
                                                         fills_panels ? s.values.row(0) : s.keys.row(0));
    if (fills_panels && rows.stride > 0) return {rows.data, count, static_cast<std::size_t>(rows.stride)};
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride, d, s.values.row(i));
    return s.values.view().slice(0, count);
  }

  void scatter(const Task& task, Scratch& s, MatrixView out) const noexcept {
    for (std::size_t t = 0, row = 0; t < task.tokens; ++t)
      for (std::size_t g = 0; g < shape_.group(); ++g, ++row) {
        float* const to = out.row(task.token + t) + (task.kv_head * shape_.group() + g) * shape_.head_dim;
        const float* const from = s.mixed.row(row);
        const float factor = 1 / s.softmax[row].sum;
        std::transform(from, from + shape_.head_dim, to, [factor](float x) { return x * factor; });
      }
  }

  const Memory& memory_;
  infinipot::Shape shape_;
  ThreadPool& pool_;
  std::vector<Scratch> scratch_;  // (threads)
};

}  // namespace smollm2
