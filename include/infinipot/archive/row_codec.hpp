// Keys and values of archived entries as bytes, and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/archive/archive_settings.hpp"
#include "infinipot/detail/arena.hpp"
#include "infinipot/element.hpp"
#include "infinipot/pot/quantize.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The largest row of an archive that has rows: a row of floats stands on the stack.
inline constexpr std::size_t most_archived_channels = 1024;

/// How an archive keeps an entry's keys and values: (layers, kv_heads, [key, value]) rows, one after another;
/// keys alone if the shape has no values of their own.
/// Keys are centred and scaled by their channels before they are quantised, as Pot<int8> does.
class ArchiveRows {
 public:
  /// Throws std::invalid_argument for rows that are too large. Precondition: the settings are valid.
  explicit ArchiveRows(const ArchiveSettings& settings) : shape_(settings.shape), type_(settings.type) {
    key_bytes_ = bytes_of_row(shape_.head_dim);
    value_bytes_ = bytes_of_row(shape_.value_channels());
    entry_bytes_ = product({shape_.layers, shape_.kv_heads, key_bytes_ + value_bytes_});
    if (type_ != ArchiveType::codes8 && type_ != ArchiveType::codes4) return;
    centre_ = settings.channels.centre;
    spread_ = settings.channels.spread;
  }

  ArchiveType type() const noexcept { return type_; }
  bool has_rows() const noexcept { return type_ != ArchiveType::tokens; }

  /// Of all rows of an entry; 0 without rows.
  std::size_t entry_bytes() const noexcept { return entry_bytes_; }

  /// Rows of entry i of the source, into (entry_bytes) bytes, aligned as floats are.
  void encode(const RowSource& source, std::size_t i, std::byte* out) const noexcept {
    switch (type_) {
      case ArchiveType::float32:
        return encode_as<f32>(source, i, out);
      case ArchiveType::float16:
        return encode_as<f16>(source, i, out);
      case ArchiveType::codes8:
        return encode_as<int8>(source, i, out);
      case ArchiveType::codes4:
        return encode_as<int4>(source, i, out);
      case ArchiveType::tokens:
        break;
    }
  }

  /// The key of an entry's rows, (head_dim) floats.
  void key(const std::byte* entry, std::size_t layer, std::size_t kv_head, float* key) const noexcept {
    const std::size_t pair = shape_.head_of(layer, kv_head), d = shape_.head_dim;
    decode(entry + pair * (key_bytes_ + value_bytes_), d, key);
    if (spread_.empty()) return;
    const float* const centre = centre_.data() + pair * d;
    const float* const spread = spread_.data() + pair * d;
    for (std::size_t c = 0; c < d; ++c) key[c] = centre[c] + spread[c] * key[c];
  }

  void value(const std::byte* entry, std::size_t layer, std::size_t kv_head, float* value) const noexcept {
    decode(entry + shape_.head_of(layer, kv_head) * (key_bytes_ + value_bytes_) + key_bytes_,
           shape_.value_channels(), value);
  }

 private:
  /// Of `d` channels.
  std::size_t bytes_of_row(std::size_t d) const noexcept {
    switch (type_) {
      case ArchiveType::float32:
        return d * sizeof(f32);
      case ArchiveType::float16:
        return d * sizeof(f16);
      case ArchiveType::codes8:
        return detail::row_bytes<int8>(d);
      case ArchiveType::codes4:
        return detail::row_bytes<int4>(d);
      case ArchiveType::tokens:
        break;
    }
    return 0;
  }

  template <class T>
  void encode_as(const RowSource& source, std::size_t i, std::byte* out) const noexcept {
    const std::size_t d = shape_.head_dim;
    for (std::size_t pair = 0; pair < shape_.heads(); ++pair) {
      const std::size_t layer = pair / shape_.kv_heads, head = pair % shape_.kv_heads;
      if constexpr (std::is_same_v<T, f32>) {
        source.key(layer, head, i, reinterpret_cast<float*>(out));
        if (value_bytes_ > 0) source.value(layer, head, i, reinterpret_cast<float*>(out + key_bytes_));
      } else {
        float row[most_archived_channels];
        source.key(layer, head, i, row);
        if (!spread_.empty()) {
          const float* const centre = centre_.data() + pair * d;
          const float* const spread = spread_.data() + pair * d;
          for (std::size_t c = 0; c < d; ++c) row[c] = (row[c] - centre[c]) / spread[c];
        }
        encode_row<T>(row, d, out);
        if (value_bytes_ > 0) source.value(layer, head, i, row);
        encode_row<T>(row, shape_.value_channels(), out + key_bytes_);
      }
      out += key_bytes_ + value_bytes_;
    }
  }

  template <class T>
  void encode_row(const float* row, std::size_t d, std::byte* out) const noexcept {
    if constexpr (Element<T>)
      from_float(row, d, reinterpret_cast<T*>(out));
    else
      quantize_row<T>(row, d, out);
  }

  void decode(const std::byte* row, std::size_t d, float* out) const noexcept {
    switch (type_) {
      case ArchiveType::float32:
        return to_float(reinterpret_cast<const f32*>(row), d, out);
      case ArchiveType::float16:
        return to_float(reinterpret_cast<const f16*>(row), d, out);
      case ArchiveType::codes8:
        return dequantize_row<int8>(row, d, out);
      case ArchiveType::codes4:
        return dequantize_row<int4>(row, d, out);
      case ArchiveType::tokens:
        break;
    }
  }

  Shape shape_;
  ArchiveType type_;
  std::size_t key_bytes_ = 0, value_bytes_ = 0, entry_bytes_ = 0;
  std::vector<float> centre_, spread_;  // (layers, kv_heads, head_dim), or empty
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
