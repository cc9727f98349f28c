// CaP, the Catalyst Prompt's score: the attention that its queries pay to each entry (paper section 3).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/cap/attention_form.hpp"
#include "infinipot/cap/multiply_keys.hpp"
#include "infinipot/cap/query_block.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/queries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// How the attention of several queries, and of a group's query heads, becomes one score.
enum class Reduce : std::uint8_t {
  sum,  ///< the paper
  max,  ///< the largest of them (KVzip)
};

/// Fused attention scoring of one (layer, kv head) at a time: scaled q.k, softmax and the sum over queries,
/// by tiles, without a (queries x entries) matrix or a copy of keys for the group. Allocates in the
/// constructor only; one scorer per thread. The result depends only on the input.
///
/// Holds the logits of up to 32 queries (two packets) and up to 8256 converted keys, which further blocks of
/// queries use again: about 4 * (max_entries * 33 + min(max_entries, 8256) * head_dim) bytes.
class CapScorer {
 public:
  /// For up to `max_entries` entries, catalyst included. Throws std::invalid_argument for a bad shape.
  CapScorer(const Shape& shape, std::size_t max_entries)
      : shape_(shape),
        queries_(shape.head_dim * widest),
        keys_((std::min)(max_entries, kept_keys + key_tile) * shape.head_dim),
        logits_(max_entries * widest),
        bias_(max_entries) {
    shape.validate();
  }

  /// Adds softmax(q.K^T)[t] of every query of `kv_head`'s group to scores[t] (Reduce::sum), or raises
  /// scores[t] to it (Reduce::max). Query i stands at position first + i and sees entries 0 .. first + i.
  /// `keys(from, count, tile)` returns FloatRows of entries from .. from + count - 1, in place or in `tile`
  /// (count * head_dim floats). `scores` has first + queries.count values. A logit of NaN or +inf makes
  /// everything that its query pays NaN. Preconditions: first + queries.count <= max_entries; form.sinks is
  /// empty or has query_heads values.
  template <class Keys>
  void accumulate(const Queries& queries, std::size_t kv_head, std::size_t first, const Keys& keys,
                  const AttentionForm& form, Reduce reduce, std::span<float> scores) noexcept {
    const std::size_t rows = shape_.group() * queries.count;
    Call call{queries, kv_head, first, form, reduce, rows > widest ? kept_keys : 0};
    for (std::size_t row = 0; row < rows; row += widest) {
      const Task task{row, (std::min)(widest, rows - row)};
      // A narrow block takes less time than a wide one; for a single query, entries lie side by side.
      if (task.rows == 1)
        accumulate<1>(call, task, keys, scores);
      else if (task.rows <= detail::packet_size)
        accumulate<detail::packet_size>(call, task, keys, scores);
      else
        accumulate<widest>(call, task, keys, scores);
    }
  }

 private:
  static constexpr std::size_t widest = 2 * detail::packet_size;  // queries side by side
  static constexpr std::size_t keys_at_once = detail::packet_size == 16 ? 8 : 4;
  static constexpr std::size_t key_tile = 64;
  // Beyond these, rereading floats takes as long as converting again.
  static constexpr std::size_t kept_keys = 128 * key_tile;

  // The arguments of accumulate(), and how many keys are converted: up to `to_keep` stay in keys_ for further
  // blocks.
  struct Call {
    const Queries& queries;
    std::size_t kv_head, first;
    const AttentionForm& form;
    Reduce reduce;
    std::size_t to_keep;
    std::size_t converted = 0;
  };

  // Rows row .. row + rows - 1 of the group's queries.
  struct Task {
    std::size_t row, rows;
  };

  template <std::size_t width, class Keys>
  void accumulate(Call& call, const Task& task, const Keys& keys, std::span<float> scores) noexcept {
    detail::QueryBlock<width> block;
    take(call, task, block);
    fill_logits(call, block, keys);
    if (call.form.soft_cap != 0) cap_logits(block, call.form.soft_cap);
    if (call.form.bias != nullptr) add_bias(block, *call.form.bias);
    hide_future(block);
    detail::softmax(block, call.form.sinks);
    call.reduce == Reduce::sum ? add_to(block, scores) : raise_by(block, scores);
  }

  template <std::size_t width>
  void take(const Call& call, const Task& task, detail::QueryBlock<width>& block) noexcept {
    const std::size_t d = shape_.head_dim;
    block.logits = logits_.data();
    block.rows = task.rows;
    // Side by side, few queries take as long as a packet of them.
    block.along_head_dim = 2 * task.rows <= detail::packet_size && d % detail::packet_size == 0;
    const float scale = call.form.scale_for(d);
    std::fill(queries_.begin(), queries_.end(), 0.0F);
    for (std::size_t w = 0; w < task.rows; ++w) {
      const std::size_t token = (task.row + w) % call.queries.count;
      block.position[w] = call.first + token;
      block.head[w] = call.kv_head * shape_.group() + (task.row + w) / call.queries.count;
      block.entries = (std::max)(block.entries, block.position[w] + 1);
      const float* const query = call.queries.at(token, block.head[w]);
      float* const out = queries_.data() + (block.along_head_dim ? w * d : w);
      const std::size_t stride = block.along_head_dim ? 1 : width;
      for (std::size_t k = 0; k < d; ++k) out[k * stride] = scale * query[k];
    }
    block.first_hidden = call.first + 1;
  }

  template <std::size_t width, class Keys>
  void fill_logits(Call& call, const detail::QueryBlock<width>& block, const Keys& keys) noexcept {
    for (std::size_t from = 0; from < block.entries; from += key_tile) {
      const std::size_t count = (std::min)(key_tile, block.entries - from);
      const FloatRows rows = key_rows(call, from, count, keys);
      float* const out = logits_.data() + from * width;
      std::size_t i = 0;
      for (; i + keys_at_once <= count; i += keys_at_once)
        multiply_keys(block, std::make_index_sequence<keys_at_once>(), rows, i, out + i * width);
      for (; i < count; ++i) multiply_keys(block, std::make_index_sequence<1>(), rows, i, out + i * width);
    }
  }

  /// Does not convert again what an earlier block has converted.
  template <class Keys>
  FloatRows key_rows(Call& call, std::size_t from, std::size_t count, const Keys& keys) noexcept {
    float* const tile = keys_.data() + (std::min)(from, call.to_keep) * shape_.head_dim;
    if (from + count <= call.converted) return {tile, static_cast<std::ptrdiff_t>(shape_.head_dim)};
    const FloatRows rows = keys(from, count, tile);
    if (rows.data == tile && from <= call.converted && from + count <= call.to_keep)
      call.converted = from + count;
    return rows;
  }

  /// Logits of a few entries, from row i of a tile on.
  template <std::size_t width, class Rows>
  void multiply_keys(const detail::QueryBlock<width>& block, Rows entries, const FloatRows& rows,
                     std::size_t i, float* out) noexcept {
    const std::size_t d = shape_.head_dim;
    const float* const keys = rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride;
    if (block.along_head_dim) {
      if constexpr (width > 1) std::fill_n(out, entries.size() * width, 0.0F);  // where there is no query
      for (std::size_t w = 0; w < block.rows; ++w)
        detail::dot_query(entries, keys, rows.stride, queries_.data() + w * d, d, out + w, width);
    } else if constexpr (width % detail::packet_size == 0) {
      detail::dot_rows<width / detail::packet_size>(entries, keys, rows.stride, queries_.data(), d, out);
    } else {
      const Eigen::Map<const Eigen::VectorXf> query(queries_.data(), static_cast<Eigen::Index>(d));
      for (std::size_t r = 0; r < entries.size(); ++r)
        out[r] = query.dot(Eigen::Map<const Eigen::VectorXf>(
            keys + static_cast<std::ptrdiff_t>(r) * rows.stride, static_cast<Eigen::Index>(d)));
    }
  }

  template <std::size_t width>
  void cap_logits(const detail::QueryBlock<width>& block, float cap) noexcept {
    using namespace detail;
    const Packet top = broadcast(cap), steepness = broadcast(1 / cap);
    const std::size_t end = (block.entries * width + packet_size - 1) / packet_size * packet_size;
    for (std::size_t from = 0; from < end; from += key_tile * packet_size) {
      const std::span<float> logits(logits_.data() + from, (std::min)(key_tile * packet_size, end - from));
      if (may_be_spoilt(logits.data(), logits.size())) {
        cap_but_nan(logits, cap);
        continue;
      }
      for (std::size_t i = 0; i < logits.size(); i += packet_size)
        store(&logits[i], multiply(top, tanh(multiply(steepness, load(&logits[i])))));
    }
  }

  /// For vectors, NaN would be a number.
  [[gnu::cold, gnu::noinline]] static void cap_but_nan(std::span<float> logits, float cap) noexcept {
    for (float& logit : logits)
      if (!detail::is_nan(logit)) logit = cap * std::tanh(logit / cap);
  }

  template <std::size_t width>
  void add_bias(const detail::QueryBlock<width>& block, const AttentionBias& bias) noexcept {
    for (std::size_t w = 0; w < block.rows; ++w) {
      const auto row = std::span(bias_).first(block.position[w] + 1);
      std::ranges::fill(row, 0.0F);
      bias.add(block.head[w], block.position[w], row);
      constexpr auto hidden = detail::infinity_bits<float> | detail::sign_bit<float>;
      for (std::size_t t = 0; t < row.size(); ++t) {
        float& logit = logits_[t * width + w];
        logit = std::bit_cast<std::uint32_t>(row[t]) == hidden ? detail::hidden_logit : logit + row[t];
      }
    }
  }

  template <std::size_t width>
  void hide_future(const detail::QueryBlock<width>& block) noexcept {
    for (std::size_t t = block.first_hidden; t < block.entries; ++t)
      for (std::size_t w = 0; w < block.rows; ++w)
        if (t > block.position[w]) logits_[t * width + w] = detail::hidden_logit;
  }

  void add_to(const detail::QueryBlock<1>& block, std::span<float> scores) noexcept {
    for (std::size_t t = 0; t < block.entries; ++t) scores[t] += logits_[t] * block.share[0];
  }

  template <std::size_t width>
  void add_to(const detail::QueryBlock<width>& block, std::span<float> scores) noexcept {
    using namespace detail;
    const Packet share0 = load(block.share), share1 = load(block.share + width - packet_size);
    for (std::size_t t = 0; t < block.entries; ++t) {
      const float* const row = logits_.data() + t * width;
      Packet paid = multiply(load(row + width - packet_size), share1);
      if constexpr (width > packet_size) paid = multiply_add(load(row), share0, paid);
      scores[t] += sum(paid);
    }
  }

  void raise_by(const detail::QueryBlock<1>& block, std::span<float> scores) noexcept {
    for (std::size_t t = 0; t < block.entries; ++t)
      detail::raise_score(scores[t], logits_[t] * block.share[0]);
  }

  template <std::size_t width>
  void raise_by(const detail::QueryBlock<width>& block, std::span<float> scores) noexcept {
    using namespace detail;
    const Packet share0 = load(block.share), share1 = load(block.share + width - packet_size);
    for (std::size_t t = 0; t < block.entries; ++t) {
      const float* const row = logits_.data() + t * width;
      const Packet paid0 = multiply(load(row), share0);
      const Packet paid1 = multiply(load(row + width - packet_size), share1);
      float paid[width];
      store(paid, paid0);
      store(paid + width - packet_size, paid1);
      const float total = sum(add(paid0, paid1));  // only to see NaN, which the maximum ignores
      raise_score(scores[t], is_nan(total) ? total : largest(paid));
    }
  }

  Shape shape_;
  std::vector<float> queries_;  // (head_dim, width of a block) or (queries, head_dim), scaled
  std::vector<float> keys_;     // (kept_keys + key_tile, head_dim) or less: those that must be converted
  std::vector<float> logits_;   // (max_entries, width of a block)
  std::vector<float> bias_;     // (max_entries)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
