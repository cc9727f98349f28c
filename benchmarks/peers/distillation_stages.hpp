// The stages of a distillation through the public library: CaP, selection, compaction; and their limits.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <ostream>
#include <span>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/policy/infinipot.hpp"
#include "infinipot/policy/selector.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/top_k.hpp"
#include "smollm2/pool_executor.hpp"
#include "smollm2/thread_pool.hpp"
#include "stage.hpp"

namespace peers {

struct Case {
  infinipot::Shape shape;
  std::size_t entries = 0;   ///< M, the catalyst's included
  std::size_t catalyst = 0;  ///< p, tokens
  std::size_t keep = 0;      ///< C
  double theta = 10000;

  /// Entries that the catalyst is asked about: M - p.
  std::size_t read() const { return entries - catalyst; }
};

/// Inputs: keys, values (layers, kv_heads, M, head_dim); queries (layers, p, query_heads, head_dim), of which
/// the first stands at position M - p; scores (layers, kv_heads, M) for the selection.
template <infinipot::Element T>
class Distillation {
 public:
  Distillation(const Case& c, const Inputs& inputs, std::size_t threads)
      : case_(c),
        threads_(threads),
        policy_({.catalysts = {std::vector<infinipot::Token>(c.catalyst, 1)}, .alpha = 0}),
        pot_({.shape = c.shape,
              .capacity = c.entries,
              .max_keep = c.keep,
              .rope = infinipot::plain_rope(c.shape.head_dim, c.theta)}),
        selector_(c.shape, infinipot::Granularity::head, c.entries, c.keep, policy_.rules(), threads),
        scorers_(threads, infinipot::CapScorer(c.shape, c.entries)),
        top_k_(threads, infinipot::TopK(c.entries)),
        queries_(floats(inputs, "queries", c.shape.layers * layer_queries())),
        scores_(floats(inputs, "scores", c.shape.heads() * c.entries)),
        attention_(scores_.size()),
        entries_(c.entries),
        marks_(threads * c.entries),
        logits_(threads),
        totals_(threads),
        kept_(c.shape.heads(), c.keep) {
    load(inputs, "keys", [&](std::size_t layer) { return pot_.keys(layer); });
    load(inputs, "values", [&](std::size_t layer) { return pot_.values(layer); });
    take_group_queries();
    fill();
    select();
  }

  /// Reads until the pot is full but for the catalyst. From the second distillation on the first entries are
  /// survivors, as in life.
  void fill() {
    const std::size_t missing = case_.read() - pot_.size();
    for (std::size_t i = 0; i < missing; ++i) entries_[i].position = position_++;
    pot_.append(std::span(entries_).first(missing));
  }

  void cap() {
    std::fill(attention_.begin(), attention_.end(), 0.0F);
    for (std::size_t layer = 0; layer < shape().layers; ++layer) {
      const auto queries =
          infinipot::contiguous_queries(queries_.data() + layer * layer_queries(), case_.catalyst, shape());
      executor_.for_each(shape().kv_heads, [&](std::size_t head, std::size_t worker) {
        const auto keys = [&](std::size_t from, std::size_t count, float* tile) {
          return pot_.key_rows(layer, head, from, count, tile);
        };
        scorers_[worker].accumulate(queries, head, case_.read(), keys, {}, infinipot::Reduce::sum,
                                    row(attention_, shape().head_of(layer, head)));
      });
    }
  }

  void select() { selector_.select(policy_, pot_.entries(), scores_, {}, executor_); }

  /// The bare kernel of the selection, without protected entries and rules.
  void top_k() {
    executor_.for_each(shape().heads(), [&](std::size_t head, std::size_t worker) {
      const auto marks = std::span(marks_).subspan(worker * case_.entries, case_.read());
      std::fill(marks.begin(), marks.end(), std::uint8_t{0});
      top_k_[worker].mark(row(scores_, head).first(case_.read()), case_.keep, marks);
      infinipot::marked_indices(marks, kept_.lane(head));
    });
  }

  void compact() { pot_.keep(selector_.kept(), executor_); }

  // The machine's limits.

  /// The products of CaP alone, by Eigen, in the orientation in which it is fastest here. Of 16-bit keys:
  /// those of one head in float, again and again.
  void multiply() {
    executor_.for_each(shape().heads(), [&](std::size_t head, std::size_t worker) {
      logits_[worker].noalias() = keys_of(head) * group_queries_[head];
    });
  }

  void read_scores() {
    executor_.for_each(totals_.size(), [&](std::size_t part, std::size_t /*worker*/) {
      const auto scores = part_of(std::span<const float>(scores_), part, totals_.size());
      totals_[part] =
          Eigen::Map<const Eigen::ArrayXf>(scores.data(), static_cast<Eigen::Index>(scores.size())).sum();
    });
  }

  /// memcpy of the keys and values that stay, to elsewhere.
  void copy() {
    const std::size_t parts = executor_.workers();
    executor_.for_each(parts, [&](std::size_t part, std::size_t /*worker*/) {
      const auto from = part_of(std::span<const std::byte>(copied_from_), part, parts);
      std::memcpy(part_of(std::span(copied_), part, parts).data(), from.data(), from.size());
    });
  }

  void prepare_copy() {
    if (!copied_.empty()) return;
    const std::size_t bytes = 2 * shape().heads() * case_.keep * shape().head_dim * sizeof(T);
    copied_from_.assign(bytes, std::byte{1});
    copied_.resize(bytes);
  }

  // Results, raw: CaP (layers, kv_heads, M - p) f32; indices (layers, kv_heads, C) u32; keys, then values,
  // each (layers, kv_heads, C, head_dim) f32.

  void write_cap(std::ostream& out) {
    for (std::size_t head = 0; head < shape().heads(); ++head)
      write_raw<float>(out, row(attention_, head).first(case_.read()));
  }

  static void write_kept(std::ostream& out, const infinipot::Selection& kept) {
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane) write_raw(out, kept.lane(lane));
  }
  void write_selected(std::ostream& out) { write_kept(out, selector_.kept()); }
  void write_top_k(std::ostream& out) { write_kept(out, kept_); }

  void write_compacted(std::ostream& out) {
    std::vector<float> floats(case_.keep * shape().head_dim);
    for (const bool keys : {true, false})
      for (std::size_t layer = 0; layer < shape().layers; ++layer)
        for (std::size_t head = 0; head < shape().kv_heads; ++head) {
          const infinipot::Rows<T>& rows = keys ? pot_.keys(layer) : pot_.values(layer);
          infinipot::detail::to_float(rows.row(head, 0), floats.size(), floats.data());
          write_raw<float>(out, floats);
        }
  }

 private:
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Keys = Eigen::Map<const Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;

  const infinipot::Shape& shape() const { return case_.shape; }
  std::size_t layer_queries() const { return case_.catalyst * shape().query_heads * shape().head_dim; }

  std::span<float> row(std::vector<float>& scores, std::size_t head) const {
    return std::span(scores).subspan(head * case_.entries, case_.entries);
  }

  /// `rows(layer)` are the keys or the values.
  void load(const Inputs& inputs, const std::string& name, const auto& rows) {
    std::vector<float> floats(case_.entries * shape().head_dim);
    FloatSource source(inputs, name, shape().heads() * floats.size());
    for (std::size_t layer = 0; layer < shape().layers; ++layer)
      for (std::size_t head = 0; head < shape().kv_heads; ++head) {
        source.next(floats);
        infinipot::detail::from_float(floats.data(), floats.size(), rows(layer).row(head, 0));
      }
  }

  /// (head_dim, group * p) of every kv head, for the bare product.
  void take_group_queries() {
    const auto d = static_cast<Eigen::Index>(shape().head_dim);
    const std::size_t columns = shape().group() * case_.catalyst;
    for (std::size_t head = 0; head < shape().heads(); ++head) {
      Eigen::MatrixXf& queries = group_queries_.emplace_back(d, static_cast<Eigen::Index>(columns));
      const auto all = infinipot::contiguous_queries(
          queries_.data() + head / shape().kv_heads * layer_queries(), case_.catalyst, shape());
      const std::size_t first = head % shape().kv_heads * shape().group();
      for (std::size_t i = 0; i < columns; ++i)
        queries.col(static_cast<Eigen::Index>(i)) =
            Eigen::Map<const Eigen::VectorXf>(all.at(i % case_.catalyst, first + i / case_.catalyst), d);
    }
    one_head_.resize(case_.entries * shape().head_dim);
    infinipot::detail::to_float(pot_.keys(0).row(0, 0), one_head_.size(), one_head_.data());
    for (Eigen::MatrixXf& logits : logits_)
      logits.resize(static_cast<Eigen::Index>(case_.entries), static_cast<Eigen::Index>(columns));
  }

  Keys keys_of(std::size_t head) const {
    const float* data = one_head_.data();
    if constexpr (std::same_as<T, float>)
      data = pot_.keys(head / shape().kv_heads).row(head % shape().kv_heads, 0);
    const auto d = static_cast<Eigen::Index>(shape().head_dim);
    return {data, static_cast<Eigen::Index>(case_.entries), d, Eigen::OuterStride<>(d)};
  }

  Case case_;
  smollm2::ThreadPool threads_;
  smollm2::PoolExecutor executor_{threads_};
  infinipot::Infinipot policy_;
  infinipot::Pot<T> pot_;
  infinipot::Selector selector_;
  std::vector<infinipot::CapScorer> scorers_;  // this and the next: (threads)
  std::vector<infinipot::TopK> top_k_;
  std::vector<float> queries_, scores_, attention_, one_head_;
  std::vector<infinipot::Entry> entries_;
  std::vector<std::uint8_t> marks_;      // (threads, M)
  std::vector<Eigen::MatrixXf> logits_;  // (threads)
  std::vector<float> totals_;            // (threads), so that nothing is optimised away
  infinipot::Selection kept_;
  std::vector<Eigen::MatrixXf> group_queries_;
  std::vector<std::byte> copied_from_, copied_;
  std::uint64_t position_ = 0;
};

template <infinipot::Element T>
Stages distillation_stages(const Case& c, const Inputs& inputs, std::size_t threads = 1) {
  const auto d = std::make_shared<Distillation<T>>(c, inputs, threads);
  const auto fill = [d] { d->fill(); };
  return {
      {"cap", {fill, [d] { d->cap(); }, [d](std::ostream& out) { d->write_cap(out); }}},
      {"cap_limit", {[] {}, [d] { d->multiply(); }}},
      {"select", {fill, [d] { d->select(); }, [d](std::ostream& out) { d->write_selected(out); }}},
      {"select_top_k", {[] {}, [d] { d->top_k(); }, [d](std::ostream& out) { d->write_top_k(out); }}},
      {"select_limit", {[] {}, [d] { d->read_scores(); }}},
      {"compact", {fill, [d] { d->compact(); }, [d](std::ostream& out) { d->write_compacted(out); }}},
      {"compact_limit", {[d] { d->prepare_copy(); }, [d] { d->copy(); }}},
  };
}

}  // namespace peers
