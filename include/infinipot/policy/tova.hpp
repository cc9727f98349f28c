// TOVA (arXiv 2401.06104): what the last token attends to, over all heads of a layer.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Attention of the last query, mean over the query heads of a layer; all its heads keep the same tokens,
/// the last one among them. Needs attention.
class Tova {
 public:
  std::string_view name() const noexcept { return "tova"; }
  std::span<const Rule> rules() const noexcept { return rules_; }
  std::size_t window() const noexcept { return 1; }
  std::size_t recent(std::size_t /*keep*/) const noexcept { return 1; }

 private:
  std::array<Rule, 1> rules_{Rule{.scope = Granularity::layer}};
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
