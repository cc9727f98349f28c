// What a policy sees of the entries that it scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "infinipot/entries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/top_k.hpp"

namespace infinipot {

/// How the CaP scores of several kv heads become the one score of a lane.
enum class Aggregate : std::uint8_t {
  sum,   ///< the paper
  max,   ///< the largest share: a head's scores divided by their sum over the unprotected entries
  peak,  ///< the largest score itself
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

  /// Number of (layer, kv head) pairs, which are the pairs first_head() .. of arrays (layers, kv_heads).
  std::size_t heads() const noexcept { return heads_; }
  std::size_t first_head() const noexcept { return first_head_; }

  /// How many of these belong to the model's first so many layers.
  std::size_t heads_below(std::size_t layers) const noexcept {
    const std::size_t below = layers * heads_per_layer_;
    return std::min(below - std::min(below, first_head_), heads_);
  }

  /// Index of entry t in the store, for one of the heads.
  std::size_t index(std::size_t head, std::size_t t) const noexcept {
    if (aligned_.empty()) return begin_ + t;
    return aligned_[head / heads_per_lane_ * stride_ + t];
  }

  /// The attention that entry t received in one of the heads, as the policy's watch asked for.
  float attention(std::size_t head, std::size_t t) const noexcept {
    return attention_[(first_head_ + head) * stride_ + index(head, t)];
  }

  /// Fills scores with the attention of all heads, aggregated.
  void aggregate_attention(Aggregate aggregate, std::span<float> scores) const noexcept {
    aggregate_attention(aggregate, heads_, scores);
  }

  /// The same of the first so many heads alone, at most heads().
  void aggregate_attention(Aggregate aggregate, std::size_t heads, std::span<float> scores) const noexcept {
    std::fill(scores.begin(), scores.end(),
              aggregate == Aggregate::peak ? std::numeric_limits<float>::lowest() : 0.0F);
    for (std::size_t head = 0; head < heads; ++head) {
      if (aggregate == Aggregate::sum)
        for (std::size_t t = 0; t < size_; ++t) scores[t] += attention(head, t);
      else if (aggregate == Aggregate::peak)
        for (std::size_t t = 0; t < size_; ++t) raise(scores[t], attention(head, t));
      else
        raise_to_share(head, scores);
    }
  }

 private:
  friend class Selector;

  std::size_t record(std::size_t t) const noexcept { return index(0, t) - begin_; }

  static void raise(float& score, float to) noexcept {
    if (to > score || is_nan(to)) score = to;
  }

  /// NaN goes through to its own entry, to be reported, and spoils no other.
  void raise_to_share(std::size_t head, std::span<float> scores) const noexcept {
    float total = 0;
    for (std::size_t t = 0; t < size_; ++t)
      if (!is_protected(t) && !is_nan(attention(head, t))) total += attention(head, t);
    for (std::size_t t = 0; t < size_; ++t) {
      const float received = attention(head, t);
      if (is_nan(received))
        scores[t] = received;
      else if (total > 0 && received / total > scores[t])
        scores[t] = received / total;
    }
  }

  const EntryTable* table_ = nullptr;
  std::size_t first_lane_ = 0;
  std::size_t begin_ = 0;  // index of that lane's first entry
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

}  // namespace infinipot
