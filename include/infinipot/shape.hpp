// The dimensions of a model's attention, and how entries are grouped for selection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>

#include "infinipot/detail/error.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// A token id of the model's vocabulary.
using Token = std::int32_t;

/// An entry's index in a pot, which is also its RoPE position: 0 .. capacity - 1.
using Index = std::uint32_t;

/// Which heads keep the same tokens. A *lane* is a set of (layer, kv head) pairs that do: lanes choose
/// independently, heads of one lane never differ.
enum class Granularity : std::uint8_t {
  head,    ///< every kv head of every layer is a lane (the paper)
  layer,   ///< every layer is a lane
  shared,  ///< one lane: a token is kept or dropped everywhere at once
};

/// Dimensions of a model's attention. `query_heads / kv_heads` query heads share one kv head (GQA, with MHA
/// and MQA as extremes): query head h reads kv head h / group().
struct Shape {
  std::size_t layers = 0;
  std::size_t query_heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_dim = 0;

  /// A value has as many channels as a key.
  static constexpr std::size_t as_key = (std::numeric_limits<std::size_t>::max)();
  /// Channels of a value; 0 if there are none but the key's own (MLA: values are read from the key's row).
  std::size_t value_dim = as_key;

  friend bool operator==(const Shape& a, const Shape& b) noexcept {
    return a.layers == b.layers && a.query_heads == b.query_heads && a.kv_heads == b.kv_heads &&
           a.head_dim == b.head_dim && a.value_channels() == b.value_channels();
  }

  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << "(layers " << shape.layers << ", query_heads " << shape.query_heads << ", kv_heads "
        << shape.kv_heads << ", head_dim " << shape.head_dim;
    if (shape.value_channels() != shape.head_dim) out << ", value_dim " << shape.value_dim;
    return out << ')';
  }

  /// Query heads per kv head.
  std::size_t group() const noexcept { return query_heads / kv_heads; }

  /// value_dim, or head_dim if that is as_key.
  std::size_t value_channels() const noexcept { return value_dim == as_key ? head_dim : value_dim; }

  /// Number of (layer, kv head) pairs.
  std::size_t heads() const noexcept { return layers * kv_heads; }

  /// Index of a pair in arrays of shape (layers, kv_heads).
  std::size_t head_of(std::size_t layer, std::size_t kv_head) const noexcept {
    return layer * kv_heads + kv_head;
  }

  std::size_t lanes(Granularity granularity) const noexcept {
    switch (granularity) {
      case Granularity::head:
        return heads();
      case Granularity::layer:
        return layers;
      case Granularity::shared:
        break;
    }
    return 1;
  }

  /// n = (layer, kv head) pairs per lane; lane i has the pairs [i * n, (i + 1) * n).
  std::size_t heads_per_lane(Granularity granularity) const noexcept {
    switch (granularity) {
      case Granularity::head:
        return 1;
      case Granularity::layer:
        return kv_heads;
      case Granularity::shared:
        break;
    }
    return heads();
  }

  std::size_t lane_of(std::size_t layer, std::size_t kv_head, Granularity granularity) const noexcept {
    switch (granularity) {
      case Granularity::head:
        return head_of(layer, kv_head);
      case Granularity::layer:
        return layer;
      case Granularity::shared:
        break;
    }
    return 0;
  }

  /// Throws std::invalid_argument if a dimension is 0 or kv_heads does not divide query_heads.
  void validate() const {
    if (layers == 0 || query_heads == 0 || kv_heads == 0 || head_dim == 0)
      detail::invalid("shape has a dimension of 0 ", *this, "; each must be at least 1");
    if (query_heads % kv_heads != 0)
      detail::invalid("query_heads ", query_heads, " is not a multiple of kv_heads ", kv_heads);
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
