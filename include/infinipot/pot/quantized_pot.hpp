// Pots of 8-bit and 4-bit codes: Pot<int8>, Pot<int4>.
//
// Keys are held as projected, before RoPE (KVQuant, arXiv 2401.18079), whatever the engine writes, and
// rotated for their positions when read. An entry is thus quantised once, when written; distillations only
// move its codes, and nothing drifts. Key channels differ in size far more than tokens do (KIVI, arXiv
// 2402.02750), so each is centred and scaled by its KeyChannels before the row is quantised; values are
// quantised as they are. In both, 32 channels of an entry share a scale. KIVI's scales per channel for groups
// of consecutive tokens do not fit a pot: it drops tokens one by one, and would keep the scales of many
// groups for a few tokens each.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/executor.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/pot/compact.hpp"
#include "infinipot/pot/pot_base.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/pot/quantize.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/queries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Centre and spread of each channel of a model's keys before RoPE, (layers, kv_heads, head_dim). A property
/// of the model; measure_key_channels() gets it from any few hundred tokens.
struct KeyChannels {
  std::vector<float> centre;
  std::vector<float> spread;  ///< above 0; only ratios between channels matter

  /// Throws std::invalid_argument unless both tables have the shape's size and numbers in range.
  void validate(const Shape& shape) const {
    const std::size_t size = shape.heads() * shape.head_dim;
    if (centre.size() != size || spread.size() != size)
      detail::invalid("key channels have ", centre.size(), " centres and ", spread.size(),
                      " spreads; both must be layers * kv_heads * head_dim = ", size);
    for (const float& x : centre)
      if (!detail::is_finite(x)) detail::invalid("a key channel's centre ", x, " is not finite");
    for (const float& x : spread)
      if (!detail::is_finite(x) || x <= 0)
        detail::invalid("a key channel's spread ", x, " is not a positive number");
  }
};

/// Nothing known: all channels alike. Good enough for 8 bits.
inline KeyChannels plain_key_channels(const Shape& shape) {
  const std::size_t size = shape.heads() * shape.head_dim;
  return {std::vector<float>(size, 0.0F), std::vector<float>(size, 1.0F)};
}

/// Mean and standard deviation of the channels over the entries of a pot. Throws std::invalid_argument if it
/// holds fewer than 2, or keys that are not finite.
template <Element T>
KeyChannels measure_key_channels(const Pot<T>& pot) {
  const Shape shape = pot.shape();
  if (pot.size() < 2)
    detail::invalid("key channels are measured on at least 2 entries, but the pot has ", pot.size());
  const std::size_t d = shape.head_dim;
  KeyChannels channels = plain_key_channels(shape);
  std::vector<float> key(d);
  std::vector<double> sums(d), squares(d);
  for (std::size_t pair = 0; pair < shape.heads(); ++pair) {
    std::ranges::fill(sums, 0.0);
    std::ranges::fill(squares, 0.0);
    for (std::size_t entry = 0; entry < pot.size(); ++entry) {
      const T* const stored = pot.keys(pair / shape.kv_heads).row(pair % shape.kv_heads, entry);
      detail::to_float(stored, d, key.data());
      if (pot.key_storage() == KeyStorage::rotated && pot.rotates(pair / shape.kv_heads))
        rotate(key.data(), pot.angles()[entry], pot.rope().pairing, Turn::backward, d, key.data());
      for (std::size_t c = 0; c < d; ++c) {
        sums[c] += static_cast<double>(key[c]);
        squares[c] += static_cast<double>(key[c]) * static_cast<double>(key[c]);
      }
    }
    const auto count = static_cast<double>(pot.size());
    for (std::size_t c = 0; c < d; ++c) {
      const double mean = sums[c] / count, variance = (std::max)(0.0, squares[c] / count - mean * mean);
      channels.centre[pair * d + c] = static_cast<float>(mean);
      // A nearly constant channel must not magnify its rounding errors.
      channels.spread[pair * d + c] =
          static_cast<float>((std::max)(std::sqrt(variance), 1e-3 * std::abs(mean) + 1e-6));
    }
  }
  channels.validate(shape);
  return channels;
}

/// A pot of codes: about 8.5 or 5 bits a channel. Reads give f32 rows in the caller's tile. A group of 32
/// channels that holds NaN or infinity reads as NaN. Otherwise like any other pot.
template <Quantized T>
class Pot<T> : public detail::PotBase {
 public:
  using element = T;

  /// The most channels of a key or value.
  static constexpr std::size_t most_channels = 1024;

  /// Throws std::invalid_argument for settings out of range, std::bad_alloc.
  explicit Pot(PotSettings settings) : Pot(std::move(settings), KeyChannels{}) {}

  /// The same with the keys' channels, which may be empty.
  Pot(PotSettings settings, const KeyChannels& channels)
      : PotBase(std::move(settings)),
        key_bytes_(detail::row_bytes<T>(shape().head_dim)),
        value_bytes_(detail::row_bytes<T>(shape().value_channels())) {
    if (shape().head_dim > most_channels)
      detail::invalid("head_dim ", shape().head_dim, " of a quantised pot is out of range 1 .. ",
                      most_channels);
    if (shape().value_channels() > most_channels)
      detail::invalid("value_dim ", shape().value_channels(), " of a quantised pot is out of range 0 .. ",
                      most_channels);
    const bool known = !channels.centre.empty() || !channels.spread.empty();
    if (known) channels.validate(shape());
    const auto keys = arena_.reserve<std::byte>(detail::product({rows(), key_bytes_}));
    const auto values = arena_.reserve<std::byte>(detail::product({rows(), value_bytes_}));
    const auto centres = arena_.reserve<float>(known ? channels.centre.size() : 0);
    const auto spreads = arena_.reserve<float>(known ? channels.spread.size() : 0);
    allocate();
    keys_ = arena_.take(keys);
    values_ = arena_.take(values);
    centre_ = arena_.take(centres);
    spread_ = arena_.take(spreads);
    if (!known) return;
    std::ranges::copy(channels.centre, centre_.begin());
    std::ranges::copy(channels.spread, spread_.begin());
  }

  Pot(Pot&&) noexcept = default;
  Pot& operator=(Pot&&) noexcept = default;

  /// A copy of everything this one holds. Throws std::bad_alloc.
  Pot fork() const {
    Pot copy(settings_, KeyChannels{{centre_.begin(), centre_.end()}, {spread_.begin(), spread_.end()}});
    copy.assign(*this, size());
    return copy;
  }

  /// Becomes a copy of another pot's first `count` entries, bit for bit. Throws std::invalid_argument, before
  /// anything changes, if that is of another shape, granularity, key storage, RoPE or key channels, or they
  /// do not fit.
  void assign(const Pot& other, std::size_t count) {
    check_assign(other, count, 0);
    if (!std::ranges::equal(centre_, other.centre_) || !std::ranges::equal(spread_, other.spread_))
      detail::invalid("a pot of other key channels cannot be copied into this one");
    for (std::size_t pair = 0; pair < shape().heads(); ++pair) {
      const std::size_t layer = pair / shape().kv_heads, head = pair % shape().kv_heads;
      std::copy_n(other.key_row(layer, head, 0), count * key_bytes_, key_row(layer, head, 0));
      std::copy_n(other.value_row(layer, head, 0), count * value_bytes_, value_row(layer, head, 0));
    }
    entries_.assign(other.entries_, count);
  }

  /// Writes one entry, rounded for the only time. Different entries may be written from different threads at
  /// once. `key` is rotated for position `entry` or as projected, as key_storage() says. Precondition:
  /// entry < capacity().
  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept {
    const std::size_t d = shape().head_dim;
    float turned[most_channels];
    std::copy_n(key, d, turned);
    if (key_storage() == KeyStorage::rotated) turn(layer, entry, Turn::backward, turned);
    encode(layer, kv_head, entry, turned, value);
  }

  /// The key of an entry as projected: before RoPE, without its attention factor; (head_dim) floats.
  void read_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) const noexcept {
    decode(layer, kv_head, entry, key);
    if (key_storage() == KeyStorage::rotated) scale(layer, 1 / rope().attention_factor, key);
  }

  /// Writes one entry whose key is as projected, whatever key_storage() says. `key` is used as scratch.
  /// Otherwise as write().
  void write_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
                       const float* value) noexcept {
    if (key_storage() == KeyStorage::rotated) scale(layer, rope().attention_factor, key);
    encode(layer, kv_head, entry, key, value);
  }

  /// Drops all entries from `size` on (EntryTable::truncate).
  void truncate(std::size_t size) noexcept { entries_.truncate(size); }

  /// Keeps the selected entries, in place, and gives them positions 0 .. kept.keep() - 1.
  /// Precondition: kept.keep() <= max_keep(), kept.lanes() fits the granularity, indices ascend below size().
  template <Executor X = Serial>
  void keep(const Selection& kept, X executor = {}) noexcept {
    executor.for_each(shape().heads(), [&](std::size_t pair, std::size_t) {
      const std::size_t lane = pair / shape().heads_per_lane(granularity());
      const std::size_t layer = pair / shape().kv_heads, head = pair % shape().kv_heads;
      const auto compact = [&](std::byte* rows, std::size_t bytes) {
        compact_rows(rows, static_cast<std::ptrdiff_t>(bytes), bytes, kept.lane(lane));
      };
      compact(key_row(layer, head, 0), key_bytes_);
      compact(value_row(layer, head, 0), value_bytes_);
    });
    entries_.keep(kept, executor);
  }

  /// Keys of entries first .. first + count - 1, rotated for their positions, in `tile`, (count, head_dim).
  FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                     float* tile) const noexcept {
    const std::size_t d = shape().head_dim;
    for (std::size_t i = 0; i < count; ++i) {
      float* const key = tile + i * d;
      decode(layer, kv_head, first + i, key);
      if (key_storage() == KeyStorage::unrotated)
        rotate_for_reading(layer, first + i, key);
      else
        turn(layer, first + i, Turn::forward, key);
    }
    return {tile, static_cast<std::ptrdiff_t>(d)};
  }

  /// Values of entries first .. first + count - 1, in `tile`, (count, value_channels).
  FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                       float* tile) const noexcept {
    const std::size_t v = shape().value_channels();
    const std::byte* const rows = value_row(layer, kv_head, first);
    for (std::size_t i = 0; i < count; ++i)
      detail::dequantize_row<T>(rows + i * value_bytes_, v, tile + i * v);
    return {tile, static_cast<std::ptrdiff_t>(v)};
  }

 private:
  friend struct detail::PotAccess;

  /// Quantises an entry. `key` is not rotated; it is used as scratch.
  void encode(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
              const float* value) noexcept {
    const std::size_t d = shape().head_dim;
    if (!spread_.empty()) {
      const std::size_t at = shape().head_of(layer, kv_head) * d;
      for (std::size_t c = 0; c < d; ++c) key[c] = (key[c] - centre_[at + c]) / spread_[at + c];
    }
    detail::quantize_row<T>(key, d, key_row(layer, kv_head, entry));
    detail::quantize_row<T>(value, shape().value_channels(), value_row(layer, kv_head, entry));
  }

  /// A key, not rotated.
  void decode(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) const noexcept {
    const std::size_t d = shape().head_dim;
    detail::dequantize_row<T>(key_row(layer, kv_head, entry), d, key);
    if (spread_.empty()) return;
    const std::size_t at = shape().head_of(layer, kv_head) * d;
    for (std::size_t c = 0; c < d; ++c) key[c] = centre_[at + c] + spread_[at + c] * key[c];
  }

  std::byte* key_row(std::size_t layer, std::size_t kv_head, std::size_t entry) const noexcept {
    return keys_.data() + (shape().head_of(layer, kv_head) * capacity() + entry) * key_bytes_;
  }
  std::byte* value_row(std::size_t layer, std::size_t kv_head, std::size_t entry) const noexcept {
    return values_.data() + (shape().head_of(layer, kv_head) * capacity() + entry) * value_bytes_;
  }

  std::size_t key_bytes_, value_bytes_;  // of a row
  std::span<std::byte> keys_;            // (layers, kv_heads, capacity, key_bytes)
  std::span<std::byte> values_;          // (layers, kv_heads, capacity, value_bytes)
  std::span<float> centre_;              // (layers, kv_heads, head_dim), or empty
  std::span<float> spread_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
