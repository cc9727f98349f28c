#include "shown_attention.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "hadamard.hpp"

namespace llama_cpp {
namespace {

constexpr const char* unexpected_sinks = "its attention has sinks of an unexpected shape";

/// What GGML_OP_FLASH_ATTN_EXT keeps in its op_params.
struct FlashParameters {
  float scale, max_bias, soft_cap;
};

FlashParameters parameters_of(const ggml_tensor& node) noexcept {
  FlashParameters parameters{};
  std::memcpy(&parameters, node.op_params, sizeof parameters);
  return parameters;
}

/// Whether a tensor holds floats of this shape for a sequence's part.
bool is(const ggml_tensor& tensor, std::int64_t width, std::size_t heads, const ShownPart& part) noexcept {
  return tensor.type == GGML_TYPE_F32 && tensor.ne[0] == width &&
         tensor.ne[1] == static_cast<std::int64_t>(part.count) &&
         tensor.ne[2] == static_cast<std::int64_t>(heads) &&
         tensor.ne[3] > static_cast<std::int64_t>(part.part);
}

}  // namespace

bool ShownAttention::learn(const ggml_tensor* sinks, std::size_t layer) {
  if (sinks == nullptr || !sinks_[layer].empty()) return true;
  const std::size_t heads = cache_.shape().query_heads;
  if (sinks->type != GGML_TYPE_F32 || ggml_nelements(sinks) != static_cast<std::int64_t>(heads)) return false;
  sinks_[layer].resize(heads);
  ggml_backend_tensor_get(sinks, sinks_[layer].data(), 0, heads * sizeof(float));
  return true;
}

const char* ShownAttention::probabilities(const ggml_tensor& node, std::size_t layer, const ShownPart& part,
                                          infinipot::AttentionSink& sink) {
  const std::size_t heads = cache_.shape().query_heads;
  if (!is(node, node.ne[0], heads, part) || node.ne[0] < static_cast<std::int64_t>(part.first + part.count))
    return "its attention probabilities have an unexpected shape";
  if (!learn(node.src[2], layer)) return unexpected_sinks;
  forms_[layer].sinks = sinks_[layer];
  const std::byte* const bytes = bytes_.read(node) + part.part * node.nb[3];
  for (std::size_t head = 0; head < heads; ++head)
    for (std::size_t token = 0; token < part.count; ++token) {
      const auto* const paid = reinterpret_cast<const float*>(bytes + token * node.nb[1] + head * node.nb[2]);
      sink.row(layer, head, part.before + token, {paid, part.first + token + 1});
    }
  return nullptr;
}

const char* ShownAttention::queries(const ggml_tensor& node, std::size_t layer, const ShownPart& part,
                                    infinipot::QuerySink& sink) {
  const infinipot::Shape& shape = cache_.shape();
  const ggml_tensor& queries = *node.src[0];
  const FlashParameters parameters = parameters_of(node);
  if (parameters.max_bias != 0) return "its attention has ALiBi, which is seen only without flash attention";
  if (!is(queries, static_cast<std::int64_t>(shape.head_dim), shape.query_heads, part))
    return "its queries have an unexpected shape";
  if (!learn(node.src[4], layer)) return unexpected_sinks;
  forms_[layer] = {.scale = parameters.scale, .soft_cap = parameters.soft_cap, .sinks = sinks_[layer]};
  const auto* const data = reinterpret_cast<const float*>(bytes_.read(queries) + part.part * queries.nb[3]);
  const auto stride = [&](int axis) { return static_cast<std::ptrdiff_t>(queries.nb[axis] / sizeof(float)); };
  infinipot::Queries shown{data, part.count, stride(1), stride(2)};
  if (const std::size_t block = cache_.keys().hadamard; block != 0) {
    unrotated_.resize(part.count * shape.query_heads * shape.head_dim);
    float* out = unrotated_.data();
    for (std::size_t token = 0; token < part.count; ++token)
      for (std::size_t head = 0; head < shape.query_heads; ++head, out += shape.head_dim) {
        std::copy_n(shown.at(token, head), shape.head_dim, out);
        hadamard(out, shape.head_dim, block);
      }
    shown = infinipot::contiguous_queries(unrotated_.data(), part.count, shape);
  }
  sink.layer(layer, shown);
  return nullptr;
}

}  // namespace llama_cpp
