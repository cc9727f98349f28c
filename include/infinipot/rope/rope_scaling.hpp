// RoPE frequency tables of models whose context was extended: linear, NTK-aware, YaRN, Llama 3, LongRoPE.
//
// Each function returns the model's Rope in double precision. `rotary_dim`, `theta` and `pairing` are those
// of plain_rope. All throw std::invalid_argument for parameters out of range.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Position interpolation (arXiv 2306.15595): positions are divided by the factor.
struct LinearScaling {
  double factor = 1;  ///< how much longer the context became; at least 1
};

/// NTK-aware scaling (arXiv 2309.00071, section 3.1): theta grows so that the slowest pair slows down by the
/// factor and the fastest not at all. With factor = length / trained length, this is also what Hugging Face's
/// "dynamic" scaling applies to a text of that length.
struct NtkScaling {
  double factor = 1;  ///< how much longer the context became; at least 1
};

/// YaRN (arXiv 2309.00071, section 3.2), with the options of Hugging Face's "yarn" (modeling_rope_utils.py).
/// Pairs that turn often within the trained context keep their frequency, those that seldom turn are divided
/// by the factor, and a linear ramp joins the two.
struct YarnScaling {
  double factor = 1;                    ///< how much longer the context became; at least 1
  std::size_t original_context = 4096;  ///< trained context, tokens; at least 1
  double beta_fast = 32;  ///< turns per trained context above which a pair keeps its frequency; > beta_slow
  double beta_slow = 1;   ///< turns per trained context below which it is divided; above 0
  double mscale = 0;      ///< numerator of the attention factor (DeepSeek); at least 0, 0 is unset
  double mscale_all_dim = 0;    ///< its denominator; at least 0, 0 is unset: both are used or neither
  double attention_factor = 0;  ///< factor on rotated queries and keys; above 0, or 0 to derive it
  bool truncate = true;         ///< whether the ends of the ramp are rounded outward to whole pairs
};

/// Llama 3.1 (arXiv 2407.21783; Hugging Face's "llama3").
struct Llama3Scaling {
  double factor = 8;                    ///< divisor of slow pairs; at least 1
  double low_freq_factor = 1;           ///< turns per trained context below which a pair is divided; above 0
  double high_freq_factor = 4;          ///< turns above which it keeps its frequency; > low_freq_factor
  std::size_t original_context = 8192;  ///< trained context, tokens; at least 1
};

/// LongRoPE (arXiv 2402.13753; Hugging Face's "longrope"). A model ships two tables of factors, for texts up
/// to the trained context and for longer ones; a pot's Rope takes the one that the engine runs with.
struct LongRopeScaling {
  std::vector<double> factors;          ///< (rotary_dim / 2) divisors, one per pair; each above 0
  double factor = 1;                    ///< how much longer the context became; above 0, no effect up to 1
  std::size_t original_context = 4096;  ///< trained context, tokens; at least 2
  double attention_factor = 0;          ///< factor on rotated queries and keys; above 0, or 0 to derive it
};

namespace detail {

inline void require_rope(bool valid, const char* name, const double& value, const char* range) {
  if (!valid || !is_finite(value)) invalid("RoPE ", name, " ", value, " is out of range: it must be ", range);
}

inline void require_factor(double factor) {
  require_rope(factor >= 1, "scaling factor", factor, "finite and at least 1");
}

inline void require_context(std::size_t context, std::size_t least) {
  if (context < least)
    invalid("RoPE original_context ", context, " is out of range: it must be at least ", least);
}

inline void require_derivable(double attention_factor) {
  require_rope(attention_factor >= 0, "attention_factor", attention_factor,
               "finite and above 0, or 0 to derive it");
}

inline void validate(const YarnScaling& scaling, double theta) {
  require_factor(scaling.factor);
  require_context(scaling.original_context, 1);
  require_rope(scaling.beta_slow > 0, "beta_slow", scaling.beta_slow, "finite and above 0");
  require_rope(scaling.beta_fast > scaling.beta_slow, "beta_fast", scaling.beta_fast,
               "finite and above beta_slow");
  require_rope(scaling.mscale >= 0, "mscale", scaling.mscale, "finite and at least 0");
  require_rope(scaling.mscale_all_dim >= 0, "mscale_all_dim", scaling.mscale_all_dim,
               "finite and at least 0");
  require_derivable(scaling.attention_factor);
  require_rope(theta > 1, "theta", theta, "finite and above 1 for YaRN");
}

/// The pair, as a real number, that turns `turns` times within `context` tokens.
inline double pair_turning(double turns, std::size_t rotary_dim, double theta, std::size_t context) {
  const double tokens_per_radian = static_cast<double>(context) / (turns * 2 * std::numbers::pi);
  return static_cast<double>(rotary_dim) * std::log(tokens_per_radian) / (2 * std::log(theta));
}

inline double yarn_attention_factor(const YarnScaling& scaling) {
  if (scaling.attention_factor > 0) return scaling.attention_factor;
  const auto length = [&](double mscale) { return 0.1 * mscale * std::log(scaling.factor) + 1; };
  const bool deepseek = scaling.mscale > 0 && scaling.mscale_all_dim > 0;
  return deepseek ? length(scaling.mscale) / length(scaling.mscale_all_dim) : length(1);
}

}  // namespace detail

inline Rope linear_rope(std::size_t rotary_dim, double theta, const LinearScaling& scaling,
                        Pairing pairing = Pairing::half_split) {
  detail::require_factor(scaling.factor);
  Rope rope = plain_rope(rotary_dim, theta, pairing);
  for (double& frequency : rope.frequencies) frequency /= scaling.factor;
  return rope;
}

inline Rope ntk_rope(std::size_t rotary_dim, double theta, const NtkScaling& scaling,
                     Pairing pairing = Pairing::half_split) {
  detail::require_factor(scaling.factor);
  if (rotary_dim <= 2) return plain_rope(rotary_dim, theta, pairing);  // the fastest pair is all there is
  const auto r = static_cast<double>(rotary_dim);
  return plain_rope(rotary_dim, theta * std::pow(scaling.factor, r / (r - 2)), pairing);
}

inline Rope yarn_rope(std::size_t rotary_dim, double theta, const YarnScaling& scaling,
                      Pairing pairing = Pairing::half_split) {
  detail::validate(scaling, theta);
  Rope rope = plain_rope(rotary_dim, theta, pairing);
  double first = detail::pair_turning(scaling.beta_fast, rotary_dim, theta, scaling.original_context);
  double last = detail::pair_turning(scaling.beta_slow, rotary_dim, theta, scaling.original_context);
  if (scaling.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = (std::max)(first, 0.0);
  last = (std::min)(last, static_cast<double>(rotary_dim) - 1);
  last = (std::max)(last, first + 0.001);  // a ramp of no length is a step
  for (std::size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double divided = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    rope.frequencies[i] *= (1 - divided) + divided / scaling.factor;
  }
  rope.attention_factor = detail::yarn_attention_factor(scaling);
  return rope;
}

inline Rope llama3_rope(std::size_t rotary_dim, double theta, const Llama3Scaling& scaling,
                        Pairing pairing = Pairing::half_split) {
  detail::require_factor(scaling.factor);
  detail::require_context(scaling.original_context, 1);
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
  detail::require_rope(low > 0, "low_freq_factor", low, "finite and above 0");
  detail::require_rope(high > low, "high_freq_factor", high, "finite and above low_freq_factor");
  Rope rope = plain_rope(rotary_dim, theta, pairing);
  for (double& frequency : rope.frequencies) {
    const double turns = static_cast<double>(scaling.original_context) * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    frequency *= kept + (1 - kept) / scaling.factor;
  }
  return rope;
}

inline Rope long_rope(std::size_t rotary_dim, double theta, const LongRopeScaling& scaling,
                      Pairing pairing = Pairing::half_split) {
  detail::require_rope(scaling.factor > 0, "scaling factor", scaling.factor, "finite and above 0");
  detail::require_context(scaling.original_context, 2);
  detail::require_derivable(scaling.attention_factor);
  Rope rope = plain_rope(rotary_dim, theta, pairing);
  if (scaling.factors.size() != rope.frequencies.size())
    detail::invalid("LongRoPE has ", scaling.factors.size(), " factors; rotary_dim ", rotary_dim, " needs ",
                    rope.frequencies.size());
  for (std::size_t i = 0; i < rope.frequencies.size(); ++i) {
    detail::require_rope(scaling.factors[i] > 0, "factor of a pair", scaling.factors[i],
                         "finite and above 0");
    rope.frequencies[i] /= scaling.factors[i];
  }
  if (scaling.attention_factor > 0)
    rope.attention_factor = scaling.attention_factor;
  else if (scaling.factor > 1)
    rope.attention_factor =
        std::sqrt(1 + std::log(scaling.factor) / std::log(static_cast<double>(scaling.original_context)));
  return rope;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
