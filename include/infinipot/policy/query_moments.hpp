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
/// Takes layers * query_heads * (chunk * head_dim * 4 + head_dim * (head_dim + 1) * 4) bytes and a little
/// more. Copies share nothing mutable. Allocates in the constructor only.
class QueryMoments {
 public:
  /// Empty, to be assigned.
  QueryMoments() = default;

  /// For queries at positions below `positions`, at most `chunk` at a time. Those at positions below `skip`
  /// do not count. Throws std::invalid_argument if the rope does not fit the shape or the sizes overflow.
  QueryMoments(const Shape& shape, const Rope& rope, std::size_t positions, std::size_t chunk,
               std::size_t skip)
      : shape_(shape), pairing_(rope.pairing), chunk_(chunk), skip_(skip) {
    shape.validate();
    rope.validate(shape.head_dim);
    const std::size_t heads = detail::product({shape.layers, shape.query_heads});
    const auto memory = std::make_shared<std::vector<float>>(detail::product({positions, rope.rotary_dim()}));
    angles_ = AngleTable(rope, positions, *memory);
    angle_memory_ = memory;
    staged_.resize(detail::product({heads, chunk, shape.head_dim}));
    counts_.resize(heads);
    sums_.resize(detail::product({heads, shape.head_dim}));
    products_.resize(detail::product({heads, triangle()}));
  }

  /// Takes the queries of one layer, rotated for positions first, first + 1, ... They count from commit() on;
  /// another call replaces them.
  void stage(std::size_t layer, std::size_t first, const Queries& queries) noexcept {
    const std::size_t d = shape_.head_dim;
    first_ = first;
    count_ = queries.count;
    for (std::size_t head = 0; head < shape_.query_heads; ++head)
      for (std::size_t i = 0; i < queries.count; ++i)
        rotate(queries.at(i, head), angles_[first + i], pairing_, Turn::backward, d,
               staged_row(head_of(layer, head), i));
  }

  /// Adds what was staged, for the query heads that share a kv head. May be called for several kv heads at
  /// once.
  void commit(std::size_t layer, std::size_t kv_head) noexcept {
    for (std::size_t head = 0; head < shape_.group(); ++head)
      commit_head(head_of(layer, kv_head * shape_.group() + head));
  }

  /// Forgets all commits.
  void clear() noexcept {
    std::fill(counts_.begin(), counts_.end(), 0U);
    std::fill(sums_.begin(), sums_.end(), 0.0);
    std::fill(products_.begin(), products_.end(), 0.0);
  }

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
    return counts_[head_of(layer, query_head)];
  }

  /// The mean (head_dim) and the covariance (head_dim, head_dim), divided by the count; zeros if that is 0.
  void read(std::size_t layer, std::size_t query_head, std::span<float> mean,
            std::span<float> covariance) const noexcept {
    const std::size_t head = head_of(layer, query_head), d = shape_.head_dim;
    const double share = counts_[head] == 0 ? 0 : 1 / static_cast<double>(counts_[head]);
    const double* const sum = sums_.data() + head * d;
    const double* product = products_.data() + head * triangle();
    for (std::size_t j = 0; j < d; ++j) {
      mean[j] = static_cast<float>(sum[j] * share);
      for (std::size_t i = j; i < d; ++i)
        covariance[i * d + j] = covariance[j * d + i] =
            static_cast<float>(*product++ * share - (sum[i] * share) * (sum[j] * share));
    }
  }

 private:
  static constexpr std::size_t block = 4;  // rows added in one pass over the products

  template <class Moments, class F>
  static void for_each_sum(Moments& moments, const F& f) {
    f(moments.counts_);
    f(moments.sums_);
    f(moments.products_);
  }

  std::size_t head_of(std::size_t layer, std::size_t query_head) const noexcept {
    return layer * shape_.query_heads + query_head;
  }
  std::size_t triangle() const noexcept { return shape_.head_dim * (shape_.head_dim + 1) / 2; }
  float* staged_row(std::size_t head, std::size_t i) noexcept {
    return staged_.data() + (head * chunk_ + i) * shape_.head_dim;
  }

  void commit_head(std::size_t head) noexcept {
    std::array<const float*, block> rows{};
    std::size_t held = 0;
    for (std::size_t i = first_ < skip_ ? skip_ - first_ : 0; i < count_; ++i) {
      const float* const row = staged_row(head, i);
      if (!std::all_of(row, row + shape_.head_dim, detail::is_finite<float>)) continue;
      rows[held++] = row;
      if (held < block) continue;
      add<block>(head, rows.data());
      held = 0;
    }
    for (std::size_t i = 0; i < held; ++i) add<1>(head, &rows[i]);
  }

  /// Adds n rows, one after the other to every sum: the bits do not depend on how rows are grouped.
  template <std::size_t n>
  void add(std::size_t head, const float* const* rows) noexcept {
    const std::size_t d = shape_.head_dim;
    std::array<const float*, n> x;
    std::copy_n(rows, n, x.begin());
    counts_[head] += n;
    double* const sum = sums_.data() + head * d;
    double* product = products_.data() + head * triangle();
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

  Shape shape_;
  Pairing pairing_ = Pairing::half_split;
  std::size_t chunk_ = 0, skip_ = 0;
  std::shared_ptr<const std::vector<float>> angle_memory_;
  AngleTable angles_;                  // in that memory
  std::vector<float> staged_;          // (layers, query_heads, chunk, head_dim)
  std::size_t first_ = 0, count_ = 0;  // of the rows that were staged
  std::vector<std::uint64_t> counts_;  // (layers, query_heads)
  std::vector<double> sums_;           // (layers, query_heads, head_dim)
  std::vector<double> products_;       // (layers, query_heads, triangle): column by column
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
