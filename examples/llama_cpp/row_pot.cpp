#include "row_pot.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace llama_cpp {

using infinipot::Index;
using infinipot::Turn;

namespace {

infinipot::PotSettings checked(infinipot::PotSettings settings) {
  settings = std::move(settings).checked();
  if (std::max(settings.shape.head_dim, settings.shape.value_channels()) > RowPot::most_channels)
    throw std::invalid_argument("llama.cpp pot: heads of " + std::to_string(settings.shape.head_dim) +
                                " numbers are out of range 1 .. " + std::to_string(RowPot::most_channels));
  return settings;
}

}  // namespace

RowPot::RowPot(infinipot::PotSettings settings, std::shared_ptr<const Cache> cache, std::size_t stream)
    : settings_(checked(std::move(settings))),
      cache_(std::move(cache)),
      key_stride_(cache_->layers().front().keys->nb[1]),
      value_stride_(cache_->values().width > 0 ? cache_->layers().front().values->nb[1] : 0),
      mirror_(std::make_unique<TensorMirror>(*cache_, stream, capacity())),
      entries_(lanes(), capacity()),
      angle_memory_(infinipot::AngleTable::floats(rope(), capacity())),
      angles_(rope(), capacity(), angle_memory_),
      rotates_(shape().layers, 1),
      originals_(rope().rotary_dim() > 0 ? shape().heads() * max_keep() * cache_->keys().bytes() : 0),
      rows_(lanes() * max_keep()),
      first_positions_(rows_.size()),
      in_use_(rows_.size()),
      moved_(lanes()) {
  for (const std::size_t layer : settings_.layers_without_rope) rotates_[layer] = 0;
}

infinipot::KeyOrigins RowPot::origins(std::size_t lane) const noexcept {
  const std::size_t most = max_keep(), at = lane * most;
  return {std::span(rows_).subspan(at, most), std::span(first_positions_).subspan(at, most),
          std::span(in_use_).subspan(at, most), survivors_};
}

void RowPot::turn(std::size_t position, Turn turn, float* key) const noexcept {
  infinipot::rotate(key, angles_[position], rope().pairing, turn, shape().head_dim, key);
}

void RowPot::scale(double by, float* key) const noexcept {
  const auto factor = static_cast<float>(by);
  std::for_each_n(key + rope().first_channel, rope().rotary_dim(),
                  [factor](float& channel) { channel *= factor; });
}

void RowPot::truncate(std::size_t size) noexcept {
  entries_.truncate(size);
  survivors_ = std::min(survivors_, size);
  written_ = std::min(written_, size);
}

void RowPot::keep(const infinipot::Selection& kept) noexcept {
  if (!originals_.empty())
    for (std::size_t lane = 0; lane < lanes(); ++lane)
      moved_[lane] = infinipot::assign_rows(origins(lane), kept.lane(lane));
  for (std::size_t layer = 0; layer < shape().layers; ++layer) {
    std::byte* const keys = mirror_->read(Written::keys, layer, size());
    std::byte* const values = mirror_->read(Written::values, layer, size());
    for (std::size_t head = 0; head < shape().kv_heads; ++head) {
      keep_keys(layer, head, kept.lane(lane_of(layer, head)), keys);
      keep_values(layer, head, kept.lane(lane_of(layer, head)), values);
    }
    mirror_->send(Written::keys, layer, kept.keep());
    mirror_->send(Written::values, layer, kept.keep());
  }
  entries_.keep(kept);
  survivors_ = kept.keep();
  written_ = 0;
}

void RowPot::keep_keys(std::size_t layer, std::size_t head, std::span<const Index> kept,
                       std::byte* rows) noexcept {
  const RowCodec& codec = cache_->keys();
  const std::size_t bytes = codec.bytes(), lane = lane_of(layer, head);
  const auto key = [&](std::size_t i) { return rows + i * key_stride_ + head * bytes; };
  if (!rotates(layer)) {
    infinipot::compact_rows(key(0), static_cast<std::ptrdiff_t>(key_stride_), bytes, kept);
    return;
  }
  const infinipot::KeyOrigins origins = this->origins(lane);
  float turned[most_channels];
  for (std::size_t j = 0; j < kept.size(); ++j) {
    std::byte* const first = original(layer, head, origins.row[j]);
    if (j >= moved_[lane]) std::memcpy(first, key(kept[j]), bytes);
    if (kept[j] == j) continue;  // already there
    codec.decode(first, turned);
    turn(origins.position[origins.row[j]] - j, Turn::backward, turned);
    codec.encode(turned, key(j));
  }
}

void RowPot::keep_values(std::size_t /*layer*/, std::size_t head, std::span<const Index> kept,
                         std::byte* rows) noexcept {
  const RowCodec& codec = cache_->values();
  if (codec.width == 0) return;
  if (!cache_->transposed()) {
    infinipot::compact_rows(rows + head * codec.bytes(), static_cast<std::ptrdiff_t>(value_stride_),
                            codec.bytes(), kept);
    return;
  }
  const auto compact_columns = [&]<class T>(T* columns) {
    for (std::size_t i = head * codec.width; i < (head + 1) * codec.width; ++i)
      infinipot::compact(std::span(columns + i * cache_->cells(), size()), kept);
  };
  if (codec.type == GGML_TYPE_F32)
    compact_columns(reinterpret_cast<float*>(rows));
  else
    compact_columns(reinterpret_cast<std::uint16_t*>(rows));
}

infinipot::FloatRows RowPot::key_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                      std::size_t count, float* tile) const noexcept {
  const RowCodec& codec = cache_->keys();
  const std::byte* const rows = mirror_->read(Written::keys, layer, std::max(end(), first + count));
  for (std::size_t i = 0; i < count; ++i)
    codec.decode(rows + (first + i) * key_stride_ + kv_head * codec.bytes(), tile + i * codec.width);
  return {tile, static_cast<std::ptrdiff_t>(codec.width)};
}

void RowPot::read_value(const std::byte* rows, std::size_t kv_head, std::size_t entry,
                        float* value) const noexcept {
  const RowCodec& codec = cache_->values();
  if (!cache_->transposed())
    return codec.decode(rows + entry * value_stride_ + kv_head * codec.bytes(), value);
  const std::size_t one = ggml_type_size(codec.type);
  std::byte row[most_channels * sizeof(float)];
  for (std::size_t i = 0; i < codec.width; ++i)
    std::memcpy(row + i * one, rows + ((kv_head * codec.width + i) * cache_->cells() + entry) * one, one);
  codec.decode(row, value);
}

void RowPot::write_value(std::byte* rows, std::size_t kv_head, std::size_t entry, float* value) noexcept {
  const RowCodec& codec = cache_->values();
  if (!cache_->transposed())
    return codec.encode(value, rows + entry * value_stride_ + kv_head * codec.bytes());
  const std::size_t one = ggml_type_size(codec.type);
  std::byte row[most_channels * sizeof(float)];
  codec.encode(value, row);
  for (std::size_t i = 0; i < codec.width; ++i)
    std::memcpy(rows + ((kv_head * codec.width + i) * cache_->cells() + entry) * one, row + i * one, one);
}

infinipot::FloatRows RowPot::value_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                        std::size_t count, float* tile) const noexcept {
  const std::size_t width = cache_->values().width;
  if (width == 0) return {tile, 0};
  const std::byte* const rows = mirror_->read(Written::values, layer, std::max(end(), first + count));
  for (std::size_t i = 0; i < count; ++i) read_value(rows, kv_head, first + i, tile + i * width);
  return {tile, static_cast<std::ptrdiff_t>(width)};
}

void RowPot::read_projected(std::size_t layer, std::size_t kv_head, std::size_t entry,
                            float* key) const noexcept {
  key_rows(layer, kv_head, entry, 1, key);
  if (!rotates(layer)) return;
  turn(entry, Turn::backward, key);
  scale(1 / rope().attention_factor, key);
}

void RowPot::write_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
                             const float* value) noexcept {
  if (rotates(layer)) {
    turn(entry, Turn::forward, key);
    scale(rope().attention_factor, key);
  }
  write(layer, kv_head, entry, key, value);
}

void RowPot::write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
                   const float* value) noexcept {
  float copy[most_channels];
  const RowCodec& codec = cache_->keys();
  std::copy_n(key, codec.width, copy);
  codec.encode(copy,
               mirror_->write(Written::keys, layer, entry) + entry * key_stride_ + kv_head * codec.bytes());
  if (cache_->values().width == 0) return;
  std::copy_n(value, cache_->values().width, copy);
  write_value(mirror_->write(Written::values, layer, entry), kv_head, entry, copy);
}

}  // namespace llama_cpp
