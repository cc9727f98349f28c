#include "cache_listener.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <optional>

#include "hadamard.hpp"
#include "rope_node.hpp"
#include "tensor_bytes.hpp"

namespace llama_cpp {
namespace {

ggml_tensor* cache_of(const ggml_tensor& node) noexcept {
  ggml_tensor* root = node.view_src;
  while (root->view_src != nullptr) root = root->view_src;
  return root;
}

/// A product with a square matrix that came into the graph and is none of the model's weights. Names do not
/// tell: what goes to another device has one of the copy's.
bool is_hadamard(const ggml_tensor& node) noexcept {
  if (node.op != GGML_OP_MUL_MAT) return false;
  const ggml_tensor& matrix = *node.src[0];
  return matrix.op == GGML_OP_NONE && matrix.type == GGML_TYPE_F32 && matrix.ne[0] == matrix.ne[1] &&
         matrix.buffer != nullptr &&
         ggml_backend_buffer_get_usage(matrix.buffer) != GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

/// Whether a node's numbers are those of its first source, moved or scaled: not the model's weights times
/// them.
bool passes_on(const ggml_tensor& node) noexcept {
  switch (node.op) {
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    case GGML_OP_CONT:
    case GGML_OP_CPY:
    case GGML_OP_DUP:
    case GGML_OP_PAD:
    case GGML_OP_REPEAT:
    case GGML_OP_SCALE:
    case GGML_OP_MUL:
    case GGML_OP_RMS_NORM:
    case GGML_OP_NORM:
    case GGML_OP_L2_NORM:
    case GGML_OP_SOFT_MAX:
    case GGML_OP_UNARY:
    case GGML_OP_ADD:
      return true;
    default:
      return false;
  }
}

/// The nearest node before `node`, or itself, for which `is` holds, where numbers are only passed on.
template <class Is>
const ggml_tensor* before(const ggml_tensor* node, const Is& is) noexcept {
  while (node != nullptr && !is(*node)) {
    if (is_hadamard(*node))
      node = node->src[1];
    else if (passes_on(*node))
      node = node->src[0];
    else
      return nullptr;
  }
  return node;
}

/// The RoPE before a node, if any, with its first channel among those of the node's rows.
std::optional<infinipot::Rope> rope_before(const ggml_tensor& node) {
  const auto ends = [](const ggml_tensor& n) { return n.op == GGML_OP_ROPE || n.op == GGML_OP_CONCAT; };
  const ggml_tensor* const found = before(&node, ends);
  if (found == nullptr) return std::nullopt;
  if (found->op == GGML_OP_ROPE) return rope_of(*found);
  if (auto rope = rope_before(*found->src[0])) return rope;
  auto rope = rope_before(*found->src[1]);
  if (rope) rope->first_channel += static_cast<std::size_t>(found->src[0]->ne[0]);
  return rope;
}

/// The row of one token: `bytes` of each element, or of all of them.
std::vector<std::byte> stored_row(const ggml_tensor& cache, std::int64_t row, bool transposed) {
  std::vector<std::byte> out(ggml_row_size(cache.type, cache.ne[0]));
  if (!transposed) {
    ggml_backend_tensor_get(&cache, out.data(), static_cast<std::size_t>(row) * cache.nb[1], out.size());
    return out;
  }
  const std::size_t one = ggml_type_size(cache.type);
  for (std::size_t i = 0; i * one < out.size(); ++i)
    ggml_backend_tensor_get(&cache, out.data() + i * one,
                            (static_cast<std::size_t>(row) + i * static_cast<std::size_t>(cache.ne[1])) * one,
                            one);
  return out;
}

}  // namespace

SeenLayer& CacheListener::layer(std::size_t model_layer) {
  const auto at = std::ranges::lower_bound(layers_, model_layer, {}, &SeenLayer::model_layer);
  if (at != layers_.end() && at->model_layer == model_layer) return *at;
  SeenLayer& added = *layers_.emplace(at);
  added.model_layer = model_layer;
  return added;
}

void CacheListener::written(Written what, std::size_t model_layer, const ggml_tensor& node) noexcept {
  SeenLayer& seen = layer(model_layer);
  SeenRows& rows = what == Written::keys ? seen.keys : seen.values;
  const ggml_tensor& from = *node.src[0];
  rows.tensor = cache_of(node);
  rows.transposed = from.ne[0] == 1 && rows.tensor->ne[0] != 1;
  if (from.type != GGML_TYPE_F32) {
    problem_ = "llama.cpp does not write its keys and values from floats";
    return;
  }
  TensorBytes bytes;
  const auto* const computed = reinterpret_cast<const float*>(bytes.read(from));
  rows.computed.assign(computed, computed + rows.tensor->ne[0]);
  const ggml_tensor* const turned = before(&from, is_hadamard);
  rows.hadamard = turned != nullptr ? static_cast<std::size_t>(turned->src[0]->ne[0]) : 0;
  hadamard(rows.computed.data(), rows.computed.size(), rows.hadamard);
  const auto row = *reinterpret_cast<const std::int64_t*>(bytes.read(*node.src[1]));
  rows.stored = stored_row(*rows.tensor, row, rows.transposed);
  if (what == Written::values) return;
  try {
    if (const auto rope = rope_before(from)) seen.rope = *rope;
  } catch (const std::exception& error) {
    problem_ = error.what();
  }
}

bool CacheListener::attention(std::size_t model_layer, const ggml_tensor& node) noexcept {
  SeenLayer& seen = layer(model_layer);
  const ggml_tensor *queries = node.src[0], *keys = node.src[1];
  seen.sinks = node.src[node.op == GGML_OP_SOFT_MAX ? 2 : 4] != nullptr;
  if (node.op == GGML_OP_SOFT_MAX) {
    const ggml_tensor* const scores =
        before(node.src[0], [](const ggml_tensor& n) { return n.op == GGML_OP_MUL_MAT; });
    if (scores == nullptr) {
      problem_ = "attention of layer " + std::to_string(model_layer) + " is no product of queries and keys";
      return true;
    }
    keys = scores->src[0];
    queries = scores->src[1];
  }
  seen.query_heads = static_cast<std::size_t>(queries->ne[2]);
  seen.kv_heads = static_cast<std::size_t>(keys->ne[2]);
  seen.head_dim = static_cast<std::size_t>(keys->ne[0]);
  return true;
}

}  // namespace llama_cpp
