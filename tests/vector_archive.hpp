// The simplest archive: everything in vectors, as floats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/infinipot.hpp"

/// Meets infinipot::Archive. Blocks of `together` entries; with rows or token ids alone.
class VectorArchive {
 public:
  struct Record {
    infinipot::Entry entry;
    std::vector<float> rows;  // (layers, kv_heads, 2, head_dim)
  };

  class Block final : public infinipot::RowSource {
   public:
    std::span<const infinipot::Entry> entries() const { return entries_; }
    void key(std::size_t layer, std::size_t head, std::size_t i, float* key) const noexcept override {
      std::copy_n(row(layer, head, i), archive_->shape().head_dim, key);
    }
    void value(std::size_t layer, std::size_t head, std::size_t i, float* value) const noexcept override {
      const std::size_t d = archive_->shape().head_dim;
      std::copy_n(row(layer, head, i) + d, d, value);
    }

   private:
    friend class VectorArchive;
    const float* row(std::size_t layer, std::size_t head, std::size_t i) const {
      const infinipot::Shape& shape = archive_->shape_;
      return archive_->records[first_ + i].rows.data() + shape.head_of(layer, head) * 2 * shape.head_dim;
    }

    const VectorArchive* archive_ = nullptr;
    std::size_t first_ = 0;
    std::vector<infinipot::Entry> entries_;
  };

  explicit VectorArchive(const infinipot::Shape& shape, bool with_rows = true, std::size_t together = 7)
      : shape_(shape), with_rows_(with_rows), together_(together) {}

  const infinipot::Shape& shape() const { return shape_; }
  bool has_rows() const { return with_rows_; }
  std::uint64_t end() const { return records.empty() ? 0 : records.back().entry.position + 1; }

  void append(std::span<const infinipot::Entry> entries, const infinipot::RowSource& rows) noexcept {
    const std::size_t d = shape_.head_dim;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      Record& record = records.emplace_back(Record{entries[i], {}});
      if (!with_rows_) continue;
      record.rows.resize(shape_.heads() * 2 * d);
      float* row = record.rows.data();
      for (std::size_t layer = 0; layer < shape_.layers; ++layer)
        for (std::size_t head = 0; head < shape_.kv_heads; ++head, row += 2 * d) {
          rows.key(layer, head, i, row);
          rows.value(layer, head, i, row + d);
        }
    }
  }

  bool read(std::uint64_t position, Block& block) const {
    const auto from = std::ranges::find_if(
        records, [&](const Record& record) { return record.entry.position >= position; });
    block.archive_ = this;
    block.first_ = static_cast<std::size_t>(from - records.begin());
    block.entries_.clear();
    for (std::size_t i = block.first_; i < std::min(block.first_ + together_, records.size()); ++i)
      block.entries_.push_back(records[i].entry);
    return !block.entries_.empty();
  }

  std::vector<Record> records;

 private:
  infinipot::Shape shape_;
  bool with_rows_;
  std::size_t together_;
};
