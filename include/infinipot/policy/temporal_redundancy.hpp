// Temporal-axis redundancy (InfiniPot-V, arXiv 2506.15745: TaR): what recent frames do not repeat.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// 1 minus the mean cosine between a key and the keys at the same place in the most recent frames, which all
/// stay. If a stream's frames have `period` entries each, such as the patches of a video, an entry's place is
/// its position in the stream modulo `period`; the last frames * period entries hold every place `frames`
/// times. (The authors' code keeps a quarter of the frames as recent ones.) With a period of 1 a key is
/// compared with the last `frames` keys of a text.
///
/// Keys are taken as rotated, as in the authors' code. A key of length 0 has cosine 0, and so has a place
/// that recent frames lack. Recent keys that are not finite are ignored. Needs keys, no attention.
class TemporalRedundancy {
 public:
  /// Throws std::invalid_argument for a period or frames of 0, and if their product is out of range.
  explicit TemporalRedundancy(std::size_t period = 1, std::size_t frames = 64)
      : period_(period), frames_(frames) {
    if (period == 0) detail::invalid("temporal_redundancy period 0 must be at least 1");
    if (frames == 0) detail::invalid("temporal_redundancy frames 0 must be at least 1");
    if (frames > (std::numeric_limits<std::size_t>::max)() / period)
      detail::invalid("temporal_redundancy frames ", frames, " of ", period, " entries are too many");
  }

  std::string_view name() const noexcept { return "temporal_redundancy"; }
  std::size_t recent(std::size_t /*keep*/) const noexcept { return frames_ * period_; }

  std::size_t scratch(const Shape& shape, std::size_t /*capacity*/) const noexcept {
    return period_ * (shape.head_dim + 1);
  }

  void score_entries(const EntryRows& rows, std::span<float> scores) const noexcept {
    const auto d = static_cast<Eigen::Index>(rows.head_dim()), places = static_cast<Eigen::Index>(period_);
    Eigen::Map<Eigen::MatrixXf> directions(rows.scratch().data(), d, places);  // their sum at each place
    Eigen::Map<Eigen::VectorXf> compared(directions.data() + directions.size(), places);
    directions.setZero();
    compared.setZero();
    const auto place = [&](std::size_t t) { return static_cast<Eigen::Index>(rows.position(t) % period_); };
    const std::size_t first = rows.size() - (std::min)(rows.size(), frames_ * period_);
    rows.for_each_key([&](std::size_t t, const float* key) {
      const Eigen::Map<const Eigen::VectorXf> k(key, d);
      const float length = k.norm();
      scores[t] = inverse(length);
      if (t < first || !detail::is_finite(length)) return;
      directions.col(place(t)) += scores[t] * k;
      compared[place(t)] += 1;
    });
    rows.for_each_key([&](std::size_t t, const float* key) {
      const Eigen::Map<const Eigen::VectorXf> k(key, d);
      const float total = scores[t] * k.dot(directions.col(place(t)));
      scores[t] = 1 - total / (std::max)(compared[place(t)], 1.0F);
    });
  }

 private:
  static float inverse(float length) noexcept { return length == 0 ? 0 : 1 / length; }

  std::size_t period_, frames_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
