// A store that can only keep or drop a token for all layers and heads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace trial {

using infinipot::Granularity;
using infinipot::KeyStorage;

/// A store like llama.cpp's: a cell holds one token for all layers and heads, stays where it is, and has a
/// position that shifts. Its keys cannot be read back.
class CellStore {
 public:
  struct Shift {
    std::uint64_t token_position;
    std::size_t by;
    friend bool operator==(const Shift&, const Shift&) = default;
  };

  CellStore(const toy::Model& model, std::size_t capacity)
      : shape_(model.shape), capacity_(capacity), entries_(1, capacity), cells_(capacity) {
    for (std::size_t i = 0; i < capacity; ++i) cells_[i] = i;
    keys_.resize(capacity * shape_.heads() * shape_.head_dim);
    values_.resize(keys_.size());
  }

  infinipot::Shape shape() const { return shape_; }
  std::size_t capacity() const { return capacity_; }
  Granularity granularity() const { return Granularity::shared; }
  KeyStorage key_storage() const { return KeyStorage::unrotated; }
  const infinipot::EntryTable& entries() const { return entries_; }

  void append(std::span<const infinipot::Entry> added) { entries_.append(added); }
  void truncate(std::size_t size) { entries_.truncate(size); }

  void keep(const infinipot::Selection& kept) {
    const auto indices = kept.lane(0);
    std::vector<std::size_t> stay, go;
    for (std::size_t i = 0, next = 0; i < capacity_; ++i) {
      if (next < indices.size() && indices[next] == i) {
        if (i != next) shifts.push_back({entries_.positions(0)[i], i - next});
        stay.push_back(cells_[i]);
        ++next;
      } else {
        if (i < entries_.size()) removed.push_back(entries_.positions(0)[i]);
        go.push_back(cells_[i]);
      }
    }
    stay.insert(stay.end(), go.begin(), go.end());
    cells_ = stay;
    entries_.keep(kept);
  }

  struct CellRows {
    const CellStore* store;
    float* data;
    std::size_t layer;
    float* row(std::size_t head, std::size_t entry) const {
      const infinipot::Shape& shape = store->shape_;
      return data + (store->cells_[entry] * shape.heads() + layer * shape.kv_heads + head) * shape.head_dim;
    }
  };
  CellRows keys(std::size_t layer) { return {this, keys_.data(), layer}; }
  CellRows values(std::size_t layer) { return {this, values_.data(), layer}; }

  std::vector<std::uint64_t> removed;  // positions in the text
  std::vector<Shift> shifts;

 private:
  infinipot::Shape shape_;
  std::size_t capacity_;
  infinipot::EntryTable entries_;
  std::vector<std::size_t> cells_;  // (capacity) the cell of each entry, then the free ones
  std::vector<float> keys_, values_;
};

}  // namespace trial
