// SirLLM (arXiv 2405.12528): token entropy, fading with every distillation.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// -log p(token) * decay^(distillations survived). Needs logits of every token, no attention.
class SirLlm {
 public:
  /// decay in (0, 1]; 1 never forgets. Throws std::invalid_argument outside.
  explicit SirLlm(double decay = 0.9) : decay_(decay) {
    if (detail::is_nan(decay) || decay <= 0 || decay > 1)
      detail::invalid("sirllm decay ", decay, " is out of range (0, 1]");
  }

  std::string_view name() const noexcept { return "sirllm"; }
  bool uses_nuc() const noexcept { return true; }

  void score(std::size_t /*rule*/, const ScoreView& view, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < view.size(); ++t)
      scores[t] = static_cast<float>(view.nuc(t) * std::pow(decay_, view.survived(t)));
  }

 private:
  double decay_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
