// What users of llama.cpp have today: cells are dropped, and llama.cpp itself closes the gaps (K-shift).
#pragma once

#include <llama.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "cache.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"

namespace llama_cpp {

/// A pot of shared granularity for comparison with it. llama_memory_seq_add() tells llama.cpp to turn keys
/// from where they are, before its next forward pass, so that they are rounded again and again, and wrong for
/// models with an attention factor (YaRN, LongRoPE) or layers without RoPE. Neither files nor archives of
/// rows.
class ShiftedPot {
 public:
  /// Throws std::invalid_argument for another granularity.
  ShiftedPot(infinipot::PotSettings settings, std::shared_ptr<const Cache> cache, llama_context& context,
             llama_seq_id sequence);

  std::size_t max_keep() const noexcept { return settings_.max_keep; }
  std::size_t size() const noexcept { return entries_.size(); }
  const infinipot::EntryTable& entries() const noexcept { return entries_; }

  void append(std::span<const infinipot::Entry> added) noexcept { entries_.append(added); }
  void truncate(std::size_t size) noexcept { entries_.truncate(size); }

  /// Removes the cells of all other entries and moves the kept ones together. Throws std::runtime_error if
  /// llama.cpp refuses.
  void keep(const infinipot::Selection& kept);

  /// Rows as they are in memory: after keep() keys are turned by the next forward pass only.
  infinipot::FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                                float* tile) const noexcept;
  infinipot::FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                  std::size_t count, float* tile) const noexcept;

  /// llama.cpp copies the cells before its next forward pass. Precondition: it is a pot of the same context,
  /// and the entries fit.
  void assign(const ShiftedPot& other, std::size_t count);

  /// The forward pass writes entries `first` ... into these cells.
  void place(std::size_t first, std::span<const CacheRow> rows) noexcept {
    for (std::size_t i = 0; i < rows.size(); ++i) cells_[first + i] = rows[i].cell;
  }

 private:
  llama_memory_t memory() const noexcept { return llama_get_memory(context_); }
  void remove(std::size_t first, std::size_t end);

  infinipot::PotSettings settings_;
  std::shared_ptr<const Cache> cache_;
  llama_context* context_;
  llama_seq_id sequence_;
  infinipot::EntryTable entries_;
  std::vector<infinipot::Index> cells_;  // (capacity) of each entry
};

}  // namespace llama_cpp
