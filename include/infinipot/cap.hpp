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
  /// everything that its query pays NaN. Precondition: first + queries.count <= max_entries.
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
  static constexpr float low = std::numeric_limits<float>::lowest();

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

  // Up to `width` queries, with logits in logits_ as (entries, width), taken `step` at a time: those of one
  // entry, or of one query and several entries.
  template <std::size_t block_width>
  struct Block {
    static constexpr std::size_t width = block_width;
    static constexpr std::size_t step = (std::max)(width, detail::packet_size);
    static_assert(width == 1 || width == step);

    std::size_t rows = 0;
    std::size_t entries = 0;  // seen by at least one of them
    std::size_t first_hidden = 0;
    std::size_t position[width] = {};
    std::size_t head[width] = {};
    float share[width] = {};  // 1 / sum of the row's exponentials

    bool along_head_dim = false;  // multiplies queries one by one, not side by side
  };

  template <std::size_t width, class Keys>
  void accumulate(Call& call, const Task& task, const Keys& keys, std::span<float> scores) noexcept {
    Block<width> block;
    take(call, task, block);
    fill_logits(call, block, keys);
    if (call.form.soft_cap != 0) cap_logits(block, call.form.soft_cap);
    if (call.form.bias != nullptr) add_bias(block, *call.form.bias);
    hide_future(block);
    softmax(block);
    call.reduce == Reduce::sum ? add_to(block, scores) : raise_by(block, scores);
  }

  template <std::size_t width>
  void take(const Call& call, const Task& task, Block<width>& block) noexcept {
    const std::size_t d = shape_.head_dim;
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
  void fill_logits(Call& call, const Block<width>& block, const Keys& keys) noexcept {
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
  void multiply_keys(const Block<width>& block, Rows entries, const FloatRows& rows, std::size_t i,
                     float* out) noexcept {
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
  void cap_logits(const Block<width>& block, float cap) noexcept {
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
  void add_bias(const Block<width>& block, const AttentionBias& bias) noexcept {
    for (std::size_t w = 0; w < block.rows; ++w) {
      const auto row = std::span(bias_).first(block.position[w] + 1);
      std::ranges::fill(row, 0.0F);
      bias.add(block.head[w], block.position[w], row);
      // lowest() instead of -inf: the rest of the kernel then needs no infinities.
      constexpr auto hidden = detail::infinity_bits<float> | detail::sign_bit<float>;
      for (std::size_t t = 0; t < row.size(); ++t) {
        float& logit = logits_[t * width + w];
        logit = std::bit_cast<std::uint32_t>(row[t]) == hidden ? low : logit + row[t];
      }
    }
  }

  template <std::size_t width>
  void hide_future(const Block<width>& block) noexcept {
    for (std::size_t t = block.first_hidden; t < block.entries; ++t)
      for (std::size_t w = 0; w < block.rows; ++w)
        if (t > block.position[w]) logits_[t * width + w] = low;
  }

  /// Replaces logits by exp(logit - row maximum) and computes the shares.
  template <std::size_t width>
  void softmax(Block<width>& block) noexcept {
    using namespace detail;
    constexpr std::size_t step = Block<width>::step;
    const std::size_t used = block.entries * width;
    const std::size_t end = (used + step - 1) / step * step;
    std::fill(logits_.data() + used, logits_.data() + end, low);
    float tops[step], totals[step], sums[step] = {};
    survey(end, tops, totals);
    if constexpr (width < step) {
      std::fill_n(tops, step, largest(tops));
      totals[0] = sum(load(totals));
    }
    for (float& top : tops)  // where -inf is said not to be, it may replace the lowest float
      if (is_minus_infinity(top)) top = low;
    bool spoilt[width] = {};
    for (std::size_t w = 0; w < width; ++w)  // a sum shows NaN, see may_be_spoilt()
      if (spoils(totals[w])) spoilt[w] = replace_nan(block, w, tops);
    for (std::size_t from = 0; from < end; from += key_tile * step)
      add_exponentials(tops, from, (std::min)(from + key_tile * step, end), sums);
    if constexpr (width < step) sums[0] = sum(load(sums));
    for (std::size_t w = 0; w < width; ++w) {
      if (w >= block.rows || tops[w] <= low) continue;  // it pays nothing if all its entries are hidden
      if (spoilt[w])
        spread_nan(block, w);
      else
        block.share[w] = 1.0F / sums[w];
    }
  }

  /// The largest of each lane's logits, unless one is NaN, and their sum.
  template <std::size_t step>
  void survey(std::size_t end, float (&tops)[step], float (&totals)[step]) noexcept {
    using namespace detail;
    constexpr std::size_t last = step - packet_size;  // the second packet of a step, if there are two
    Packet top[4], total[4];
    for (std::size_t i = 0; i < 4; ++i) {
      top[i] = broadcast(low);
      total[i] = broadcast(0);
    }
    const auto add_step = [&](std::size_t at, std::size_t to) {
      const Packet first = load(logits_.data() + at);
      top[to] = larger(top[to], first);
      total[to] = add(total[to], first);
      if constexpr (last > 0) {
        const Packet second = load(logits_.data() + at + last);
        top[to + 1] = larger(top[to + 1], second);
        total[to + 1] = add(total[to + 1], second);
      }
    };
    std::size_t i = 0;
    for (; i + 2 * step <= end; i += 2 * step) {  // two at a time hide one another's latency
      add_step(i, 0);
      add_step(i + step, 2);
    }
    if (i < end) add_step(i, 0);
    store(tops, larger(top[0], top[2]));
    store(totals, add(total[0], total[2]));
    if constexpr (last > 0) {
      store(tops + last, larger(top[1], top[3]));
      store(totals + last, add(total[1], total[3]));
    }
  }

  /// Replaces logits from .. to by exp(logit - top) and adds their sum. Partial sums like this one keep the
  /// rounding error of thousands of addends small.
  template <std::size_t step>
  void add_exponentials(const float (&tops)[step], std::size_t from, std::size_t to,
                        float (&sums)[step]) noexcept {
    using namespace detail;
    // The first and the last packet of a step, perhaps the same one.
    constexpr std::size_t last = step - packet_size;
    const Packet top0 = load(tops), top1 = load(tops + last);
    Packet part0 = broadcast(0), part1 = part0;
    for (std::size_t i = from; i < to; i += step) {
      float* const logits = logits_.data() + i;
      const Packet e0 = exp_to_88(subtract(load(logits), top0));
      part0 = add(part0, e0);
      if constexpr (last > 0) {
        const Packet e1 = exp_to_88(subtract(load(logits + last), top1));
        part1 = add(part1, e1);
        store(logits + last, e1);
      }
      store(logits, e0);
    }
    store(sums, add(load(sums), part0));
    if constexpr (last > 0) store(sums + last, add(load(sums + last), part1));
  }

  /// Replaces the logits of query w that spoil its softmax by the largest of the others, for spread_nan() to
  /// find, and says whether there are any. Padding of the block (0 * infinity) has them too.
  template <std::size_t width, std::size_t step>
  [[gnu::cold, gnu::noinline]] bool replace_nan(const Block<width>& block, std::size_t w,
                                                float (&tops)[step]) noexcept {
    float top = low;
    bool found = false;
    for (std::size_t t = 0; t < block.entries; ++t) {
      const float& logit = logits_[t * width + w];
      if (detail::spoils(logit))
        found = true;
      else if (!detail::is_minus_infinity(logit) && logit > top)
        top = logit;
    }
    if (!found) return false;
    if (top == low) top = 0;
    for (std::size_t t = 0; t < block.entries; ++t)
      if (float& logit = logits_[t * width + w]; detail::spoils(logit)) logit = top;
    std::fill_n(tops + w, width < step ? step : 1, top);
    return true;
  }

  /// A query with such a logit pays NaN where it would have paid anything, and nothing elsewhere: entries
  /// hidden from it stay sound. (Its share stays 0, and 0 * NaN is NaN.)
  template <std::size_t width>
  [[gnu::cold, gnu::noinline]] void spread_nan(const Block<width>& block, std::size_t w) noexcept {
    const auto nan = detail::quiet_nan<float>();
    for (std::size_t t = 0; t < block.entries; ++t)
      if (float& paid = logits_[t * width + w]; paid != 0) paid = nan;
  }

  void add_to(const Block<1>& block, std::span<float> scores) noexcept {
    for (std::size_t t = 0; t < block.entries; ++t) scores[t] += logits_[t] * block.share[0];
  }

  template <std::size_t width>
  void add_to(const Block<width>& block, std::span<float> scores) noexcept {
    using namespace detail;
    const Packet share0 = load(block.share), share1 = load(block.share + width - packet_size);
    for (std::size_t t = 0; t < block.entries; ++t) {
      const float* const row = logits_.data() + t * width;
      Packet paid = multiply(load(row + width - packet_size), share1);
      if constexpr (width > packet_size) paid = multiply_add(load(row), share0, paid);
      scores[t] += sum(paid);
    }
  }

  void raise_by(const Block<1>& block, std::span<float> scores) noexcept {
    for (std::size_t t = 0; t < block.entries; ++t)
      detail::raise_score(scores[t], logits_[t] * block.share[0]);
  }

  template <std::size_t width>
  void raise_by(const Block<width>& block, std::span<float> scores) noexcept {
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
