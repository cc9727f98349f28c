// Entries read back from an archive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/archive/block_header.hpp"
#include "infinipot/archive/row_codec.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {
template <class Device>
class LogArchive;
}  // namespace detail

/// What read() of a MemoryArchive or a FileArchive fills: a copy, good for as long as you like. Its memory is
/// used again by the next read().
class StoredBlock final : public RowSource {
 public:
  /// In text order, without a gap; all pinned or none.
  std::span<const Entry> entries() const noexcept { return entries_; }

  /// The key of entries()[i] as projected, before RoPE, into (head_dim) floats. Several threads may read at
  /// once. Precondition: the archive has rows.
  void key(std::size_t layer, std::size_t kv_head, std::size_t i, float* key) const noexcept override {
    rows_->key(rows_of(i), layer, kv_head, key);
  }

  /// Its value, likewise.
  void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept override {
    rows_->value(rows_of(i), layer, kv_head, value);
  }

 private:
  template <class Device>
  friend class detail::LogArchive;

  /// Memory for a payload. Throws std::bad_alloc.
  std::span<std::byte> payload(std::size_t bytes) {
    entries_.clear();
    payload_.resize(bytes);
    return payload_;
  }

  /// Takes the entries from `skip` on of the payload.
  void assign(std::shared_ptr<const detail::ArchiveRows> rows, const detail::BlockLayout& layout,
              std::uint64_t first, std::size_t count, bool pinned, std::size_t skip) {
    rows_ = std::move(rows);
    entry_bytes_ = layout.entry_bytes;
    first_row_ = static_cast<std::size_t>(layout.rows_at(count)) + skip * entry_bytes_;
    entries_.clear();
    for (std::size_t i = skip; i < count; ++i) {
      const std::byte* const record = payload_.data() + i * layout.record_bytes();
      Entry entry{.position = first + i, .pinned = pinned};
      std::memcpy(&entry.token, record, sizeof entry.token);
      if (entry_bytes_ != 0) std::memcpy(&entry.nuc, record + sizeof entry.token, sizeof entry.nuc);
      entries_.push_back(entry);
    }
  }

  const std::byte* rows_of(std::size_t i) const noexcept {
    return payload_.data() + first_row_ + i * entry_bytes_;
  }

  std::shared_ptr<const detail::ArchiveRows> rows_;
  std::vector<std::byte> payload_;
  std::vector<Entry> entries_;
  std::size_t first_row_ = 0, entry_bytes_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
