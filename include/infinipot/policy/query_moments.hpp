// Mean and covariance of a model's queries before RoPE, gathered while a text is read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "infinipot/detail/arena.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/queries.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Running sums over the queries of every query head, with their rotation undone (but not
/// Rope::attention_factor). A query with NaN or infinity does not count: it would spoil its head for ever.
///
/// Sums are in double precision, where the product of two floats is exact; each of n additions errs by at
/// most 2^-53 of the sum of magnitudes. So a covariance is good to n * 2^-53 * mean |x y|, however large the
/// mean; what remains is the rounding of queries to float when turned back.
///
/// Takes layers * query_heads * (chunk * head_dim * 4 + head_dim * (head_dim + 1) * 8) bytes and a little
/// more. Copies share nothing mutable. Allocates in the constructor only.
class QueryMoments {
 public:
  /// Empty, to be assigned.
  QueryMoments() = default;

  /// For queries at positions below `positions`, at most `chunk` at a time. Those at positions below `skip`
  /// do not count; those of `layers_without_rope` are not turned. Throws std::invalid_argument if the rope or
  /// a layer does not fit the shape or the sizes overflow.
  QueryMoments(const Shape& shape, const Rope& rope, std::size_t positions, std::size_t chunk,
               std::size_t skip, std::span<const std::size_t> layers_without_rope = {})
      : shape_(shape), pairing_(rope.pairing), chunk_(chunk), skip_(skip) {
    shape.validate();
    rope.validate(shape.head_dim);
    const std::size_t heads = detail::product({shape.layers, shape.query_heads});
    const auto memory = std::make_shared<std::vector<float>>(detail::product({positions, rope.rotary_dim()}));
    angles_ = AngleTable(rope, positions, *memory);
    angle_memory_ = memory;
    staged_.resize(detail::product({heads, chunk, shape.head_dim}));
    staged_counts_.resize(heads);
    detail::check_layers_without_rope(layers_without_rope, shape);
    turns_.assign(shape.layers, true);
    for (const std::size_t layer : layers_without_rope) turns_[layer] = false;
    total_ = Sums(heads, shape.head_dim);
    aside_ = total_;
  }

  /// Takes the queries of one layer, rotated for positions first, first + 1, ... They count from commit() on.
  /// If several of the model's layers read one layer of the store, it is called for each of them: all count,
  /// and in which calls they come may matter to the last bits.
  void stage(std::size_t layer, std::size_t first, const Queries& queries) noexcept {
    for (std::size_t head = head_of(layer, 0); head < head_of(layer + 1, 0); ++head)
      if (staged_counts_[head] > 0) add_staged(head, aside_);
    const std::size_t d = shape_.head_dim;
    first_ = first;
    for (std::size_t head = 0; head < shape_.query_heads; ++head) {
      staged_counts_[head_of(layer, head)] = queries.count;
      for (std::size_t i = 0; i < queries.count; ++i)
        rotate(queries.at(i, head), turns_[layer] ? angles_[first + i] : Angles{}, pairing_, Turn::backward,
               d, staged_row(head_of(layer, head), i));
    }
  }

  /// Forgets what was staged and not committed.
  void drop() noexcept {
    std::fill(staged_counts_.begin(), staged_counts_.end(), std::size_t{0});
    for (std::size_t head = 0; head < aside_.counts.size(); ++head)
      if (aside_.counts[head] > 0) aside_.clear(head);
  }

  /// Adds what was staged, for the query heads that share a kv head. May be called for several kv heads at
  /// once.
  void commit(std::size_t layer, std::size_t kv_head) noexcept {
    for (std::size_t head = 0; head < shape_.group(); ++head)
      commit_head(head_of(layer, kv_head * shape_.group() + head));
  }

  /// Forgets all commits.
  void clear() noexcept { total_.clear(); }

  /// All that was committed, as bytes in the machine's byte order.
  std::vector<std::byte> memory() const {
    std::vector<std::byte> bytes;
    for_each_sum(*this, [&](const auto& sums) {
      const auto more = std::as_bytes(std::span(sums));
      bytes.insert(bytes.end(), more.begin(), more.end());
    });
    return bytes;
  }

  /// Takes back what memory() of the same shape gave. Throws std::invalid_argument, before anything changes,
  /// for bytes of another size.
  void recall(std::span<const std::byte> bytes) {
    std::size_t expected = 0;
    for_each_sum(*this, [&](const auto& sums) { expected += std::as_bytes(std::span(sums)).size(); });
    if (bytes.size() != expected)
      detail::invalid("the memory of queries has ", bytes.size(), " bytes; of this shape it has ", expected);
    for_each_sum(*this, [&](auto& sums) {
      const auto to = std::as_writable_bytes(std::span(sums));
      std::ranges::copy(bytes.first(to.size()), to.begin());
      bytes = bytes.subspan(to.size());
    });
  }

  /// How many queries count so far.
  std::uint64_t count(std::size_t layer, std::size_t query_head) const noexcept {
    return total_.counts[head_of(layer, query_head)];
  }

  /// The mean (head_dim) and the covariance (head_dim, head_dim), divided by the count; zeros if that is 0.
  void read(std::size_t layer, std::size_t query_head, std::span<float> mean,
            std::span<float> covariance) const noexcept {
    const std::size_t head = head_of(layer, query_head), d = shape_.head_dim;
    const double share = total_.counts[head] == 0 ? 0 : 1 / static_cast<double>(total_.counts[head]);
    const double* const sum = total_.sum_of(head);
    const double* product = total_.products_of(head);
    for (std::size_t j = 0; j < d; ++j) {
      mean[j] = static_cast<float>(sum[j] * share);
      for (std::size_t i = j; i < d; ++i)
        covariance[i * d + j] = covariance[j * d + i] =
            static_cast<float>(*product++ * share - (sum[i] * share) * (sum[j] * share));
    }
  }

 private:
  static constexpr std::size_t block = 4;  // rows added in one pass over the products

  /// Sums over rows (head_dim) of several heads.
  struct Sums {
    Sums() = default;
    Sums(std::size_t heads, std::size_t head_dim)
        : d(head_dim),
          counts(heads),
          sums(detail::product({heads, d})),
          products(detail::product({heads, triangle()})) {}

    std::size_t triangle() const noexcept { return d * (d + 1) / 2; }
    double* sum_of(std::size_t head) noexcept { return sums.data() + head * d; }
    const double* sum_of(std::size_t head) const noexcept { return sums.data() + head * d; }
    double* products_of(std::size_t head) noexcept { return products.data() + head * triangle(); }
    const double* products_of(std::size_t head) const noexcept { return products.data() + head * triangle(); }

    void clear() noexcept {
      for (std::size_t head = 0; head < counts.size(); ++head) clear(head);
    }
    void clear(std::size_t head) noexcept {
      counts[head] = 0;
      std::fill_n(sum_of(head), d, 0.0);
      std::fill_n(products_of(head), triangle(), 0.0);
    }

    void add(std::size_t head, const Sums& others) noexcept {
      counts[head] += others.counts[head];
      for (std::size_t i = 0; i < d; ++i) sum_of(head)[i] += others.sum_of(head)[i];
      for (std::size_t i = 0; i < triangle(); ++i) products_of(head)[i] += others.products_of(head)[i];
    }

    /// Adds n rows, one after the other to every sum: the bits do not depend on how rows are grouped.
    template <std::size_t n>
    void add(std::size_t head, const float* const* rows) noexcept {
      std::array<const float*, n> x;
      std::copy_n(rows, n, x.begin());
      counts[head] += n;
      double* const sum = sum_of(head);
      double* product = products_of(head);
      for (std::size_t j = 0; j < d; ++j) {
        std::array<double, n> factor;
        for (std::size_t r = 0; r < n; ++r) {
          factor[r] = static_cast<double>(x[r][j]);
          sum[j] += factor[r];
        }
        for (std::size_t i = j; i < d; ++i, ++product) {
          double total = *product;
          for (std::size_t r = 0; r < n; ++r) total += factor[r] * static_cast<double>(x[r][i]);
          *product = total;
        }
      }
    }

    std::size_t d = 0;                  // head_dim
    std::vector<std::uint64_t> counts;  // (heads)
    std::vector<double> sums;           // (heads, head_dim)
    std::vector<double> products;       // (heads, triangle): column by column
  };

  template <class Moments, class F>
  static void for_each_sum(Moments& moments, const F& f) {
    f(moments.total_.counts);
    f(moments.total_.sums);
    f(moments.total_.products);
  }

  std::size_t head_of(std::size_t layer, std::size_t query_head) const noexcept {
    return layer * shape_.query_heads + query_head;
  }
  float* staged_row(std::size_t head, std::size_t i) noexcept {
    return staged_.data() + (head * chunk_ + i) * shape_.head_dim;
  }

  void commit_head(std::size_t head) noexcept {
    if (aside_.counts[head] > 0) {
      total_.add(head, aside_);
      aside_.clear(head);
    }
    add_staged(head, total_);
    staged_counts_[head] = 0;
  }

  void add_staged(std::size_t head, Sums& to) noexcept {
    std::array<const float*, block> rows{};
    std::size_t held = 0;
    for (std::size_t i = first_ < skip_ ? skip_ - first_ : 0; i < staged_counts_[head]; ++i) {
      const float* const row = staged_row(head, i);
      if (!std::all_of(row, row + shape_.head_dim, detail::is_finite<float>)) continue;
      rows[held++] = row;
      if (held < block) continue;
      to.add<block>(head, rows.data());
      held = 0;
    }
    for (std::size_t i = 0; i < held; ++i) to.add<1>(head, &rows[i]);
  }

  Shape shape_;
  Pairing pairing_ = Pairing::half_split;
  std::size_t chunk_ = 0, skip_ = 0;
  std::shared_ptr<const std::vector<float>> angle_memory_;
  AngleTable angles_;                       // in that memory
  std::vector<bool> turns_;                 // (layers)
  std::vector<float> staged_;               // (layers, query_heads, chunk, head_dim)
  std::vector<std::size_t> staged_counts_;  // (layers, query_heads) rows of it that are to be added
  std::size_t first_ = 0;                   // of the rows that were staged
  Sums total_;                              // of what was committed
  Sums aside_;  // of what was staged before, in this call, for the same layer of the store
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
