// The attention that entries received, as a policy watches it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/pot/compact.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Scores of all entries, (layers, kv_heads, capacity), for a policy P: what entries received, or the
/// policy's own scores. What a chunk pays counts only once it is committed. Allocates in the constructor
/// only.
template <class P>
class Received {
  static constexpr Watch watch = watch_of<P>;
  static constexpr bool while_reading = watch == Watch::every_query || watch == Watch::last_queries;

 public:
  Received(const Shape& shape, Granularity granularity, std::size_t capacity)
      : shape_(shape),
        granularity_(granularity),
        capacity_(capacity),
        total_(watch != Watch::nothing ? shape.heads() * capacity : 0),
        chunk_(while_reading ? total_.size() : 0) {}

  /// All of them; empty if the policy watches nothing.
  std::span<const float> scores() const noexcept { return total_; }

  /// (size) scores of one head's entries, for the policy to fill.
  std::span<float> head(std::size_t head, std::size_t size) noexcept {
    return std::span(total_).subspan(head * capacity_, size);
  }

  /// Receives what a chunk pays.
  AttentionScores of_chunk() noexcept { return {chunk_, capacity_}; }

  /// Receives what a probe pays in the first `layers` layers.
  AttentionScores of_probe(Reduce reduce, std::size_t layers) noexcept {
    return {total_, capacity_, reduce, layers};
  }

  /// Counts the chunk just read; there are `size` entries now.
  void commit_chunk(std::size_t size) noexcept {
    if constexpr (!while_reading) return;
    for (std::size_t head = 0; head < shape_.heads(); ++head)
      for (std::size_t t = head * capacity_; t < head * capacity_ + size; ++t) {
        total_[t] += chunk_[t];
        chunk_[t] = 0;
      }
  }

  /// Discards a chunk that failed.
  void drop_chunk() noexcept { std::fill(chunk_.begin(), chunk_.end(), 0.0F); }

  /// Before a distillation's first probe.
  void begin_probes() noexcept {
    if (!carries_attention<P>) clear();
  }

  /// After a distillation of `before` entries: kept ones take along what they received so far; what the last
  /// queries paid is spent.
  void carry(const Selection& kept, std::size_t before) noexcept {
    if constexpr (watch == Watch::last_queries) clear();
    if constexpr (watch == Watch::every_query || carries_attention<P>)
      for (std::size_t i = 0; i < shape_.heads(); ++i) {
        const auto row = head(i, before);
        compact(row, kept.lane(i / shape_.heads_per_lane(granularity_)));
        std::ranges::fill(row.subspan(kept.keep()), 0.0F);
      }
  }

  void clear() noexcept { std::fill(total_.begin(), total_.end(), 0.0F); }

 private:
  Shape shape_;
  Granularity granularity_;
  std::size_t capacity_;
  std::vector<float> total_;  // (layers, kv_heads, capacity)
  std::vector<float> chunk_;  // the same, of a chunk that may still fail
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
