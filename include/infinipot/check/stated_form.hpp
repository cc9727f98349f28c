// What attention_form() says, checked and applied.
#pragma once

#include <cmath>
#include <cstddef>

#include "infinipot/cap/attention_form.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Whether a layer's learned sinks are one for each query head, and numbers.
inline bool check_stated_sinks(const AttentionForm& form, std::size_t layer, const Shape& shape,
                               AdapterReport& report) {
  if (!form.sinks.empty() && form.sinks.size() != shape.query_heads) {
    report.found(Flaw::sinks, "attention_form(", layer, ") has ", form.sinks.size(),
                 " learned sinks; there are ", shape.query_heads, " query heads");
    return false;
  }
  for (const float& sink : form.sinks)
    if (spoils(sink)) {
      report.found(Flaw::sinks, "learned sink ", &sink - form.sinks.data(), " of attention_form(", layer,
                   ") is ", sink, "; it must be finite, or -infinity for none");
      return false;
    }
  return true;
}

/// The attention logit of a key, before bias and softmax.
inline float logit_of(const AttentionForm& form, const float* query, const float* key, std::size_t head_dim) {
  double logit = 0;
  for (std::size_t k = 0; k < head_dim; ++k)
    logit += static_cast<double>(query[k]) * static_cast<double>(key[k]);
  logit *= static_cast<double>(form.scale_for(head_dim));
  const auto cap = static_cast<double>(form.soft_cap);
  return static_cast<float>(cap == 0 ? logit : cap * std::tanh(logit / cap));
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
