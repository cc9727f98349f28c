// What pots of all element types share: settings, one block of memory, records and angles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>

#include "infinipot/detail/arena.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

struct PotAccess;  // reads and writes pots for files (pot_file.hpp)

class PotBase {
 public:
  const Shape& shape() const noexcept { return settings_.shape; }
  std::size_t capacity() const noexcept { return settings_.capacity; }
  std::size_t max_keep() const noexcept { return settings_.max_keep; }
  Granularity granularity() const noexcept { return settings_.granularity; }
  KeyStorage key_storage() const noexcept { return settings_.key_storage; }
  const Rope& rope() const noexcept { return settings_.rope; }
  /// Entries held, in every lane; also the position of the next one.
  std::size_t size() const noexcept { return entries_.size(); }
  const EntryTable& entries() const noexcept { return entries_; }

  /// Bytes that the pot allocated (not an engine's own keys and values).
  std::size_t bytes() const noexcept { return arena_.bytes(); }

  /// Cosines and sines of positions 0 .. capacity - 1, without the attention factor.
  const AngleTable& angles() const noexcept { return angles_; }

  /// Whether RoPE turns this layer's keys.
  bool rotates(std::size_t layer) const noexcept { return turned_[layer] != never; }

  /// Adds entries whose keys and values the engine has written from size() on. Precondition: they fit.
  void append(std::span<const Entry> added) noexcept { entries_.append(added); }

 protected:
  friend struct PotAccess;

  explicit PotBase(PotSettings settings) : settings_(std::move(settings).checked()) {}
  PotBase(PotBase&&) noexcept = default;
  PotBase& operator=(PotBase&&) noexcept = default;
  ~PotBase() = default;

  static constexpr std::size_t never = (std::numeric_limits<std::size_t>::max)();

  std::size_t lanes() const noexcept { return shape().lanes(granularity()); }

  /// Layers whose keys RoPE turns.
  std::size_t turned_layers() const noexcept {
    return rope().rotary_dim() == 0 ? 0 : shape().layers - settings_.layers_without_rope.size();
  }

  /// Rows of all layers and heads. Throws std::invalid_argument if there are too many.
  std::size_t rows() const { return product({shape().layers, shape().kv_heads, capacity()}); }

  /// Once all other arrays are reserved: allocates, and makes angles, records and turned_.
  void allocate() {
    const auto angles = arena_.reserve<float>(AngleTable::floats(settings_.rope, capacity()));
    const auto records = EntryTable::reserve(arena_, product({lanes(), capacity()}));
    const auto turned = arena_.reserve<std::size_t>(shape().layers);
    arena_.allocate();
    angles_ = AngleTable(settings_.rope, capacity(), arena_.take(angles));
    entries_ = EntryTable(arena_, records, lanes(), capacity());
    turned_ = arena_.take(turned);
    const auto& without = settings_.layers_without_rope;
    for (std::size_t layer = 0, next = 0; layer < turned_.size(); ++layer)
      turned_[layer] = turned_layers() == 0 || std::ranges::binary_search(without, layer) ? never : next++;
  }

  /// Rotates a key (head_dim) of a layer in place, without the attention factor.
  void turn(std::size_t layer, std::size_t position, Turn direction, float* key) const noexcept {
    if (rotates(layer)) rotate(key, angles_[position], rope().pairing, direction, shape().head_dim, key);
  }

  /// Turns a key as projected into one to multiply with queries.
  void rotate_for_reading(std::size_t layer, std::size_t position, float* key) const noexcept {
    turn(layer, position, Turn::forward, key);
    scale(layer, rope().attention_factor, key);
  }

  /// And back: a key that the engine rotated for a position, as projected.
  void unrotate(std::size_t layer, std::size_t position, float* key) const noexcept {
    turn(layer, position, Turn::backward, key);
    scale(layer, 1 / rope().attention_factor, key);
  }

  /// Multiplies the channels that RoPE turns.
  void scale(std::size_t layer, double by, float* key) const noexcept {
    if (by == 1 || !rotates(layer)) return;
    const auto factor = static_cast<float>(by);
    std::for_each_n(key + rope().first_channel, rope().rotary_dim(),
                    [factor](float& channel) { channel *= factor; });
  }

  /// Throws std::invalid_argument unless the first `count` entries of another pot, `survivors` of them with a
  /// key as first written, can be copied into this one as they are.
  void check_assign(const PotBase& other, std::size_t count, std::size_t survivors) const {
    const PotSettings& own = settings_;
    if (!(other.shape() == own.shape) || other.granularity() != own.granularity ||
        other.key_storage() != own.key_storage || !(other.rope() == own.rope) ||
        other.settings_.layers_without_rope != own.layers_without_rope)
      invalid("a pot of shape ", other.shape(), " is not of this one's kind: ", own.shape,
              ", of the same granularity, key storage and RoPE");
    if (count > other.size() || count > own.capacity)
      invalid("cannot copy ", count, " entries of a pot that holds ", other.size(), " into one of capacity ",
              own.capacity);
    if (survivors > own.max_keep)
      invalid("cannot copy ", survivors, " survivors into a pot whose max_keep is ", own.max_keep);
  }

  PotSettings settings_;
  Arena arena_;
  AngleTable angles_;
  EntryTable entries_;
  std::span<std::size_t> turned_;  // (layers): the how manieth RoPE turns, or never
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
