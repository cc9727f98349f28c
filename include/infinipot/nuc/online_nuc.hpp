// NuC of rows whose logits come in tiles, as from an engine's own matrix product.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/detail/nan.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/nuc/log_sum_exp.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Logits of `tokens` consecutive tokens in each of `rows` consecutive rows.
struct LogitTile {
  const float* data = nullptr;    ///< (rows, tokens)
  std::ptrdiff_t row_stride = 0;  ///< floats from one row to the next; tokens are contiguous
  std::size_t first_row = 0, rows = 0;
  std::size_t first_token = 0, tokens = 0;

  std::span<const float> row(std::size_t i) const noexcept {
    return {data + static_cast<std::ptrdiff_t>(i) * row_stride, tokens};
  }
};

/// Scores one target token per row without ever holding a whole row of logits. After start(), each row must
/// get every token of the vocabulary in one tile; nuc() then equals nuc(logits, token) of the whole row.
///
/// A row depends only on its own tiles and their order. Tiles that begin at multiples of LogSumExp::block
/// tokens and are no longer, in ascending order, give the same bits as nuc(). Different rows may be given
/// from different threads at once. To split a vocabulary among threads, give each an OnlineNuc of its own and
/// add these in a fixed order.
class OnlineNuc {
 public:
  explicit OnlineNuc(std::size_t max_rows) : memory_(max_rows) {}

  std::size_t max_rows() const noexcept { return memory_.size(); }
  std::size_t rows() const noexcept { return rows_; }

  /// Starts over with one row per target. Precondition: targets.size() <= max_rows.
  void start(std::span<const Token> targets) noexcept {
    rows_ = targets.size();
    for (std::size_t i = 0; i < rows_; ++i) memory_[i] = {{}, targets[i], detail::quiet_nan<float>()};
  }

  /// Adds a tile. Precondition: its rows are below rows().
  void add(const LogitTile& tile) noexcept {
    for (std::size_t i = 0; i < tile.rows; ++i) {
      Row& row = memory_[tile.first_row + i];
      const auto logits = tile.row(i);
      row.sum.add(logits);
      const std::size_t at = static_cast<std::size_t>(row.target) - tile.first_token;  // huge if before it
      if (at < logits.size()) row.logit = logits[at];
    }
  }

  /// Adds another's tokens of the same rows. Preconditions: both started with the same targets and share no
  /// token.
  void add(const OnlineNuc& other) noexcept {
    for (std::size_t i = 0; i < rows_; ++i) add_row(other, i);
  }

  /// The same for one row.
  void add_row(const OnlineNuc& other, std::size_t row) noexcept {
    const Row& from = other.memory_[row];
    memory_[row].sum.add(from.sum);
    if (!detail::is_nan(from.logit)) memory_[row].logit = from.logit;
  }

  /// nats, as nuc() of the whole row; NaN if the target never came.
  float nuc(std::size_t row) const noexcept {
    return infinipot::nuc(memory_[row].sum.value(), memory_[row].logit);
  }

 private:
  struct Row {
    LogSumExp sum;
    Token target = 0;
    float logit = 0;  // of the target, NaN until it comes
  };

  std::vector<Row> memory_;  // (max_rows)
  std::size_t rows_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
