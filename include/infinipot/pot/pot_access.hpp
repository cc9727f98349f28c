// Where the sections of a pot's file lie in a pot: one walk that checksums, writing and reading share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/element.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/pot/quantized_pot.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Sections of a file, in order. E entries, S survivors (entries with an original).
enum class Section : std::uint32_t {
  keys,             ///< (layers, kv_heads, E, row of a key)
  values,           ///< (layers, kv_heads, E, row of a value)
  originals,        ///< (layers that RoPE turns, kv_heads, S, row of a key) keys as first written
  first_positions,  ///< (lanes, S) u32 that they are rotated for
  positions,        ///< (lanes, E) u64
  tokens,           ///< (lanes, E) i32
  nuc,              ///< (lanes, E) f32
  pinned,           ///< (lanes, E) u8, 0 or 1
  survived,         ///< (lanes, E) u32
  key_centres,      ///< (layers, kv_heads, head_dim) f32, or empty
  key_spreads,      ///< the same
};
inline constexpr std::size_t sections = 11;

struct PotAccess {
  /// Bytes of a row of so many channels.
  template <class T>
  static std::size_t row_size(std::size_t channels) noexcept {
    if constexpr (Element<T>)
      return channels * sizeof(T);
    else
      return row_bytes<T>(channels);
  }

  static const std::vector<std::size_t>& layers_without_rope(const PotBase& pot) noexcept {
    return pot.settings_.layers_without_rope;
  }

  template <Element T>
  static std::size_t survivors(const Pot<T>& pot) noexcept {
    return pot.originals_.empty() ? 0 : pot.survivors_;
  }
  template <Quantized T>
  static std::size_t survivors(const Pot<T>& /*pot*/) noexcept {
    return 0;
  }

  /// Whether the pot would have originals if it had survivors.
  template <Element T>
  static bool remembers(const Pot<T>& pot) noexcept {
    return !pot.originals_.empty();
  }
  template <Quantized T>
  static bool remembers(const Pot<T>& /*pot*/) noexcept {
    return false;
  }

  template <Element T>
  static std::size_t channels(const Pot<T>& /*pot*/) noexcept {
    return 0;
  }
  template <Quantized T>
  static std::size_t channels(const Pot<T>& pot) noexcept {
    return pot.spread_.size();
  }

  /// Sets how many entries and survivors there are, before their sections are filled.
  template <class T>
  static void resize(Pot<T>& pot, std::size_t size, std::size_t survivors) noexcept {
    pot.entries_.size_ = size;
    ++pot.entries_.revision_;
    set_survivors(pot, survivors);
  }

  /// Calls function(bytes) for the pieces of a section, in file order.
  template <class T, class F>
  static void pieces(const Pot<T>& pot, Section section, F&& function) {
    switch (section) {
      case Section::keys:
      case Section::values:
        return rows(pot, section, function);
      case Section::originals:
        return originals(pot, function);
      case Section::first_positions:
        return first_positions(pot, function);
      case Section::positions:
        return records(pot, pot.entries_.positions_, function);
      case Section::tokens:
        return records(pot, pot.entries_.tokens_, function);
      case Section::nuc:
        return records(pot, pot.entries_.nuc_, function);
      case Section::pinned:
        return records(pot, pot.entries_.pinned_, function);
      case Section::survived:
        return records(pot, pot.entries_.survived_, function);
      case Section::key_centres:
      case Section::key_spreads:
        return key_channels(pot, section, function);
    }
  }

 private:
  template <Element T>
  static void set_survivors(Pot<T>& pot, std::size_t survivors) noexcept {
    pot.survivors_ = survivors;
    for (std::size_t lane = 0; lane < pot.lanes() && !pot.rows_.empty(); ++lane) {
      Index next = 0;
      for (Index& row : survivor_rows(pot, lane)) row = next++;
    }
  }
  template <Quantized T>
  static void set_survivors(Pot<T>& /*pot*/, std::size_t /*survivors*/) noexcept {}

  /// KeyOrigins::row of a lane's survivors.
  template <Element T>
  static std::span<Index> survivor_rows(const Pot<T>& pot, std::size_t lane) noexcept {
    return pot.origins(lane).row.first(survivors(pot));
  }

  template <class T>
  static std::span<std::byte> bytes_of(T* first, std::size_t count) noexcept {
    return {reinterpret_cast<std::byte*>(first), count * sizeof(T)};
  }

  template <Element T, class F>
  static void rows(const Pot<T>& pot, Section section, F& function) {
    const bool of_keys = section == Section::keys;
    const std::size_t channels = of_keys ? pot.shape().head_dim : pot.shape().value_channels();
    for (std::size_t layer = 0; layer < pot.shape().layers && channels > 0; ++layer) {
      const Rows<T>& rows = of_keys ? pot.keys(layer) : pot.values(layer);
      for (std::size_t head = 0; head < pot.shape().kv_heads; ++head)
        for (std::size_t entry = 0; entry < pot.size(); ++entry)
          function(bytes_of(rows.row(head, entry), channels));
    }
  }
  template <Quantized T, class F>
  static void rows(const Pot<T>& pot, Section section, F& function) {
    for (std::size_t layer = 0; layer < pot.shape().layers; ++layer)
      for (std::size_t head = 0; head < pot.shape().kv_heads; ++head)
        if (section == Section::keys)
          function(std::span(pot.key_row(layer, head, 0), pot.size() * pot.key_bytes_));
        else
          function(std::span(pot.value_row(layer, head, 0), pot.size() * pot.value_bytes_));
  }

  template <Element T, class F>
  static void originals(const Pot<T>& pot, F& function) {
    const std::size_t d = pot.shape().head_dim;
    for (std::size_t pair = 0; pair < pot.shape().heads(); ++pair) {
      const std::size_t kv_heads = pot.shape().kv_heads;
      if (survivors(pot) == 0 || !pot.rotates(pair / kv_heads)) continue;
      for (const Index row : survivor_rows(pot, pair / pot.shape().heads_per_lane(pot.granularity())))
        function(bytes_of(pot.originals(pair / kv_heads, pair % kv_heads) + row * d, d));
    }
  }
  template <Quantized T, class F>
  static void originals(const Pot<T>& /*pot*/, F& /*function*/) {}

  template <Element T, class F>
  static void first_positions(const Pot<T>& pot, F& function) {
    for (std::size_t lane = 0; lane < pot.lanes() && survivors(pot) > 0; ++lane)
      for (const Index row : survivor_rows(pot, lane))
        function(bytes_of(&pot.origins(lane).position[row], 1));
  }
  template <Quantized T, class F>
  static void first_positions(const Pot<T>& /*pot*/, F& /*function*/) {}

  template <class T, class Record, class F>
  static void records(const Pot<T>& pot, std::span<Record> all, F& function) {
    for (std::size_t lane = 0; lane < pot.lanes(); ++lane)
      function(bytes_of(pot.entries_.row(all, lane).data(), pot.size()));
  }

  template <Element T, class F>
  static void key_channels(const Pot<T>& /*pot*/, Section /*section*/, F& /*function*/) {}
  template <Quantized T, class F>
  static void key_channels(const Pot<T>& pot, Section section, F& function) {
    const std::span<float> all = section == Section::key_centres ? pot.centre_ : pot.spread_;
    function(bytes_of(all.data(), all.size()));
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
