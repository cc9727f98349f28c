#include "graph_tap.hpp"

#include <charconv>
#include <string_view>

namespace llama_cpp {
namespace {

/// The number after `prefix` in a name such as kq_soft_max-12 or cache_k_l12; nothing for other names.
std::optional<std::size_t> layer_of(std::string_view name, std::string_view prefix) noexcept {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::size_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || end == name.data()) return std::nullopt;
  return layer;
}

/// The layer whose keys a tensor holds or views.
std::optional<std::size_t> layer_of_keys(const ggml_tensor& tensor) noexcept {
  const ggml_tensor& root = tensor.view_src != nullptr ? *tensor.view_src : tensor;
  return layer_of(root.name, "cache_k_l");
}

/// The layer whose keys a node writes to the cache.
std::optional<std::size_t> layer_of_written_keys(const ggml_tensor& node) noexcept {
  if (node.op != GGML_OP_SET_ROWS || node.src[1]->type != GGML_TYPE_I64) return std::nullopt;
  return layer_of_keys(node);
}

/// The layer of whose attention a node is the softmax or the whole.
std::optional<std::size_t> layer_of_attention(const ggml_tensor& node) noexcept {
  if (node.op == GGML_OP_SOFT_MAX) return layer_of(node.name, "kq_soft_max-");
  if (node.op == GGML_OP_FLASH_ATTN_EXT) return layer_of_keys(*node.src[1]);
  return std::nullopt;
}

}  // namespace

bool GraphTap::wants(const ggml_tensor& node) noexcept {
  if (listener_ == nullptr) return false;
  if (const auto layer = layer_of_written_keys(node)) {
    // The rows to write are an input of the graph, so they are known before anything is computed.
    if (*layer == 0) {
      const ggml_tensor& rows = *node.src[1];
      const auto* const cells = reinterpret_cast<const std::int64_t*>(bytes_.read(rows));
      listener_->cells({cells, static_cast<std::size_t>(rows.ne[0])});
    }
    return listener_->wants_keys();
  }
  if (!layer_of_attention(node)) return false;
  shows_ = node.op == GGML_OP_SOFT_MAX ? Shows::probabilities : Shows::queries;
  return listener_->wants_attention();
}

bool GraphTap::take(const ggml_tensor& node) noexcept {
  if (listener_ == nullptr) return true;
  if (const auto layer = layer_of_attention(node)) return listener_->attention(*layer, node);
  if (const auto layer = layer_of_written_keys(node)) listener_->keys(*layer, node);
  return true;
}

}  // namespace llama_cpp
