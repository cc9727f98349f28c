// H2O (arXiv 2306.14048): heavy hitters, by the attention received so far, and as many recent tokens.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Attention summed over all queries since an entry was read; half of what stays is the most recent. Needs
/// attention of every token.
class H2o {
 public:
  static constexpr Watch watch = Watch::every_query;

  std::string_view name() const noexcept { return "h2o"; }
  std::size_t recent(std::size_t keep) const noexcept { return keep / 2; }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
