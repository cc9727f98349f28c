// The attention that entries received, as a policy watches it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
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
/// policy's own scores. What a chunk pays counts only once it is committed, and what probes pay on top of
/// what entries carry only once their distillation is. Allocates in the constructor only.
template <class P>
class Received {
  static constexpr Watch watch = watch_of<P>;
  static constexpr bool while_reading = watch == Watch::every_query || watch == Watch::last_queries;
  static constexpr bool carries = carries_attention<P>;

 public:
  /// Whether entries take what they received along to later distillations.
  static constexpr bool lasts = watch == Watch::every_query || carries;

  Received(const Shape& shape, Granularity granularity, std::size_t capacity)
      : shape_(shape),
        granularity_(granularity),
        capacity_(capacity),
        total_(watch != Watch::nothing ? shape.heads() * capacity : 0),
        staged_(while_reading || carries ? total_.size() : 0) {}

  /// All that a distillation goes by; empty if the policy watches nothing.
  std::span<const float> scores() const noexcept { return carries ? staged_ : total_; }

  /// (size) scores of one head's entries, for the policy to fill.
  std::span<float> head(std::size_t head, std::size_t size) noexcept {
    return std::span(total_).subspan(head * capacity_, size);
  }

  /// Receives what a chunk pays.
  AttentionScores of_chunk() noexcept { return {staged_, capacity_}; }

  /// Receives what a probe pays in the first `layers` layers.
  AttentionScores of_probe(Reduce reduce, std::size_t layers) noexcept {
    return {carries ? staged_ : total_, capacity_, reduce, layers};
  }

  /// Counts the chunk just read; there are `size` entries now.
  void commit_chunk(std::size_t size) noexcept {
    if constexpr (!while_reading) return;
    for (std::size_t head = 0; head < shape_.heads(); ++head)
      for (std::size_t t = head * capacity_; t < head * capacity_ + size; ++t) {
        total_[t] += staged_[t];
        staged_[t] = 0;
      }
  }

  /// Discards a chunk that failed.
  void drop_chunk() noexcept {
    if constexpr (while_reading) std::ranges::fill(staged_, 0.0F);
  }

  /// Before a distillation's first probe.
  void begin_probes() noexcept {
    if constexpr (carries)
      std::ranges::copy(total_, staged_.begin());
    else
      clear();
  }

  /// After a distillation of `before` entries: kept ones take along what they received so far; what the last
  /// queries paid is spent.
  void carry(const Selection& kept, std::size_t before) noexcept {
    if constexpr (watch == Watch::last_queries) clear();
    if constexpr (carries) std::swap(total_, staged_);
    if constexpr (lasts)
      for (std::size_t i = 0; i < shape_.heads(); ++i) {
        compact(head(i, before), kept.lane(i / shape_.heads_per_lane(granularity_)));
        std::ranges::fill(head(i, capacity_).subspan(kept.keep()), 0.0F);
      }
  }

  void clear() noexcept { std::ranges::fill(total_, 0.0F); }

  /// (layers, kv_heads, size) what entries received so far, if that lasts.
  std::vector<float> saved(std::size_t size) const {
    std::vector<float> all;
    if constexpr (lasts)
      for (std::size_t i = 0; i < shape_.heads(); ++i) {
        const auto row = std::span(total_).subspan(i * capacity_, size);
        all.insert(all.end(), row.begin(), row.end());
      }
    return all;
  }

  /// Takes it back, for all heads.
  void restore(std::span<const float> saved) noexcept {
    clear();
    const std::size_t size = saved.size() / shape_.heads();
    for (std::size_t i = 0; i < shape_.heads() && size > 0; ++i)
      std::ranges::copy(saved.subspan(i * size, size), head(i, size).begin());
  }

 private:
  Shape shape_;
  Granularity granularity_;
  std::size_t capacity_;
  std::vector<float> total_;   // (layers, kv_heads, capacity)
  std::vector<float> staged_;  // the same, of a chunk or of probes that may still fail
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
