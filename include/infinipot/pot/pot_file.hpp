// Pots in files: saved, checked, restored.
//
// A file is little-endian: a header with all of PotSettings, sizes, a table of sections with their CRC-32
// (zlib's) and the header's own CRC-32; then the sections (pot/pot_access.hpp), each at a multiple of 64
// bytes, so that a mapped file can be read in place. Rows are as in the pot, without its free capacity.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <span>

#include "infinipot/detail/error.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/pot/pot_access.hpp"
#include "infinipot/pot/pot_header.hpp"
#include "infinipot/pot/quantized_pot.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Writes a pot and `extra` bytes of the caller's (what its reader remembers: Ccd::memory()) to a stream
/// opened in binary mode. Check the stream's state afterwards: its failures are not reported here.
template <class T>
void save_pot(const Pot<T>& pot, std::ostream& out, std::span<const std::byte> extra = {}) {
  const detail::PotHeader header = detail::header_for(pot, extra);
  std::uint64_t at = 0;
  const auto write = [&](std::span<const std::byte> bytes) {
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    at += bytes.size();
  };
  write(detail::header_bytes(header));
  for (std::size_t i = 0; i < detail::file_sections; ++i) {
    const std::array<std::byte, detail::file_alignment> zeros{};
    write(std::span(zeros).first(static_cast<std::size_t>(header.table[i].offset - at)));
    if (i < detail::sections)
      detail::PotAccess::pieces(pot, static_cast<detail::Section>(i), write);
    else
      write(extra);
  }
}

/// Checks a whole file, in memory or mapped, and says what is in it. Throws std::invalid_argument saying what
/// is wrong.
inline PotFileInfo check_pot_file(std::span<const std::byte> file) {
  return detail::checked_header(file).info;
}

/// Restores a file into a pot of the same shape, element type, key storage, granularity, RoPE and number of
/// key channels, of no smaller capacity and with max_keep for its survivors. What the pot held is gone; its
/// reader goes on after Ccd::resume(). Throws std::invalid_argument saying what is wrong with the file, or
/// how it differs, before anything changes.
template <class T>
void restore_pot(std::span<const std::byte> file, Pot<T>& pot) {
  const detail::PotHeader header = detail::checked_header(file);
  const PotFileInfo& info = header.info;
  const PotSettings& s = info.settings;
  const auto same = [](bool equal, const char* what) {
    if (!equal) detail::invalid("the pot file is of another ", what, " than the pot");
  };
  same(info.element == element_code<T>, "element type");
  if (!(s.shape == pot.shape()))
    detail::invalid("the pot file is of another shape, ", s.shape, ", than the pot, ", pot.shape());
  same(s.key_storage == pot.key_storage(), "key storage");
  same(s.granularity == pot.granularity(), "granularity");
  same(s.rope == pot.rope() && s.layers_without_rope == detail::PotAccess::layers_without_rope(pot), "RoPE");
  same(info.channels == detail::PotAccess::channels(pot), "number of key channels");
  same(info.survivors == 0 || detail::PotAccess::remembers(pot), "memory of first keys");
  if (info.size > pot.capacity())
    detail::invalid("the pot file holds ", info.size, " entries, but the pot's capacity is ", pot.capacity());
  if (info.survivors > pot.max_keep())
    detail::invalid("the pot file holds ", info.survivors, " survivors, but the pot's max_keep is ",
                    pot.max_keep());
  if (s.capacity > pot.capacity())
    detail::invalid("the pot file is of a pot of ", s.capacity, " entries, more than this one's ",
                    pot.capacity());
  detail::PotAccess::resize(pot, info.size, info.survivors);
  for (std::size_t i = 0; i < detail::sections; ++i) {
    std::span<const std::byte> rest = detail::section_of(file, header, i);
    detail::PotAccess::pieces(pot, static_cast<detail::Section>(i), [&](std::span<std::byte> piece) {
      if (piece.empty()) return;
      std::memcpy(piece.data(), rest.data(), piece.size());
      rest = rest.subspan(piece.size());
    });
  }
}

/// A new pot as saved, of the capacity that the file names: call check_pot_file() first if that may exceed
/// memory. Throws std::invalid_argument as restore_pot() does, std::bad_alloc.
template <class T>
Pot<T> load_pot(std::span<const std::byte> file) {
  const detail::PotHeader header = detail::checked_header(file);
  if (header.info.element != element_code<T>) detail::invalid("the pot file is of another element type");
  auto pot = [&] {
    if constexpr (Quantized<T>) {
      if (header.info.channels != 0)
        return Pot<T>(header.info.settings, plain_key_channels(header.info.settings.shape));
    }
    return Pot<T>(header.info.settings);
  }();
  restore_pot(file, pot);
  return pot;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
