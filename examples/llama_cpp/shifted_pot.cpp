#include "shifted_pot.hpp"

#include <ggml-backend.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "row_pot.hpp"

namespace llama_cpp {
namespace {

infinipot::PotSettings checked(infinipot::PotSettings settings) {
  if (settings.granularity != infinipot::Granularity::shared)
    throw std::invalid_argument(
        "llama.cpp pot: where llama.cpp shifts, a cell holds a token for all layers and heads; granularity "
        "must be "
        "shared");
  if (std::max(settings.shape.head_dim, settings.shape.value_channels()) > RowPot::most_channels)
    throw std::invalid_argument("llama.cpp pot: heads of more than " + std::to_string(RowPot::most_channels) +
                                " numbers are not supported");
  return std::move(settings).checked();
}

}  // namespace

ShiftedPot::ShiftedPot(infinipot::PotSettings settings, std::shared_ptr<const Cache> cache,
                       llama_context& context, llama_seq_id sequence)
    : settings_(checked(std::move(settings))),
      cache_(std::move(cache)),
      context_(&context),
      sequence_(sequence),
      entries_(1, settings_.capacity),
      cells_(settings_.capacity) {}

void ShiftedPot::remove(std::size_t first, std::size_t end) {
  if (!llama_memory_seq_rm(memory(), sequence_, static_cast<llama_pos>(first), static_cast<llama_pos>(end)))
    throw std::runtime_error("llama.cpp pot: llama_memory_seq_rm refused to remove positions " +
                             std::to_string(first) + " .. " + std::to_string(end - 1));
}

void ShiftedPot::keep(const infinipot::Selection& kept) {
  const std::span<const infinipot::Index> indices = kept.lane(0);
  std::size_t end = 0;  // of the run before
  for (std::size_t i = 0; i < indices.size();) {
    const std::size_t to = i, first = indices[i];
    while (i < indices.size() && indices[i] == first + (i - to)) ++i;
    if (end < first) remove(end, first);
    end = first + (i - to);
    // Runs move in ascending order, so that one never lands on positions of another.
    if (to < first)
      llama_memory_seq_add(memory(), sequence_, static_cast<llama_pos>(first), static_cast<llama_pos>(end),
                           -static_cast<llama_pos>(first - to));
  }
  if (end < entries_.size()) remove(end, settings_.capacity);
  entries_.keep(kept);
  infinipot::compact(std::span(cells_), indices);
}

infinipot::FloatRows ShiftedPot::key_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                          std::size_t count, float* tile) const noexcept {
  const RowCodec& codec = cache_->keys();
  const ggml_tensor& tensor = *cache_->layers()[layer].keys;
  const std::size_t begin = cache_->stream_of(static_cast<std::size_t>(sequence_)) * tensor.nb[2];
  std::byte row[RowPot::most_channels * sizeof(float)];
  for (std::size_t i = 0; i < count; ++i) {
    ggml_backend_tensor_get(&tensor, row, begin + cells_[first + i] * tensor.nb[1] + kv_head * codec.bytes(),
                            codec.bytes());
    codec.decode(row, tile + i * codec.width);
  }
  return {tile, static_cast<std::ptrdiff_t>(codec.width)};
}

infinipot::FloatRows ShiftedPot::value_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                            std::size_t count, float* tile) const noexcept {
  const RowCodec& codec = cache_->values();
  if (codec.width == 0) return {tile, 0};
  const ggml_tensor& tensor = *cache_->layers()[layer].values;
  const std::size_t begin = cache_->stream_of(static_cast<std::size_t>(sequence_)) * tensor.nb[2];
  const std::size_t one = ggml_type_size(codec.type);
  std::byte row[RowPot::most_channels * sizeof(float)];
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t cell = cells_[first + i];
    if (!cache_->transposed())
      ggml_backend_tensor_get(&tensor, row, begin + cell * tensor.nb[1] + kv_head * codec.bytes(),
                              codec.bytes());
    else
      for (std::size_t c = 0; c < codec.width; ++c)
        ggml_backend_tensor_get(&tensor, row + c * one,
                                begin + ((kv_head * codec.width + c) * cache_->cells() + cell) * one, one);
    codec.decode(row, tile + i * codec.width);
  }
  return {tile, static_cast<std::ptrdiff_t>(codec.width)};
}

void ShiftedPot::assign(const ShiftedPot& other, std::size_t count) {
  if (other.context_ != context_)
    throw std::invalid_argument(
        "llama.cpp pot: where llama.cpp shifts, a pot is copied within its context only");
  remove(0, settings_.capacity);
  if (count > 0) llama_memory_seq_cp(memory(), other.sequence_, sequence_, -1, -1);
  entries_.assign(other.entries_, count);
  std::ranges::copy(std::span(other.cells_).first(count), cells_.begin());
  if (count > 0) remove(count, std::max(settings_.capacity, other.settings_.capacity));
}

}  // namespace llama_cpp
