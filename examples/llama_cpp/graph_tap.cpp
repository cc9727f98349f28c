#include "graph_tap.hpp"

#include <charconv>
#include <stdexcept>
#include <string_view>

#include "cache.hpp"
#include "find_cache.hpp"

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

struct Write {
  Written what;
  std::size_t layer;
};

/// What a node writes to the cache, if anything.
std::optional<Write> write_of(const ggml_tensor& node) noexcept {
  if (node.op != GGML_OP_SET_ROWS || node.src[1]->type != GGML_TYPE_I64) return std::nullopt;
  const char* const name = root_of(node).name;
  if (const auto layer = layer_of(name, "cache_k_l")) return Write{Written::keys, *layer};
  if (const auto layer = layer_of(name, "cache_v_l")) return Write{Written::values, *layer};
  return std::nullopt;
}

/// Whether a node writes to a cache other than those of keys, values and recurrent states.
bool is_other_cache(const ggml_tensor& node) noexcept {
  const std::string_view name = node.op == GGML_OP_SET_ROWS ? root_of(node).name : "";
  return name.starts_with("cache_") && !name.starts_with("cache_r_l") && !name.starts_with("cache_s_l") &&
         !write_of(node);
}

/// The layer of whose attention a node is the softmax or the whole: the one that wrote the keys, where
/// several share them (Gemma 3n, 4).
std::optional<std::size_t> layer_of_attention(const ggml_tensor& node) noexcept {
  const auto writer = [](const ggml_tensor& keys) { return layer_of(root_of(keys).name, "cache_k_l"); };
  if (node.op == GGML_OP_FLASH_ATTN_EXT) return writer(*node.src[1]);
  if (node.op != GGML_OP_SOFT_MAX) return std::nullopt;
  const auto own = layer_of(node.name, "kq_soft_max-");
  if (!own) return std::nullopt;
  const ggml_tensor* scores = node.src[0];  // scaled, capped, biased
  while (scores != nullptr && scores->op != GGML_OP_MUL_MAT) scores = scores->src[0];
  const auto shared = scores != nullptr ? writer(*scores->src[0]) : std::nullopt;
  return shared ? shared : own;
}

}  // namespace

const std::shared_ptr<const Cache>& GraphTap::cache_of(llama_context& context, llama_seq_id sequence) {
  if (cache_ != nullptr && context_ != &context)
    throw std::invalid_argument(
        "llama.cpp pot: the tap knows the cache of another context; make each context with a tap of its own");
  if (cache_ == nullptr) cache_ = find_cache(*this, context, sequence);
  context_ = &context;
  return cache_;
}

std::span<const CacheRow> GraphTap::rows_of(const ggml_tensor& node) noexcept {
  // The rows to write are an input of the graph, so they are known before anything is computed. They count
  // through the parts of all sequences.
  const ggml_tensor& written = *node.src[1];
  const auto* const rows = reinterpret_cast<const std::int64_t*>(bytes_.read(written));
  const std::int64_t cells = root_of(node).ne[1];
  rows_.resize(static_cast<std::size_t>(written.ne[0]));
  for (std::size_t i = 0; i < rows_.size(); ++i)
    rows_[i] = {static_cast<std::uint32_t>(rows[i] / cells), static_cast<std::uint32_t>(rows[i] % cells)};
  return rows_;
}

bool GraphTap::wants(const ggml_tensor& node) noexcept {
  if (listener_ == nullptr) return false;
  if (listener_->takes_cells_alone()) return true;
  if (const auto write = write_of(node)) {
    if (cache_ != nullptr && write->what == Written::keys) {
      const auto begins = [&](const Cache& cache) {
        return write->layer == cache.layers().front().model_layer;
      };
      if (begins(*cache_)) listener_->rows(rows_of(node));
      if (cache_->windows() != nullptr && begins(*cache_->windows())) listener_->window_rows(rows_of(node));
    }
    return listener_->wants_written();
  }
  if (is_other_cache(node)) listener_->written_elsewhere(root_of(node));
  if (!layer_of_attention(node)) return false;
  shows_ = node.op == GGML_OP_SOFT_MAX ? Shows::probabilities : Shows::queries;
  return listener_->wants_attention();
}

bool GraphTap::take(const ggml_tensor& node) noexcept {
  if (listener_ == nullptr) return true;
  if (listener_->takes_cells_alone()) return false;
  if (const auto layer = layer_of_attention(node)) return listener_->attention(*layer, node);
  if (const auto write = write_of(node)) listener_->written(write->what, write->layer, node);
  return true;
}

}  // namespace llama_cpp
