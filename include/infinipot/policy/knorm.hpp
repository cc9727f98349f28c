// The L2 norm of keys (arXiv 2406.11430): small ones draw attention.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// -|key|. Needs keys, no attention.
class KNorm {
 public:
  std::string_view name() const noexcept { return "knorm"; }

  void score_entries(const EntryRows& rows, std::span<float> scores) const noexcept {
    const auto d = static_cast<Eigen::Index>(rows.head_dim());
    rows.for_each_key([&](std::size_t t, const float* key) {
      scores[t] = -Eigen::Map<const Eigen::VectorXf>(key, d).norm();
    });
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
