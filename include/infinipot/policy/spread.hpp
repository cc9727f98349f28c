// Stretches of a text, spread evenly over all of it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// For what is asked about the whole text, such as a summary, where attention points nowhere. The text is cut
/// into stretches of as many tokens; every second one goes first, then every second one of those left, and so
/// on: however long the text becomes, what is left is spread evenly over it. Of stretches that go together the
/// earlier go first. Needs nothing but forward().
class Spread {
 public:
  /// Throws std::invalid_argument for a stretch of 0 tokens.
  explicit Spread(std::size_t stretch = 256) : stretch_(stretch) {
    if (stretch == 0) detail::invalid("spread stretch 0 must be at least 1");
  }

  std::string_view name() const noexcept { return "spread"; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    const auto size = static_cast<float>(view.size());
    for (std::size_t t = 0; t < view.size(); ++t) {
      const int halvings = std::countr_zero(view.position(t) / stretch_);  // that it outlives; all if the first
      scores[t] = static_cast<float>(halvings) + static_cast<float>(t) / size;
    }
  }

 private:
  std::uint64_t stretch_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
