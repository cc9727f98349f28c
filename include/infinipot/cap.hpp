// CaP: the attention that a catalyst's queries pay to each entry (paper section 3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/attention_form.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/top_k.hpp"

namespace infinipot {

/// How the attention of several queries, and of the query heads of a group, becomes one score.
enum class Reduce : std::uint8_t {
  sum,  ///< the paper
  max,  ///< the most that one of them paid (KVzip)
};

namespace detail {

/// out[r][w] = sum over k of keys[r][k] * queries[k][w], for `rows` keys and two packets of queries. Not
/// inline: this loop needs nearly all registers, and a caller that has some of its own in use would halve its
/// speed.
template <std::size_t... row>
[[gnu::noinline]] void dot_rows(std::index_sequence<row...>, const float* keys, std::ptrdiff_t stride,
                                const float* queries, std::size_t head_dim, float* out) noexcept {
  Packet left[sizeof...(row)] = {((void)row, broadcast(0))...};
  Packet right[sizeof...(row)] = {((void)row, broadcast(0))...};
  for (std::size_t k = 0; k < head_dim; ++k) {
    const Packet q0 = load(queries + k * 2 * packet_size);
    const Packet q1 = load(queries + k * 2 * packet_size + packet_size);
    const auto step = [&](std::size_t r) {
      const Packet key =
          broadcast(keys[static_cast<std::ptrdiff_t>(r) * stride + static_cast<std::ptrdiff_t>(k)]);
      left[r] = multiply_add(key, q0, left[r]);
      right[r] = multiply_add(key, q1, right[r]);
    };
    (step(row), ...);
  }
  ((store(out + row * 2 * packet_size, left[row]),
    store(out + row * 2 * packet_size + packet_size, right[row])),
   ...);
}

}  // namespace detail

/// Fused attention scoring of one (layer, kv head) at a time: scaled q.k, softmax and the sum over queries,
/// by tiles, so that no (queries x entries) matrix exists and no key is copied for the group. Allocates once,
/// in the constructor; one scorer per thread. The result depends on nothing but the input.
class CapScorer {
 public:
  /// For up to `max_entries` entries, catalyst included. Throws std::invalid_argument for a bad shape.
  CapScorer(const Shape& shape, std::size_t max_entries)
      : shape_(shape),
        queries_(shape.head_dim * width),
        keys_(key_tile * shape.head_dim),
        logits_(max_entries * width),
        bias_(max_entries) {
    shape.validate();
  }

  /// Adds to (Reduce::sum) or raises (Reduce::max) scores[t] by softmax(q.K^T)[t] of every query i of the
  /// group of `kv_head`. Query i stands at position first + i and sees entries 0 .. first + i.
  /// `keys(from, count, tile)` gives KeyRows of entries from .. from + count - 1, in place or in `tile`
  /// (count * head_dim floats). `scores` has first + queries.count values. A NaN logit makes all that its
  /// query pays NaN. Precondition: first + queries.count <= max_entries.
  template <class Keys>
  void accumulate(const Queries& queries, std::size_t kv_head, std::size_t first, const Keys& keys,
                  const AttentionForm& form, Reduce reduce, std::span<float> scores) noexcept {
    const std::size_t rows = shape_.group() * queries.count;
    for (std::size_t row = 0; row < rows; row += width) {
      Block block = take(queries, kv_head, row, std::min(width, rows - row), first, form);
      fill_logits(block, keys);
      if (form.soft_cap != 0) cap_logits(block, form.soft_cap);
      if (form.bias != nullptr) add_bias(block, *form.bias);
      hide_future(block);
      softmax(block);
      reduce == Reduce::sum ? add_to(block, scores) : raise_by(block, scores);
    }
  }

 private:
  static constexpr std::size_t width = 2 * detail::packet_size;  // queries side by side
  static constexpr std::size_t key_rows = detail::packet_size == 16 ? 8 : 4;
  static constexpr std::size_t key_tile = 64;
  static constexpr float low = std::numeric_limits<float>::lowest();

  // Up to `width` queries, whose logits stand in logits_ as (entries, width).
  struct Block {
    std::size_t rows = 0;
    std::size_t entries = 0;  // seen by at least one of them
    std::size_t first_hidden = 0;
    std::size_t position[width] = {};
    std::size_t head[width] = {};
    float share[width] = {};  // 1 / sum of the row's exponentials
  };

  Block take(const Queries& queries, std::size_t kv_head, std::size_t row, std::size_t rows,
             std::size_t first, const AttentionForm& form) noexcept {
    Block block;
    block.rows = rows;
    const float scale = form.scale_for(shape_.head_dim);
    std::fill(queries_.begin(), queries_.end(), 0.0F);
    for (std::size_t w = 0; w < rows; ++w) {
      const std::size_t token = (row + w) % queries.count;
      block.position[w] = first + token;
      block.head[w] = kv_head * shape_.group() + (row + w) / queries.count;
      block.entries = std::max(block.entries, block.position[w] + 1);
      const float* const query = queries.at(token, block.head[w]);
      for (std::size_t k = 0; k < shape_.head_dim; ++k) queries_[k * width + w] = scale * query[k];
    }
    block.first_hidden = first + 1;
    return block;
  }

  template <class Keys>
  void fill_logits(const Block& block, const Keys& keys) noexcept {
    for (std::size_t from = 0; from < block.entries; from += key_tile) {
      const std::size_t count = std::min(key_tile, block.entries - from);
      const KeyRows rows = keys(from, count, keys_.data());
      float* const out = logits_.data() + from * width;
      std::size_t i = 0;
      for (; i + key_rows <= count; i += key_rows)
        detail::dot_rows(std::make_index_sequence<key_rows>(),
                         rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride, rows.stride,
                         queries_.data(), shape_.head_dim, out + i * width);
      for (; i < count; ++i)
        detail::dot_rows(std::make_index_sequence<1>(),
                         rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride, rows.stride,
                         queries_.data(), shape_.head_dim, out + i * width);
    }
  }

  void cap_logits(const Block& block, float cap) noexcept {
    using namespace detail;
    const Packet top = broadcast(cap), steepness = broadcast(1 / cap);
    for (std::size_t i = 0; i < block.entries * width; i += packet_size) {
      float* const logits = logits_.data() + i;
      store(logits, multiply(top, tanh(multiply(steepness, load(logits)))));
    }
  }

  void add_bias(const Block& block, const AttentionBias& bias) noexcept {
    for (std::size_t w = 0; w < block.rows; ++w) {
      const std::span<float> row(bias_.data(), block.position[w] + 1);
      std::fill(row.begin(), row.end(), 0.0F);
      bias.add(block.head[w], block.position[w], row);
      // lowest() instead of -inf: the rest of the kernel then needs no infinities.
      for (std::size_t t = 0; t < row.size(); ++t) {
        float& logit = logits_[t * width + w];
        logit = row[t] < low ? low : logit + row[t];
      }
    }
  }

  void hide_future(const Block& block) noexcept {
    for (std::size_t t = block.first_hidden; t < block.entries; ++t)
      for (std::size_t w = 0; w < block.rows; ++w)
        if (t > block.position[w]) logits_[t * width + w] = low;
  }

  /// Replaces logits by exp(logit - row maximum) and computes the shares.
  void softmax(Block& block) noexcept {
    using namespace detail;
    float tops[width];
    std::fill_n(tops, width, low);
    for (std::size_t t = 0; t < block.entries; ++t) detail::raise(tops, logits_.data() + t * width);
    const Packet top0 = load(tops), top1 = load(tops + packet_size);
    Packet sum0 = broadcast(0), sum1 = sum0;
    for (std::size_t from = 0; from < block.entries; from += key_tile) {
      // Partial sums keep the rounding error of thousands of addends small.
      Packet part0 = broadcast(0), part1 = part0;
      for (std::size_t t = from; t < std::min(from + key_tile, block.entries); ++t) {
        float* const row = logits_.data() + t * width;
        const Packet e0 = exp_to_88(subtract(load(row), top0));
        const Packet e1 = exp_to_88(subtract(load(row + packet_size), top1));
        store(row, e0);
        store(row + packet_size, e1);
        part0 = add(part0, e0);
        part1 = add(part1, e1);
      }
      sum0 = add(sum0, part0);
      sum1 = add(sum1, part1);
    }
    float sums[width];
    store(sums, sum0);
    store(sums + packet_size, sum1);
    for (std::size_t w = 0; w < width; ++w) {
      const bool pays = w < block.rows && tops[w] > low;  // not if its every entry is hidden
      if (is_nan(sums[w]))
        spread_nan(block, w, pays);
      else if (pays)
        block.share[w] = 1.0F / sums[w];
    }
  }

  /// A row with a NaN logit pays NaN where it would have paid anything, and nothing to the others: an entry
  /// that is hidden from it stays sound. What only fills up the block (0 * infinity) never pays. (The row's
  /// share remains 0, and 0 * NaN is NaN.)
  void spread_nan(const Block& block, std::size_t w, bool pays) noexcept {
    for (std::size_t t = 0; t < block.entries; ++t) {
      float& paid = logits_[t * width + w];
      const bool spoilt = is_nan(paid) || (pays && paid != 0);
      paid = spoilt && w < block.rows ? std::numeric_limits<float>::quiet_NaN() : 0;
    }
  }

  void add_to(const Block& block, std::span<float> scores) noexcept {
    using namespace detail;
    const Packet share0 = load(block.share), share1 = load(block.share + packet_size);
    for (std::size_t t = 0; t < block.entries; ++t) {
      const float* const row = logits_.data() + t * width;
      scores[t] += sum(multiply_add(load(row), share0, multiply(load(row + packet_size), share1)));
    }
  }

  void raise_by(const Block& block, std::span<float> scores) noexcept {
    using namespace detail;
    const Packet share0 = load(block.share), share1 = load(block.share + packet_size);
    for (std::size_t t = 0; t < block.entries; ++t) {
      const float* const row = logits_.data() + t * width;
      const Packet paid0 = multiply(load(row), share0), paid1 = multiply(load(row + packet_size), share1);
      float paid[width];
      store(paid, paid0);
      store(paid + packet_size, paid1);
      const float total = sum(add(paid0, paid1));  // only to see NaN, which the maximum passes over
      const float best = is_nan(total) ? total : largest(paid);
      if (best > scores[t] || is_nan(best)) scores[t] = best;
    }
  }

  Shape shape_;
  std::vector<float> queries_;  // (head_dim, width), scaled
  std::vector<float> keys_;     // (key_tile, head_dim), for keys that must be converted
  std::vector<float> logits_;   // (max_entries, width)
  std::vector<float> bias_;     // (max_entries)
};

}  // namespace infinipot
