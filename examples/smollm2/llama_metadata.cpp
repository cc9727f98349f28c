#include "llama_metadata.hpp"

#include <algorithm>
#include <array>
#include <optional>

namespace smollm2 {
namespace {

/// Of no consequence to a forward pass, whatever the value.
constexpr std::array<std::string_view, 4> inconsequential{"attention.layer_norm_epsilon", "pooling_type",
                                                          "rope.scaling.finetuned", "tensor_data_layout"};

struct Neutral {
  std::string_view name;
  double value;
};

/// Of no consequence with this value: the feature is off, or what it would be without the key.
constexpr std::array<Neutral, 20> neutral{{{"attention.causal", 1},
                                           {"attention.clamp_kqv", 0},
                                           {"attention.max_alibi_bias", 0},
                                           {"attention.scale", 0},
                                           {"attention.sliding_window", 0},
                                           {"attn_logit_softcapping", 0},
                                           {"embedding_scale", 1},
                                           {"expert_count", 0},
                                           {"expert_shared_count", 0},
                                           {"expert_used_count", 0},
                                           {"final_logit_softcapping", 0},
                                           {"logit_scale", 1},
                                           {"nextn_predict_layers", 0},
                                           {"residual_scale", 1},
                                           {"rope.scaling.alpha", 0},
                                           {"rope.scaling.yarn_beta_fast", 32},
                                           {"rope.scaling.yarn_beta_slow", 1},
                                           {"rope.scaling.yarn_ext_factor", 1},
                                           {"rope.scaling.yarn_log_multiplier", 0},
                                           {"use_parallel_residual", 0}}};

std::optional<double> as_number(const GgufValue& value) {
  if (const auto number = as_float(value)) return *number;
  if (const auto number = as_unsigned(value)) return static_cast<double>(*number);
  if (const auto yes = as_bool(value)) return *yes ? 1 : 0;
  return std::nullopt;
}

}  // namespace

void LlamaMetadata::refuse_unread() const {
  const std::string prefix = key("");
  for (const std::string_view full : file_.keys()) {
    if (!full.starts_with(prefix)) continue;
    const std::string_view name = full.substr(prefix.size());
    if (read_.contains(name) || std::ranges::count(inconsequential, name) > 0) continue;
    const auto* const known = std::ranges::find(neutral, name, &Neutral::name);
    if (known == neutral.end())
      fail_in(file_, "metadata key ", quoted(full), " is not known to this engine", elsewhere);
    const std::optional<double> value = as_number(file_.value(full));
    if (!value)
      fail_in(file_, "metadata key ", quoted(full), ": wanted ", known->value, ", found ",
              describe_type(file_.value(full)));
    if (*value < known->value || *value > known->value || !(*value <= known->value))
      fail_in(file_, "metadata key ", quoted(full), " is ", *value, ", but this engine computes ",
              known->value, " only", elsewhere);
  }
}

}  // namespace smollm2
