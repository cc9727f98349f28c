// What a program may do with the bytes of a pot's file, whatever they are: one body for the fuzzer and for
// the tests.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace fuzz {

/// Bytes that a loaded pot may take before it is left alone.
inline constexpr std::size_t most_bytes = std::size_t{1} << 22;

/// Every second entry.
template <class T>
infinipot::Selection some_of(const infinipot::Pot<T>& pot) {
  infinipot::Selection kept(pot.entries().lanes(), std::min(pot.max_keep(), pot.size() / 2));
  for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
    for (std::size_t j = 0; j < kept.keep(); ++j)
      kept.lane(lane)[j] = static_cast<infinipot::Index>(2 * j + 1);
  return kept;
}

/// Uses a pot as a reader would: looks at all entries, drops some, writes new ones.
template <class T>
void use(infinipot::Pot<T> pot) {
  const infinipot::Shape shape = pot.shape();
  const std::size_t channels = std::max(shape.head_dim, shape.value_channels());
  std::vector<float> tile(channels), row(channels, 0.5F);
  for (int round = 0; round < 2; ++round) {
    for (std::size_t pair = 0; pair < shape.heads(); ++pair)
      for (std::size_t entry = 0; entry < pot.size(); ++entry) {
        pot.key_rows(pair / shape.kv_heads, pair % shape.kv_heads, entry, 1, tile.data());
        pot.value_rows(pair / shape.kv_heads, pair % shape.kv_heads, entry, 1, tile.data());
      }
    pot.keep(some_of(pot));
    if (pot.size() == pot.capacity()) continue;
    for (std::size_t pair = 0; pair < shape.heads(); ++pair)
      pot.write(pair / shape.kv_heads, pair % shape.kv_heads, pot.size(), row.data(), row.data());
    pot.append(std::array{infinipot::Entry{}});
  }
}

template <class T>
void load_and_use(std::span<const std::byte> file) {
  use(infinipot::load_pot<T>(file));
}

/// Returns whether the file was accepted. Anything but std::invalid_argument from a file that is not is a
/// fault.
inline bool try_pot_file(std::span<const std::byte> file) {
  infinipot::PotFileInfo info;
  try {
    info = infinipot::check_pot_file(file);
  } catch (const std::invalid_argument&) {
    return false;
  }
  const infinipot::PotSettings& s = info.settings;
  const double rows = static_cast<double>(s.shape.layers) * static_cast<double>(s.shape.kv_heads) *
                      static_cast<double>(s.capacity) *
                      (static_cast<double>(s.shape.head_dim) + static_cast<double>(s.shape.value_channels()) +
                       static_cast<double>(s.shape.layers) + 64);
  if (rows * 16 > static_cast<double>(most_bytes)) return true;
  try {
    switch (info.element) {
      case infinipot::ElementCode::float32:
        load_and_use<infinipot::f32>(file);
        break;
      case infinipot::ElementCode::float16:
        load_and_use<infinipot::f16>(file);
        break;
      case infinipot::ElementCode::bfloat16:
        load_and_use<infinipot::bf16>(file);
        break;
      case infinipot::ElementCode::codes8:
        load_and_use<infinipot::int8>(file);
        break;
      case infinipot::ElementCode::codes4:
        load_and_use<infinipot::int4>(file);
        break;
    }
  } catch (const std::invalid_argument&) {
    return false;  // what no pot can have, such as heads too wide for codes
  }
  return true;
}

inline void put_crc(std::span<std::byte> file, std::size_t at, std::span<const std::byte> of) {
  infinipot::detail::Crc32 crc;
  crc.add(of);
  const std::uint32_t value = crc.value();
  std::memcpy(file.data() + at, &value, sizeof value);
}

/// Makes all checksums right, as far as the file's places and sizes allow, so that what they would catch is
/// left to the other checks.
inline void repair_checksums(std::span<std::byte> file) {
  using infinipot::detail::file_sections;
  constexpr std::size_t header_bytes_at = 12;
  std::uint32_t header = 0;
  if (file.size() < header_bytes_at + sizeof header) return;
  std::memcpy(&header, file.data() + header_bytes_at, sizeof header);
  if (header < 24 * file_sections + 8 || header > file.size()) return;
  const std::size_t table = header - 8 - 24 * file_sections;
  for (std::size_t i = 0; i < file_sections; ++i) {
    std::uint64_t offset = 0, bytes = 0;
    std::memcpy(&offset, file.data() + table + 24 * i, 8);
    std::memcpy(&bytes, file.data() + table + 24 * i + 8, 8);
    if (offset <= file.size() && bytes <= file.size() - offset)
      put_crc(file, table + 24 * i + 16,
              file.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(bytes)));
  }
  put_crc(file, header - 8, file.first(header - 8));
}

}  // namespace fuzz
