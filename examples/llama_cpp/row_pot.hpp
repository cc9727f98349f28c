// A pot over rows that the library's own cannot lie over: quantised, in columns, or in another memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <vector>

#include "cache.hpp"
#include "infinipot/infinipot.hpp"
#include "tensor_mirror.hpp"

namespace llama_cpp {

/// What infinipot::Pot is, over a stream of llama.cpp's cache of any type: rows stay as they are stored. A
/// survivor's key is kept as first written, in its own bytes, and turned from these at every distillation, so
/// that it is rounded twice and no more, however often it moves. Keys and values are read without the
/// Hadamard rotation that llama.cpp gives those of quantised caches.
class RowPot {
 public:
  /// The largest head_dim.
  static constexpr std::size_t most_channels = 1024;

  /// `settings` must be those of the cache's shape and RoPE. Throws std::invalid_argument for settings out of
  /// range, std::bad_alloc.
  RowPot(infinipot::PotSettings settings, std::shared_ptr<const Cache> cache, std::size_t stream);

  const infinipot::PotSettings& settings() const noexcept { return settings_; }
  const infinipot::Shape& shape() const noexcept { return settings_.shape; }
  std::size_t capacity() const noexcept { return settings_.capacity; }
  std::size_t max_keep() const noexcept { return settings_.max_keep; }
  infinipot::Granularity granularity() const noexcept { return settings_.granularity; }
  infinipot::KeyStorage key_storage() const noexcept { return settings_.key_storage; }
  const infinipot::Rope& rope() const noexcept { return settings_.rope; }
  std::size_t size() const noexcept { return entries_.size(); }
  /// Entries that have their key as first written.
  std::size_t survivors() const noexcept { return originals_.empty() ? 0 : survivors_; }
  const infinipot::EntryTable& entries() const noexcept { return entries_; }

  void append(std::span<const infinipot::Entry> added) noexcept {
    mirror_->flush();
    entries_.append(added);
  }
  void truncate(std::size_t size) noexcept;
  void keep(const infinipot::Selection& kept) noexcept;

  infinipot::FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                                float* tile) const noexcept;
  infinipot::FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                  std::size_t count, float* tile) const noexcept;
  void read_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) const noexcept;
  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept;
  void write_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
                       const float* value) noexcept;

  /// Becomes a copy of another's first `count` entries, byte for byte. Preconditions: it is of the same types
  /// and settings, and they fit.
  void assign(const RowPot& other, std::size_t count) noexcept;

  /// llama.cpp has written rows up to `end`.
  void outdate(std::size_t end) noexcept {
    written_ = end;
    mirror_->outdate();
  }

  /// infinipot::save_pot() and restore_pot(), the latter of which throws std::invalid_argument. Quantised
  /// rows are in a file as floats, without the Hadamard rotation, and become the same codes again.
  void save(std::ostream& out, std::span<const std::byte> extra) const;
  void restore(std::span<const std::byte> file);

 private:
  std::size_t lanes() const noexcept { return shape().lanes(granularity()); }
  std::size_t lane_of(std::size_t layer, std::size_t head) const noexcept {
    return shape().lane_of(layer, head, granularity());
  }
  /// One past the last row that may be read.
  std::size_t end() const noexcept { return std::max(written_, size()); }

  const std::byte* keys(std::size_t layer, std::size_t head, std::size_t end) const noexcept;
  std::byte* original(std::size_t layer, std::size_t head, std::size_t row) noexcept {
    return originals_.data() + (shape().head_of(layer, head) * max_keep() + row) * cache_->keys().bytes();
  }
  const std::byte* original(std::size_t layer, std::size_t head, std::size_t row) const noexcept {
    return originals_.data() + (shape().head_of(layer, head) * max_keep() + row) * cache_->keys().bytes();
  }
  std::vector<std::size_t> turned_layers() const;
  infinipot::KeyOrigins origins(std::size_t lane) const noexcept;
  template <class F>
  decltype(auto) with_element(const F& function) const;
  template <infinipot::Element T>
  infinipot::Pot<T> to_pot() const;
  template <infinipot::Element T>
  void from_pot(const infinipot::Pot<T>& pot);
  /// Whether a layer's keys are turned, so that it has originals.
  bool rotates(std::size_t layer) const noexcept { return !originals_.empty() && rotates_[layer] != 0; }
  void turn(std::size_t position, infinipot::Turn turn, float* key) const noexcept;
  void scale(double by, float* key) const noexcept;
  void keep_keys(std::size_t layer, std::size_t head, std::span<const infinipot::Index> kept,
                 std::byte* rows) noexcept;
  void keep_values(std::size_t layer, std::size_t head, std::span<const infinipot::Index> kept,
                   std::byte* rows) noexcept;
  void read_value(const std::byte* rows, std::size_t kv_head, std::size_t entry, float* value) const noexcept;
  void write_value(std::byte* rows, std::size_t kv_head, std::size_t entry, float* value) noexcept;

  infinipot::PotSettings settings_;
  std::shared_ptr<const Cache> cache_;
  std::size_t key_stride_, value_stride_;  // bytes from one entry's row to the next; of values in rows
  std::unique_ptr<TensorMirror> mirror_;
  infinipot::EntryTable entries_;
  std::vector<float> angle_memory_;
  infinipot::AngleTable angles_;
  std::vector<std::uint8_t> rotates_;  // (layers)
  std::vector<std::byte> originals_;   // (layers, kv_heads, max_keep): survivors' keys as first written
  // (lanes, max_keep): see infinipot::KeyOrigins.
  mutable std::vector<infinipot::Index> rows_, first_positions_;
  mutable std::vector<std::uint8_t> in_use_;
  std::vector<std::size_t> moved_;  // (lanes): how many of those just kept had survived before
  std::size_t survivors_ = 0, written_ = 0;
};

}  // namespace llama_cpp
