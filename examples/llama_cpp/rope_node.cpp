#include "rope_node.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "tensor_bytes.hpp"

namespace llama_cpp {
namespace {

/// op_params of GGML_OP_ROPE.
struct Parameters {
  std::int32_t past, turned, mode, context, original_context;
  float base, scale, extrapolation, attention_factor, fast, slow;
  std::int32_t sections[4], first_channel;
};

/// The pair that turns `turns` times in the original context (YaRN).
double pair_of(const Parameters& p, double turns) {
  return p.turned * std::log(p.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(p.base));
}

/// How much of a pair's frequency stays as it is (YaRN): 1 for fast pairs, 0 for slow ones.
double share_kept(const Parameters& p, std::size_t pair) {
  if (p.extrapolation == 0) return 0;
  const double first = std::max(0.0, std::floor(pair_of(p, p.fast))),
               last = std::min(p.turned - 1.0, std::ceil(pair_of(p, p.slow)));
  const double along = (static_cast<double>(pair) - first) / std::max(0.001, last - first);
  return (1 - std::clamp(along, 0.0, 1.0)) * p.extrapolation;
}

/// Whether a pair turns by M-RoPE's fourth position, which is always 0 in text.
bool stands_still(const Parameters& p, std::size_t pair) {
  if ((p.mode & GGML_ROPE_TYPE_MROPE) == 0) return false;
  const std::int32_t *of = p.sections, all = of[0] + of[1] + of[2] + of[3];
  const std::int32_t at = static_cast<std::int32_t>(pair) % all;
  if (p.mode == GGML_ROPE_TYPE_IMROPE) return at >= 3 * of[at % 3];
  return at >= of[0] + of[1] + of[2];
}

}  // namespace

infinipot::Rope rope_of(const ggml_tensor& node) {
  Parameters p{};
  static_assert(sizeof p == 16 * sizeof(std::int32_t));
  std::memcpy(&p, node.op_params, sizeof p);
  if (p.mode == GGML_ROPE_TYPE_VISION)
    throw std::invalid_argument("llama.cpp pot: keys are turned as those of images are");
  std::vector<float> factors;
  if (const ggml_tensor* const given = node.src[2]) {
    factors.resize(static_cast<std::size_t>(given->ne[0]));
    ggml_backend_tensor_get(given, factors.data(), 0, factors.size() * sizeof(float));
  }
  infinipot::Rope rope;
  rope.first_channel = static_cast<std::size_t>(p.first_channel);
  rope.pairing =
      p.mode == GGML_ROPE_TYPE_NORMAL ? infinipot::Pairing::interleaved : infinipot::Pairing::half_split;
  for (std::size_t pair = 0; pair < static_cast<std::size_t>(p.turned) / 2; ++pair) {
    const double plain = std::pow(static_cast<double>(p.base), -2.0 * static_cast<double>(pair) / p.turned) /
                         (factors.empty() ? 1.0 : static_cast<double>(factors[pair]));
    const double kept = share_kept(p, pair);
    rope.frequencies.push_back(stands_still(p, pair) ? 0 : plain * (kept + p.scale * (1 - kept)));
  }
  rope.attention_factor = p.attention_factor;
  if (p.extrapolation != 0) rope.attention_factor *= 1 + 0.1 * std::log(1 / p.scale);
  return rope;
}

}  // namespace llama_cpp
