// Adapters that are wrong in one way each, around the toy engine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace broken {

using infinipot::AttentionSink;
using infinipot::KeyStorage;
using infinipot::LogitsSink;
using infinipot::Pot;
using infinipot::Queries;
using infinipot::QuerySink;
using infinipot::Rows;
using infinipot::Shape;
using infinipot::Token;

/// An engine's own memory, (layers, rows, kv heads, head_dim), which a pot may lie over rightly or wrongly.
/// Rows beyond `rows` wrap around.
class Memory {
 public:
  Memory(const Shape& shape, std::size_t row_count, KeyStorage key_storage = KeyStorage::rotated,
         std::size_t called_capacity = 0)
      : shape_(shape),
        rows_(row_count),
        capacity_(called_capacity != 0 ? called_capacity : row_count),
        storage_(key_storage),
        keys_(shape.layers * row_count * shape.kv_heads * shape.head_dim),
        values_(keys_.size()) {}

  struct Table {
    float* data;
    std::ptrdiff_t head_stride, entry_stride;
    std::size_t rows;
    float* row(std::size_t head, std::size_t entry) const {
      return data + static_cast<std::ptrdiff_t>(head) * head_stride +
             static_cast<std::ptrdiff_t>(entry % rows) * entry_stride;
    }
  };

  std::size_t capacity() const { return capacity_; }
  KeyStorage key_storage() const { return storage_; }
  Table keys(std::size_t layer) { return {keys_.data() + offset(layer), head(), entry(), rows_}; }
  Table values(std::size_t layer) { return {values_.data() + offset(layer), head(), entry(), rows_}; }

  std::ptrdiff_t head() const { return static_cast<std::ptrdiff_t>(shape_.head_dim); }
  std::ptrdiff_t entry() const { return static_cast<std::ptrdiff_t>(shape_.kv_heads) * head(); }
  std::ptrdiff_t layer() const { return static_cast<std::ptrdiff_t>(rows_) * entry(); }
  std::vector<float>& all_keys() { return keys_; }
  std::vector<float>& all_values() { return values_; }

  /// The layout with these strides.
  infinipot::KvLayout<float> layout(std::ptrdiff_t layer_stride, std::ptrdiff_t head_stride,
                                    std::ptrdiff_t entry_stride) {
    return {infinipot::strided_rows(keys_.data(), shape_.layers, layer_stride, head_stride, entry_stride),
            infinipot::strided_rows(values_.data(), shape_.layers, layer_stride, head_stride, entry_stride)};
  }
  infinipot::KvLayout<float> layout() { return layout(layer(), head(), entry()); }

 private:
  std::size_t offset(std::size_t layer_index) const {
    return layer_index * rows_ * shape_.kv_heads * shape_.head_dim;
  }

  Shape shape_;
  std::size_t rows_, capacity_;
  KeyStorage storage_;
  std::vector<float> keys_, values_;
};

/// A store of one's own, whose rows are read by strides: nothing tells the check where they are.
class OwnStore {
 public:
  OwnStore(const Shape& shape, std::size_t capacity, infinipot::KvLayout<float> layout, infinipot::Rope rope)
      : shape_(shape),
        capacity_(capacity),
        layout_(std::move(layout)),
        rope_(std::move(rope)),
        entries_(1, capacity) {}

  Shape shape() const { return shape_; }
  std::size_t capacity() const { return capacity_; }
  infinipot::Granularity granularity() const { return infinipot::Granularity::shared; }
  const infinipot::EntryTable& entries() const { return entries_; }
  const infinipot::Rope& rope() const { return rope_; }
  void append(std::span<const infinipot::Entry> added) { entries_.append(added); }
  void truncate(std::size_t size) { entries_.truncate(size); }

  /// Moves rows; keys are turned if `turns`.
  void keep(const infinipot::Selection& kept) {
    std::vector<float> memory(2 * shape_.head_dim);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head)
        for (std::size_t i = 0; i < kept.keep(); ++i) {
          const std::size_t from = kept.lane(0)[i];
          float* const key = layout_.keys[layer].row(head, i);
          std::copy_n(layout_.values[layer].row(head, from), shape_.head_dim,
                      layout_.values[layer].row(head, moves_values ? i : from));
          std::copy_n(layout_.keys[layer].row(head, from), shape_.head_dim, key);
          infinipot::AngleTable angles(rope_, from - i + 1, angles_of(from - i + 1));
          if (turns)
            infinipot::rotate(key, angles[from - i], rope_.pairing, infinipot::Turn::backward,
                              shape_.head_dim, key);
        }
    if (records)
      entries_.keep(kept);
    else
      entries_.truncate(kept.keep());
  }

  infinipot::FloatRows key_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t,
                                float*) const noexcept {
    return {layout_.keys[layer].row(head, first), layout_.keys[layer].entry_stride};
  }
  infinipot::FloatRows value_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t,
                                  float*) const noexcept {
    return {layout_.values[layer].row(head, first), layout_.values[layer].entry_stride};
  }

  bool turns = true, moves_values = true, records = true;

 private:
  std::span<float> angles_of(std::size_t shifts) {
    angles_.resize(infinipot::AngleTable::floats(rope_, shifts));
    return angles_;
  }

  Shape shape_;
  std::size_t capacity_;
  infinipot::KvLayout<float> layout_;
  infinipot::Rope rope_;
  infinipot::EntryTable entries_;
  std::vector<float> angles_;
};

/// Passes rows of logits on, changed.
class ChangedLogits final : public LogitsSink {
 public:
  using Row = std::function<void(LogitsSink&, std::size_t, std::span<const float>)>;
  ChangedLogits(LogitsSink& to, Row row)
      : LogitsSink(to.first_row(), to.targets(), to.stream_offset(), to.probe()),
        to_(to),
        row_(std::move(row)) {}
  void row(std::size_t token, std::span<const float> logits) noexcept override { row_(to_, token, logits); }
  void nuc(std::size_t token, float nuc) noexcept override { to_.nuc(token, nuc + nuc_off); }
  float nuc_off = 0;

 private:
  LogitsSink& to_;
  Row row_;
};

/// Passes queries on, changed: a copy, (tokens, query_heads, head_dim), that may be changed before.
class ChangedQueries final : public QuerySink {
 public:
  using Change = std::function<void(QuerySink&, std::size_t, std::vector<float>&, std::size_t)>;
  ChangedQueries(QuerySink& to, const Shape& shape, Change change)
      : to_(to), shape_(shape), change_(std::move(change)) {}
  std::size_t layers() const noexcept override { return to_.layers(); }
  void layer(std::size_t layer, const Queries& queries) noexcept override {
    std::vector<float> copy;
    for (std::size_t token = 0; token < queries.count; ++token)
      for (std::size_t head = 0; head < shape_.query_heads; ++head)
        copy.insert(copy.end(), queries.at(token, head), queries.at(token, head) + shape_.head_dim);
    change_(to_, layer, copy, queries.count);
  }

 private:
  QuerySink& to_;
  Shape shape_;
  Change change_;
};

/// An adapter around an engine that shows queries. Each hook breaks it in one way.
template <class Engine>
struct Adapter {
  Engine& engine;
  ChangedLogits::Row row = [](LogitsSink& to, std::size_t token, std::span<const float> logits) {
    to.row(token, logits);
  };
  ChangedQueries::Change queries = nullptr;
  std::function<void(std::span<const Token> tokens, std::size_t first)> before_call = nullptr,
                                                                        after_call = nullptr;
  bool drops_queries = false;
  float nuc_off = 0;

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }

  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    if (before_call) before_call(tokens, first);
    ChangedLogits changed(logits, row);
    changed.nuc_off = nuc_off;
    engine.forward(tokens, first, changed);
    if (after_call) after_call(tokens, first);
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& sink) {
    if (drops_queries) return forward(tokens, first, logits);
    if (before_call) before_call(tokens, first);
    ChangedLogits changed(logits, row);
    if (queries) {
      ChangedQueries shown(sink, shape(), queries);
      engine.forward(tokens, first, changed, static_cast<QuerySink&>(shown));
    } else {
      engine.forward(tokens, first, changed, sink);
    }
    if (after_call) after_call(tokens, first);
  }
};

}  // namespace broken
