// The L2 norm of values (InfiniPot-V, arXiv 2506.15745: VaN): large values change the output.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// |value|. Needs values, no attention.
class ValueNorm {
 public:
  static constexpr bool reads_values = true;

  std::string_view name() const noexcept { return "value_norm"; }

  void score_entries(const EntryRows& rows, std::span<float> scores) const noexcept {
    const auto d = static_cast<Eigen::Index>(rows.value_channels());
    rows.for_each_value([&](std::size_t t, const float* value) {
      scores[t] = Eigen::Map<const Eigen::VectorXf>(value, d).norm();
    });
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
