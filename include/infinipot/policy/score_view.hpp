// What a policy sees of the entries that it scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "infinipot/detail/nan.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// How the scores of kv heads that choose together become one.
enum class ReduceHeads : std::uint8_t {
  sum,        ///< the paper
  max,        ///< the largest score
  max_share,  ///< the largest share: a head's scores divided by their sum over the unprotected entries
};

/// Entries of a scope, one or more (layer, kv head) pairs that choose together. Arrays have size() values.
/// Lives only during a call to Policy::score.
class ScoreView {
 public:
  std::size_t size() const noexcept { return size_; }

  /// Records of entry t: original position, token, NuC (nats), distillations survived.
  std::uint64_t position(std::size_t t) const noexcept { return table_->positions(first_lane_)[record(t)]; }
  Token token(std::size_t t) const noexcept { return table_->tokens(first_lane_)[record(t)]; }
  float nuc(std::size_t t) const noexcept { return table_->nuc(first_lane_)[record(t)]; }
  std::uint32_t survived(std::size_t t) const noexcept { return table_->survived(first_lane_)[record(t)]; }

  /// True for entries that stay whatever their score: sinks, recent, pinned.
  bool is_protected(std::size_t t) const noexcept { return protected_[t] != 0; }

  /// Number of (layer, kv head) pairs, those from first_head() on in arrays (layers, kv_heads).
  std::size_t heads() const noexcept { return heads_; }
  std::size_t first_head() const noexcept { return first_head_; }

  /// How many of these belong to the model's first `layers` layers.
  std::size_t heads_below(std::size_t layers) const noexcept {
    const std::size_t below = layers * heads_per_layer_;
    return (std::min)(below - (std::min)(below, first_head_), heads_);
  }

  /// Index of entry t in the store, for one of the heads.
  std::size_t index(std::size_t head, std::size_t t) const noexcept {
    if (aligned_.empty()) return t;
    return aligned_[head / heads_per_lane_ * stride_ + t];
  }

  /// The attention that entry t received in one of the heads, or its score by score_entries().
  float attention(std::size_t head, std::size_t t) const noexcept {
    return attention_[(first_head_ + head) * stride_ + index(head, t)];
  }

  /// Fills scores with the attention of all heads, reduced to one.
  void reduce_heads(ReduceHeads reduce, std::span<float> scores) const noexcept {
    reduce_heads(reduce, heads_, scores);
  }

  /// The same over the first `heads` heads, at most heads().
  void reduce_heads(ReduceHeads reduce, std::size_t heads, std::span<float> scores) const noexcept {
    std::fill(scores.begin(), scores.end(),
              reduce == ReduceHeads::max ? std::numeric_limits<float>::lowest() : 0.0F);
    for (std::size_t head = 0; head < heads; ++head) {
      if (reduce == ReduceHeads::sum)
        for (std::size_t t = 0; t < size_; ++t) scores[t] += attention(head, t);
      else if (reduce == ReduceHeads::max)
        for (std::size_t t = 0; t < size_; ++t) detail::raise_score(scores[t], attention(head, t));
      else
        raise_to_share(head, scores);
    }
  }

 private:
  friend class Selector;

  std::size_t record(std::size_t t) const noexcept { return index(0, t); }

  /// NaN reaches its own entry, to be reported, and spoils no other.
  void raise_to_share(std::size_t head, std::span<float> scores) const noexcept {
    float total = 0;
    for (std::size_t t = 0; t < size_; ++t)
      if (!is_protected(t) && !detail::is_nan(attention(head, t))) total += attention(head, t);
    for (std::size_t t = 0; t < size_; ++t) {
      const float received = attention(head, t);
      if (total > 0 || detail::is_nan(received)) detail::raise_score(scores[t], received / total);
    }
  }

  const EntryTable* table_ = nullptr;
  std::size_t first_lane_ = 0;
  std::size_t size_ = 0;
  std::size_t heads_ = 0;
  std::size_t first_head_ = 0;
  std::size_t heads_per_lane_ = 1;
  std::size_t heads_per_layer_ = 1;
  std::size_t stride_ = 0;                   // the store's capacity
  std::span<const std::uint8_t> protected_;  // (size)
  std::span<const Index> aligned_;           // (lanes of the scope, capacity); empty for a single lane
  std::span<const float> attention_;         // (layers, kv_heads, capacity)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
