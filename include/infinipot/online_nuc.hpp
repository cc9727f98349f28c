// NuC of rows whose logits come in tiles, as an engine's own matrix product makes them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "infinipot/log_sum_exp.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/top_k.hpp"

namespace infinipot {

/// Logits of `tokens` neighbouring tokens after each of `rows` neighbouring rows.
struct LogitTile {
  const float* data = nullptr;    ///< (rows, tokens)
  std::ptrdiff_t row_stride = 0;  ///< floats from one row to the next; neighbouring tokens are side by side
  std::size_t first_row = 0, rows = 0;
  std::size_t first_token = 0, tokens = 0;

  std::span<const float> row(std::size_t i) const noexcept {
    return {data + static_cast<std::ptrdiff_t>(i) * row_stride, tokens};
  }
};

/// Scores one target token in each of several rows without ever having a whole row of logits. After start()
/// every token of the vocabulary must be given to each row in one tile; nuc() is then what nuc(logits, token)
/// of the whole row would be.
///
/// A row depends on nothing but its own tiles, in the order of their coming. Tiles that begin at multiples of
/// LogSumExp::block tokens and are no longer, given in ascending order, make it the same bits as nuc().
/// Different rows may be given from different threads at once. To share out a vocabulary, give each thread's
/// part to an OnlineNuc of its own and add these up in a fixed order.
class OnlineNuc {
 public:
  explicit OnlineNuc(std::size_t max_rows) : memory_(max_rows) {}

  std::size_t max_rows() const noexcept { return memory_.size(); }
  std::size_t rows() const noexcept { return rows_; }

  /// Forgets all; from now on there is one row for each target. Precondition: targets.size() <= max_rows.
  void start(std::span<const Token> targets) noexcept {
    rows_ = targets.size();
    for (std::size_t i = 0; i < rows_; ++i) memory_[i] = {{}, targets[i], not_seen};
  }

  /// Takes up a tile. Its rows are below rows().
  void add(const LogitTile& tile) noexcept {
    for (std::size_t i = 0; i < tile.rows; ++i) {
      Row& row = memory_[tile.first_row + i];
      const auto logits = tile.row(i);
      row.sum.add(logits);
      const std::size_t at = static_cast<std::size_t>(row.target) - tile.first_token;  // huge if before it
      if (at < logits.size()) row.logit = logits[at];
    }
  }

  /// Takes up what another has got of the same rows: tokens that this one has not. Precondition: it was
  /// started with the same targets.
  void add(const OnlineNuc& other) noexcept {
    for (std::size_t i = 0; i < rows_; ++i) add_row(other, i);
  }

  /// The same for one row.
  void add_row(const OnlineNuc& other, std::size_t row) noexcept {
    const Row& from = other.memory_[row];
    memory_[row].sum.add(from.sum);
    if (!is_nan(from.logit)) memory_[row].logit = from.logit;
  }

  /// nats; as nuc() has it, and NaN if the target never came.
  float nuc(std::size_t row) const noexcept {
    return infinipot::nuc(memory_[row].sum.value(), memory_[row].logit);
  }

 private:
  static constexpr float not_seen = std::numeric_limits<float>::quiet_NaN();

  struct Row {
    LogSumExp sum;
    Token target = 0;
    float logit = not_seen;  // of the target
  };

  std::vector<Row> memory_;  // (max_rows)
  std::size_t rows_ = 0;
};

}  // namespace infinipot
