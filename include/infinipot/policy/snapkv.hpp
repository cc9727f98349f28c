// SnapKV (arXiv 2404.14469): what the last w tokens attend to, pooled over neighbours.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Attention of the last `window` queries, summed, mean-pooled; the window itself stays. Needs attention.
class SnapKv {
 public:
  /// Throws std::invalid_argument for a window of 0 or an even kernel.
  explicit SnapKv(std::size_t window = 64, std::size_t kernel = 5) : window_(window) {
    if (window == 0) detail::invalid("snapkv window 0 must be at least 1");
    rules_[0].smoothing = {Pooling::mean, kernel};
    rules_[0].smoothing.validate();
  }

  std::string_view name() const noexcept { return "snapkv"; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  std::size_t window() const noexcept { return window_; }
  std::size_t recent(std::size_t /*keep*/) const noexcept { return window_; }

 private:
  std::size_t window_;
  std::array<Rule, 1> rules_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
