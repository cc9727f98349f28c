// A pot in a llama.cpp context: one cell of its cache holds one token for all layers and heads.
#pragma once

#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace llama_cpp {

/// Layers and heads as the model's metadata has them.
infinipot::Shape shape_of(const llama_model& model);

/// How many numbers of a head RoPE turns, as the metadata have it.
std::size_t rotary_dim_of(const llama_model& model);

/// The store of one sequence of a context, of shared granularity; meets infinipot::Store and ReadableKeys.
/// llama.cpp owns the memory. This knows which cell holds which entry. The sequence belongs to the pot:
/// nobody else may decode into it, remove from it or shift it.
class CellPot {
 public:
  /// Throws std::invalid_argument if the context cannot serve as a pot of `capacity` entries: keys that
  /// cannot be shifted, a sliding window, a recurrent memory, too few cells; or if the sequence does not
  /// exist or is not empty.
  CellPot(llama_context& context, llama_seq_id sequence, std::size_t capacity);

  const infinipot::Shape& shape() const noexcept { return shape_; }
  std::size_t capacity() const noexcept { return capacity_; }
  infinipot::Granularity granularity() const noexcept { return infinipot::Granularity::shared; }
  const infinipot::EntryTable& entries() const noexcept { return entries_; }

  /// Throws std::runtime_error unless the cells of these entries, and no others, have been written: those
  /// that were truncated are gone.
  void append(std::span<const infinipot::Entry> added);

  /// Throws std::runtime_error if llama.cpp refuses, which for the caches that the constructor accepts it
  /// never does; then nothing has changed.
  void truncate(std::size_t size);

  /// Removes the cells of all other entries and moves the kept ones to positions 0, 1, 2, ...: llama.cpp
  /// turns their keys before its next forward pass (K-shift). Throws std::runtime_error if llama.cpp refuses,
  /// as for truncate(), but then some cells may be gone or moved already: the pot is of no more use.
  void keep(const infinipot::Selection& kept);

  /// Keys as the running forward pass sees them (with flash attention only, see Engine), in `tile`.
  infinipot::FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                                float* tile) const noexcept;

  /// A copy of all entries in another, empty sequence of the context. Throws std::invalid_argument if that is
  /// not empty or the context's sequences share their cells (kv_unified): a shift of one would shift the
  /// other.
  CellPot fork(llama_seq_id sequence) const;

  /// Becomes a copy of the first `count` entries of a pot in another sequence of the same context. Throws
  /// std::invalid_argument, before anything changes, as fork() does, or if they do not fit.
  void assign(const CellPot& other, std::size_t count);

  llama_context& context() const noexcept { return context_; }
  llama_seq_id sequence() const noexcept { return sequence_; }

  /// (capacity) the cell of each entry, counted within the sequence's part of the cache; known once the
  /// entry was written.
  std::span<const infinipot::Index> cells() const noexcept { return cells_; }

  /// The forward pass writes entries `first` ... into these rows of the cache.
  void place(std::size_t first, std::span<const std::int64_t> rows) noexcept;

  /// Where the running forward pass holds the keys of its current layer; null when there are none.
  void show_keys(const ggml_tensor* keys, const std::byte* bytes) noexcept {
    keys_ = keys;
    key_bytes_ = bytes;
  }

 private:
  llama_memory_t memory() const noexcept { return llama_get_memory(&context_); }
  void remove(std::size_t first, std::size_t end);
  void check_copies() const;

  llama_context& context_;
  llama_seq_id sequence_;
  std::size_t capacity_;
  infinipot::Shape shape_;
  infinipot::EntryTable entries_;
  std::vector<infinipot::Index> cells_;  // (capacity)
  const ggml_tensor* keys_ = nullptr;    // (head_dim, cells, kv_heads)
  const std::byte* key_bytes_ = nullptr;
};

}  // namespace llama_cpp
