#include "llama_rope.hpp"

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "dequantize.hpp"
#include "infinipot/rope/rope_scaling.hpp"

namespace smollm2 {
namespace {

using infinipot::Pairing;
using infinipot::Rope;

struct Scaling {
  std::string_view type;
  double factor;
  double attention_factor;
  std::size_t original_context;
};

Scaling read_scaling(LlamaMetadata& read, std::size_t context_length) {
  constexpr std::string_view type = "rope.scaling.type", factor = "rope.scaling.factor",
                             old_factor = "rope.scale_linear", attention = "rope.scaling.attn_factor";
  Scaling s{};
  s.type = read.text(type, "linear");
  read.require(s.type == "none" || s.type == "linear" || s.type == "yarn" || s.type == "longrope", type,
               quoted(s.type), "'none', 'linear', 'yarn' or 'longrope'", elsewhere);
  const float older = read.number(old_factor, 0), newer = read.number(factor, older);
  s.factor = newer == 0 ? 1 : static_cast<double>(newer);  // 0 is without a factor
  read.require(std::isfinite(s.factor) && s.factor >= 1, read.has(factor) ? factor : old_factor, s.factor,
               "0 or at least 1");
  // llama.cpp would divide the frequencies, Hugging Face makes an attention factor of it.
  if (s.type == "longrope") read.require(s.factor <= 1, factor, s.factor, "1 where the type is 'longrope'");
  if (s.type == "none") s.factor = 1;
  s.attention_factor = static_cast<double>(read.number(attention, 1));
  read.require(std::isfinite(s.attention_factor) && s.attention_factor > 0, attention, s.attention_factor,
               "above 0");
  s.original_context = read.size("rope.scaling.original_context_length", 1U << 30, context_length);
  return s;
}

/// A divisor for each of `pairs` frequencies.
std::vector<double> read_divisors(const GgufFile& file, std::string_view name, std::size_t pairs) {
  const GgufTensor& tensor = file.tensor(name);
  if (tensor.columns() != pairs || tensor.rows() != 1)
    fail_in(file, "tensor ", quoted(name), ": shape ", tensor.rows(), " x ", tensor.columns(),
            ", but RoPE turns ", pairs, " pairs");
  if (tensor.type != GgmlType::f32) fail_in(file, "tensor ", quoted(name), ": its type must be F32");
  std::vector<float> numbers(pairs);
  dequantize(tensor.type, tensor.data, numbers);
  for (const float number : numbers)
    if (!std::isfinite(number) || number <= 0)
      fail_in(file, "tensor ", quoted(name), ": divisor ", number, " is not a positive number");
  return {numbers.begin(), numbers.end()};
}

void refuse_tensor(const GgufFile& file, std::string_view name, std::string_view type) {
  if (file.has_tensor(name))
    fail_in(file, "tensor ", quoted(name), " does not go with RoPE scaling of type ", quoted(type),
            elsewhere);
}

/// None, linear, YaRN, and any of them with Llama 3's divisors.
Rope read_rope(const GgufFile& file, const Scaling& s, std::size_t rotary_dim, double theta,
               Pairing pairing) {
  const std::string_view divisors = LlamaRope::tensors[0];
  for (const std::string_view name : LlamaRope::tensors)
    if (name != divisors) refuse_tensor(file, name, s.type);
  Rope rope = s.type == "yarn" ? infinipot::yarn_rope(
                                     rotary_dim, theta,
                                     {.factor = s.factor, .original_context = s.original_context}, pairing)
                               : infinipot::linear_rope(rotary_dim, theta, {s.factor}, pairing);
  rope.attention_factor *= s.attention_factor;
  if (!file.has_tensor(divisors)) return rope;
  const std::vector<double> by = read_divisors(file, divisors, rope.frequencies.size());
  for (std::size_t i = 0; i < by.size(); ++i) rope.frequencies[i] /= by[i];
  return rope;
}

Rope read_long_rope(const GgufFile& file, const Scaling& s, std::size_t rotary_dim, double theta,
                    Pairing pairing, std::string_view factors) {
  return infinipot::long_rope(rotary_dim, theta,
                              {.factors = read_divisors(file, factors, rotary_dim / 2),
                               .original_context = s.original_context,
                               .attention_factor = s.attention_factor},
                              pairing);
}

}  // namespace

LlamaRope LlamaRope::from(LlamaMetadata& read, std::size_t head_dim, std::size_t context_length,
                          Pairing pairing) {
  const std::size_t rotary_dim = read.size("rope.dimension_count", head_dim, head_dim);
  read.require(rotary_dim % 2 == 0, "rope.dimension_count", rotary_dim, "even");
  const auto theta = static_cast<double>(read.number("rope.freq_base", 10000));
  read.require(std::isfinite(theta) && theta > 0, "rope.freq_base", theta, "above 0");
  const Scaling scaling = read_scaling(read, context_length);
  const GgufFile& file = read.file();
  LlamaRope rope;
  rope.original_context_ = scaling.original_context;
  try {
    if (scaling.type == "longrope") {
      refuse_tensor(file, tensors[0], scaling.type);
      rope.short_ = read_long_rope(file, scaling, rotary_dim, theta, pairing, tensors[1]);
      rope.long_ = read_long_rope(file, scaling, rotary_dim, theta, pairing, tensors[2]);
    } else {
      rope.short_ = rope.long_ = read_rope(file, scaling, rotary_dim, theta, pairing);
    }
    rope.short_.validate(head_dim);
    rope.long_.validate(head_dim);
  } catch (const std::invalid_argument& error) {
    fail_in(file, error.what());
  }
  return rope;
}

}  // namespace smollm2
