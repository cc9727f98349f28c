// Copies of a RowPot: into another one, and, for files, into a pot of the library's and back.
#include <algorithm>
#include <cstring>

#include "infinipot/pot/pot_access.hpp"
#include "infinipot/pot/pot_file.hpp"
#include "row_pot.hpp"

namespace llama_cpp {

using infinipot::Index;
using infinipot::Pot;
using infinipot::detail::PotAccess;
using infinipot::detail::Section;

void RowPot::assign(const RowPot& other, std::size_t count) noexcept {
  const std::size_t survivors = std::min(other.survivors_, count), bytes = cache_->keys().bytes();
  for (std::size_t layer = 0; layer < shape().layers; ++layer) {
    std::byte *const keys = mirror_->read(Written::keys, layer, 0), *const values = mirror_->read(
                                                                        Written::values, layer, 0);
    const std::byte *const other_keys = other.mirror_->read(Written::keys, layer, count),
                           *const other_values = other.mirror_->read(Written::values, layer, count);
    std::memcpy(keys, other_keys, count * key_stride_);
    if (cache_->values().width == 0) {
      // Nothing to copy.
    } else if (!cache_->transposed()) {
      std::memcpy(values, other_values, count * value_stride_);
    } else {
      const std::size_t one = ggml_type_size(cache_->values().type),
                        columns = shape().kv_heads * cache_->values().width;
      for (std::size_t i = 0; i < columns; ++i)
        std::memcpy(values + i * cache_->cells() * one, other_values + i * other.cache_->cells() * one,
                    count * one);
    }
    mirror_->send(Written::keys, layer, count);
    mirror_->send(Written::values, layer, count);
    for (std::size_t head = 0; head < shape().kv_heads && rotates(layer); ++head) {
      const auto rows = other.origins(lane_of(layer, head));
      for (std::size_t i = 0; i < survivors; ++i)
        std::memcpy(original(layer, head, i), other.original(layer, head, rows.row[i]), bytes);
    }
  }
  for (std::size_t lane = 0; lane < lanes() && !originals_.empty(); ++lane)
    for (std::size_t i = 0; i < survivors; ++i) {
      origins(lane).row[i] = static_cast<Index>(i);
      origins(lane).position[i] = other.origins(lane).position[other.origins(lane).row[i]];
    }
  entries_.assign(other.entries_, count);
  survivors_ = survivors;
  written_ = 0;
}

std::vector<std::size_t> RowPot::turned_layers() const {
  std::vector<std::size_t> layers;
  for (std::size_t layer = 0; layer < shape().layers; ++layer)
    if (rotates(layer)) layers.push_back(layer);
  return layers;
}

template <infinipot::Element T>
Pot<T> RowPot::to_pot() const {
  Pot<T> pot(settings_);
  const std::size_t remembered = originals_.empty() ? 0 : survivors_, width = shape().head_dim,
                    value_width = shape().value_channels();
  PotAccess::resize(pot, size(), remembered);
  std::vector<float> row(std::max(width, value_width));
  for (std::size_t layer = 0; layer < shape().layers; ++layer)
    for (std::size_t head = 0; head < shape().kv_heads; ++head)
      for (std::size_t entry = 0; entry < size(); ++entry) {
        key_rows(layer, head, entry, 1, row.data());
        infinipot::detail::from_float(row.data(), width, pot.keys(layer).row(head, entry));
        if (value_width == 0) continue;
        value_rows(layer, head, entry, 1, row.data());
        infinipot::detail::from_float(row.data(), value_width, pot.values(layer).row(head, entry));
      }
  const std::vector<std::size_t> turned = turned_layers();
  std::size_t next = 0;  // (layers that RoPE turns, kv_heads, survivors)
  PotAccess::pieces(pot, Section::originals, [&](std::span<std::byte> piece) {
    const std::size_t pair = next / remembered, layer = turned[pair / shape().kv_heads],
                      head = pair % shape().kv_heads;
    const std::size_t i = next++ % remembered;
    cache_->keys().decode(original(layer, head, origins(lane_of(layer, head)).row[i]), row.data());
    infinipot::detail::from_float(row.data(), width, reinterpret_cast<T*>(piece.data()));
  });
  next = 0;  // (lanes, survivors)
  PotAccess::pieces(pot, Section::first_positions, [&](std::span<std::byte> piece) {
    const auto rows = origins(next / remembered);
    std::memcpy(piece.data(), &rows.position[rows.row[next++ % remembered]], piece.size());
  });
  const auto records = [&](Section section, const auto& of_lane) {
    std::size_t lane = 0;
    PotAccess::pieces(pot, section, [&](std::span<std::byte> piece) {
      if (!piece.empty()) std::memcpy(piece.data(), of_lane(lane).data(), piece.size());
      ++lane;
    });
  };
  records(Section::positions, [&](std::size_t lane) { return entries_.positions(lane); });
  records(Section::tokens, [&](std::size_t lane) { return entries_.tokens(lane); });
  records(Section::nuc, [&](std::size_t lane) { return entries_.nuc(lane); });
  records(Section::pinned, [&](std::size_t lane) { return entries_.pinned(lane); });
  records(Section::survived, [&](std::size_t lane) { return entries_.survived(lane); });
  return pot;
}

template <infinipot::Element T>
void RowPot::from_pot(const Pot<T>& pot) {
  const std::size_t width = shape().head_dim, value_width = shape().value_channels(),
                    remembered = PotAccess::survivors(pot), count = pot.size();
  std::vector<float> row(std::max(width, value_width));
  for (std::size_t layer = 0; layer < shape().layers; ++layer) {
    std::byte *const keys = mirror_->read(Written::keys, layer, 0), *const values = mirror_->read(
                                                                        Written::values, layer, 0);
    for (std::size_t head = 0; head < shape().kv_heads; ++head)
      for (std::size_t entry = 0; entry < count; ++entry) {
        infinipot::detail::to_float(pot.keys(layer).row(head, entry), width, row.data());
        cache_->keys().encode(row.data(), keys + entry * key_stride_ + head * cache_->keys().bytes());
        if (value_width == 0) continue;
        infinipot::detail::to_float(pot.values(layer).row(head, entry), value_width, row.data());
        write_value(values, head, entry, row.data());
      }
    mirror_->send(Written::keys, layer, count);
    mirror_->send(Written::values, layer, count);
  }
  const std::vector<std::size_t> turned = turned_layers();
  std::size_t next = 0;
  PotAccess::pieces(pot, Section::originals, [&](std::span<std::byte> piece) {
    const std::size_t pair = next / remembered, i = next++ % remembered;
    infinipot::detail::to_float(reinterpret_cast<const T*>(piece.data()), width, row.data());
    cache_->keys().encode(row.data(), original(turned[pair / shape().kv_heads], pair % shape().kv_heads, i));
  });
  next = 0;
  PotAccess::pieces(pot, Section::first_positions, [&](std::span<std::byte> piece) {
    const auto rows = origins(next / remembered);
    const std::size_t i = next++ % remembered;
    rows.row[i] = static_cast<Index>(i);
    std::memcpy(&rows.position[i], piece.data(), piece.size());
  });
  entries_.assign(pot.entries(), count);
  survivors_ = remembered;
  written_ = 0;
}

template <class F>
decltype(auto) RowPot::with_element(const F& function) const {
  switch (cache_->keys().type) {
    case GGML_TYPE_F16:
      return function(infinipot::f16());
    case GGML_TYPE_BF16:
      return function(infinipot::bf16());
    default:
      return function(float());
  }
}

void RowPot::save(std::ostream& out, std::span<const std::byte> extra) const {
  with_element([&]<class T>(T) { infinipot::save_pot(to_pot<T>(), out, extra); });
}

void RowPot::restore(std::span<const std::byte> file) {
  with_element([&]<class T>(T) {
    Pot<T> pot(settings_);
    infinipot::restore_pot(file, pot);
    from_pot(pot);
  });
}

}  // namespace llama_cpp
