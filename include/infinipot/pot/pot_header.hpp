// The header of a pot's file, and everything that must be true of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/pot/crc32.hpp"
#include "infinipot/pot/file_numbers.hpp"
#include "infinipot/pot/pot_access.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/pot/quantized_pot.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// The version of the file format. Version 1 had no value dimension of its own, no first channel of RoPE and
/// no layers without it.
inline constexpr std::uint32_t pot_file_version = 2;

/// Element types as a file numbers them.
enum class ElementCode : std::uint32_t { float32, float16, bfloat16, codes8, codes4 };

template <class T>
inline constexpr ElementCode element_code = ElementCode::float32;
template <>
inline constexpr ElementCode element_code<f16> = ElementCode::float16;
template <>
inline constexpr ElementCode element_code<bf16> = ElementCode::bfloat16;
template <>
inline constexpr ElementCode element_code<int8> = ElementCode::codes8;
template <>
inline constexpr ElementCode element_code<int4> = ElementCode::codes4;

/// What a file says of its pot.
struct PotFileInfo {
  ElementCode element = ElementCode::float32;
  PotSettings settings;
  std::size_t size = 0;       ///< entries
  std::size_t survivors = 0;  ///< entries that have an original (KeyOrigins): the first ones
  std::size_t channels = 0;   ///< of KeyChannels; 0 if the pot has none
  /// What the caller of save_pot() added, in the file's memory.
  std::span<const std::byte> extra = {};
};

namespace detail {

inline constexpr std::string_view file_magic = "infinpot";
inline constexpr std::size_t file_alignment = 64;
/// The pot's sections and the caller's extra bytes.
inline constexpr std::size_t file_sections = sections + 1;

struct SectionRecord {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint32_t crc = 0;
};

struct PotHeader {
  PotFileInfo info;
  std::uint64_t header_bytes = 0;
  std::uint64_t file_bytes = 0;
  std::array<SectionRecord, file_sections> table;
};

constexpr std::uint64_t file_aligned(std::uint64_t bytes) noexcept {
  return (bytes + file_alignment - 1) / file_alignment * file_alignment;
}

/// a * b, or on overflow the largest number, a size that no file has.
constexpr std::uint64_t saturating_product(std::uint64_t a, std::uint64_t b) noexcept {
  return a != 0 && b > ~std::uint64_t{0} / a ? ~std::uint64_t{0} : a * b;
}

/// Lanes of a pot whose shape is not checked yet.
inline std::uint64_t lanes_of(const PotSettings& settings) noexcept {
  if (settings.granularity == Granularity::shared) return 1;
  return saturating_product(settings.shape.layers,
                            settings.granularity == Granularity::head ? settings.shape.kv_heads : 1);
}

/// On overflow a size that no file has.
inline std::uint64_t bytes_of_row(ElementCode element, std::size_t channels) noexcept {
  if (channels > ~std::size_t{0} / sizeof(f32)) return ~std::uint64_t{0};
  switch (element) {
    case ElementCode::float32:
      return PotAccess::row_size<f32>(channels);
    case ElementCode::float16:
    case ElementCode::bfloat16:
      return PotAccess::row_size<f16>(channels);
    case ElementCode::codes8:
      return PotAccess::row_size<int8>(channels);
    case ElementCode::codes4:
      break;
  }
  return PotAccess::row_size<int4>(channels);
}

/// Bytes of one of the pot's sections, by the header.
inline std::uint64_t section_bytes(const PotFileInfo& info, Section section) noexcept {
  const Shape& shape = info.settings.shape;
  const std::uint64_t heads = saturating_product(shape.layers, shape.kv_heads);
  const std::uint64_t lanes = lanes_of(info.settings);
  const auto all = [](std::uint64_t count, std::uint64_t each, std::uint64_t bytes) {
    return saturating_product(saturating_product(count, each), bytes);
  };
  switch (section) {
    case Section::keys:
      return all(heads, info.size, bytes_of_row(info.element, shape.head_dim));
    case Section::values:
      return all(heads, info.size, bytes_of_row(info.element, shape.value_channels()));
    case Section::originals:
      return all(saturating_product(shape.layers - info.settings.layers_without_rope.size(), shape.kv_heads),
                 info.survivors, bytes_of_row(info.element, shape.head_dim));
    case Section::first_positions:
      return all(lanes, info.survivors, sizeof(Index));
    case Section::positions:
      return all(lanes, info.size, sizeof(std::uint64_t));
    case Section::tokens:
      return all(lanes, info.size, sizeof(Token));
    case Section::nuc:
      return all(lanes, info.size, sizeof(float));
    case Section::pinned:
      return all(lanes, info.size, 1);
    case Section::survived:
      return all(lanes, info.size, sizeof(std::uint32_t));
    case Section::key_centres:
    case Section::key_spreads:
      break;
  }
  return saturating_product(info.channels, sizeof(float));
}

inline std::uint32_t crc_of(std::span<const std::byte> bytes) noexcept {
  Crc32 crc;
  crc.add(bytes);
  return crc.value();
}

/// A header with its own checksum. Its size depends only on the numbers of frequencies and of layers without
/// RoPE.
inline std::vector<std::byte> header_bytes(const PotHeader& header) {
  const PotFileInfo& info = header.info;
  const PotSettings& s = info.settings;
  HeaderWriter out;
  out.put(file_magic);
  out.put(pot_file_version);
  out.put(static_cast<std::uint32_t>(header.header_bytes));
  out.put(header.file_bytes);
  for (const auto choice :
       {static_cast<std::uint32_t>(info.element), static_cast<std::uint32_t>(s.key_storage),
        static_cast<std::uint32_t>(s.granularity), static_cast<std::uint32_t>(s.rope.pairing)})
    out.put(choice);
  for (const std::size_t number :
       {s.shape.layers, s.shape.query_heads, s.shape.kv_heads, s.shape.head_dim, s.capacity, s.max_keep,
        info.size, info.survivors, info.channels, s.rope.frequencies.size(), s.shape.value_channels(),
        s.rope.first_channel, s.layers_without_rope.size()})
    out.put(std::uint64_t{number});
  out.put(s.rope.attention_factor);
  for (const double frequency : s.rope.frequencies) out.put(frequency);
  for (const std::size_t layer : s.layers_without_rope) out.put(std::uint64_t{layer});
  for (const SectionRecord& section : header.table) {
    out.put(section.offset);
    out.put(section.bytes);
    out.put(section.crc);
    out.put(std::uint32_t{0});
  }
  out.put(crc_of(out.bytes()));
  out.put(std::uint32_t{0});
  return std::move(out.bytes());
}

/// Throws std::invalid_argument if the header is malformed or damaged.
inline PotHeader read_header(std::span<const std::byte> file) {
  check_endianness();
  if (file.size() < file_magic.size() || std::memcmp(file.data(), file_magic.data(), file_magic.size()) != 0)
    invalid("this is not a pot file");
  HeaderReader in(file);
  in.get<std::uint64_t>();
  PotHeader header;
  const auto version = in.get<std::uint32_t>();
  if (version == 0 || version > pot_file_version)
    invalid("the pot file has version ", version, "; this library reads versions 1 .. ", pot_file_version);
  header.header_bytes = in.get<std::uint32_t>();
  header.file_bytes = in.get<std::uint64_t>();
  if (header.file_bytes != file.size())
    invalid("the pot file has ", file.size(), " bytes, but should have ", header.file_bytes);
  PotFileInfo& info = header.info;
  PotSettings& s = info.settings;
  info.element = in.get_choice<ElementCode>("element type", 5);
  s.key_storage = in.get_choice<KeyStorage>("key storage", 2);
  s.granularity = in.get_choice<Granularity>("granularity", 3);
  s.rope.pairing = in.get_choice<Pairing>("RoPE pairing", 2);
  const auto get_all = [&in](std::initializer_list<std::size_t*> numbers) {
    for (std::size_t* const number : numbers) *number = static_cast<std::size_t>(in.get<std::uint64_t>());
  };
  std::size_t frequencies = 0, without_rope = 0;
  get_all({&s.shape.layers, &s.shape.query_heads, &s.shape.kv_heads, &s.shape.head_dim, &s.capacity,
           &s.max_keep, &info.size, &info.survivors, &info.channels, &frequencies});
  if (version > 1) get_all({&s.shape.value_dim, &s.rope.first_channel, &without_rope});
  const auto no_fit = [&] {
    invalid("the pot file's header of ", header.header_bytes, " bytes does not fit ", frequencies,
            " frequencies and ", without_rope, " layers without RoPE");
  };
  if (header.header_bytes > file.size() || header.header_bytes < in.at() ||
      frequencies > (header.header_bytes - in.at()) / sizeof(double) ||
      without_rope > (header.header_bytes - in.at()) / sizeof(std::uint64_t) - frequencies)
    no_fit();
  const std::size_t checked = header.header_bytes - 8;
  HeaderReader checksum(file.subspan(checked));
  if (checksum.get<std::uint32_t>() != crc_of(file.first(checked)))
    invalid("the pot file's header is damaged: its checksum is wrong");
  s.rope.attention_factor = in.get<double>();
  s.rope.frequencies.resize(frequencies);
  for (double& frequency : s.rope.frequencies) frequency = in.get<double>();
  s.layers_without_rope.resize(without_rope);
  for (std::size_t& layer : s.layers_without_rope) layer = static_cast<std::size_t>(in.get<std::uint64_t>());
  for (SectionRecord& section : header.table) {
    section.offset = in.get<std::uint64_t>();
    section.bytes = in.get<std::uint64_t>();
    section.crc = in.get<std::uint32_t>();
    in.get<std::uint32_t>();
  }
  if (in.at() != checked) no_fit();
  return header;
}

/// Throws std::invalid_argument unless sizes and offsets of all sections follow from the header.
inline void check_sizes(const PotHeader& header) {
  const PotFileInfo& info = header.info;
  const PotSettings& s = info.settings;
  PotSettings(s).checked();
  if (info.size > s.capacity)
    invalid("the pot file holds ", info.size, " entries, more than its capacity ", s.capacity);
  if (info.survivors > (std::min)(info.size, s.max_keep))
    invalid("the pot file holds ", info.survivors, " survivors of ", info.size, " entries and max_keep ",
            s.max_keep);
  if (info.channels != 0 &&
      info.channels !=
          saturating_product(saturating_product(s.shape.layers, s.shape.kv_heads), s.shape.head_dim))
    invalid("the pot file has ", info.channels, " key channels, which do not fit its shape");
  std::uint64_t offset = file_aligned(header.header_bytes);
  for (std::size_t i = 0; i < file_sections; ++i) {
    const SectionRecord& section = header.table[i];
    if (section.offset != offset ||
        (i < sections && section.bytes != section_bytes(info, static_cast<Section>(i))) ||
        section.offset > header.file_bytes || section.bytes > header.file_bytes - section.offset)
      invalid("the pot file's section ", i, " has ", section.bytes, " bytes at ", section.offset,
              ", which is not what its header asks for");
    offset = file_aligned(section.offset + section.bytes);
  }
  if (header.table.back().offset + header.table.back().bytes != header.file_bytes)
    invalid("the pot file goes on after its last section");
}

inline std::span<const std::byte> section_of(std::span<const std::byte> file, const PotHeader& header,
                                             std::size_t i) noexcept {
  return file.subspan(static_cast<std::size_t>(header.table[i].offset),
                      static_cast<std::size_t>(header.table[i].bytes));
}

template <class T>
T file_number(std::span<const std::byte> bytes, std::size_t i) noexcept {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof value);
  return value;
}

/// Throws std::invalid_argument for key channels that no pot can have.
inline void check_channels(std::span<const std::byte> file, const PotHeader& header) {
  const PotFileInfo& info = header.info;
  if (info.channels == 0) return;
  const auto of = [&](Section section) {
    return section_of(file, header, static_cast<std::size_t>(section));
  };
  KeyChannels channels;
  for (std::size_t i = 0; i < info.channels; ++i) {
    channels.centre.push_back(file_number<float>(of(Section::key_centres), i));
    channels.spread.push_back(file_number<float>(of(Section::key_spreads), i));
  }
  channels.validate(info.settings.shape);
}

/// Throws std::invalid_argument for records that no pot can have.
inline void check_records(std::span<const std::byte> file, const PotHeader& header) {
  const PotFileInfo& info = header.info;
  const auto of = [&](Section section) {
    return section_of(file, header, static_cast<std::size_t>(section));
  };
  const auto positions = of(Section::positions), pinned = of(Section::pinned), tokens = of(Section::tokens);
  const auto firsts = of(Section::first_positions);
  // Skips empty lanes: a file may claim any number of them.
  const std::uint64_t lanes = pinned.empty() ? 0 : lanes_of(info.settings);
  for (std::size_t lane = 0, at = 0, moved = 0; lane < lanes; ++lane) {
    for (std::size_t i = 0; i < info.size; ++i, ++at) {
      if (static_cast<std::uint8_t>(pinned[at]) > 1)
        invalid("the pot file's pinned flag ", at, " is neither 0 nor 1");
      if (file_number<Token>(tokens, at) < 0) invalid("the pot file's token ", at, " is negative");
      if (i != 0 &&
          file_number<std::uint64_t>(positions, at) <= file_number<std::uint64_t>(positions, at - 1))
        invalid("the pot file's positions do not ascend at ", at);
      if (const auto position = file_number<std::uint64_t>(positions, at); position >= positions_end)
        invalid("the pot file's position ", position, " at ", at, " is that of no text");
    }
    for (std::size_t i = 0; i < info.survivors; ++i, ++moved)
      if (const auto first = file_number<Index>(firsts, moved); first < i || first >= info.settings.capacity)
        invalid("the pot file's key ", moved, " was first at ", first, ", which cannot be");
  }
  check_channels(file, header);
}

/// All checks. Throws std::invalid_argument.
inline PotHeader checked_header(std::span<const std::byte> file) {
  PotHeader header = read_header(file);
  check_sizes(header);
  for (std::size_t i = 0; i < file_sections; ++i)
    if (crc_of(section_of(file, header, i)) != header.table[i].crc)
      invalid("the pot file is damaged: the checksum of its section ", i, " is wrong");
  check_records(file, header);
  header.info.extra = section_of(file, header, sections);
  return header;
}

template <class T>
PotHeader header_for(const Pot<T>& pot, std::span<const std::byte> extra) {
  check_endianness();
  PotHeader header;
  header.info = {element_code<T>,
                 {pot.shape(), pot.capacity(), pot.max_keep(), pot.granularity(), pot.key_storage(),
                  pot.rope(), PotAccess::layers_without_rope(pot)},
                 pot.size(),
                 PotAccess::survivors(pot),
                 PotAccess::channels(pot)};
  header.header_bytes = header_bytes(header).size();
  std::uint64_t end = header.header_bytes;
  for (std::size_t i = 0; i < file_sections; ++i) {
    Crc32 crc;
    std::uint64_t bytes = 0;
    const auto add = [&](std::span<const std::byte> piece) {
      crc.add(piece);
      bytes += piece.size();
    };
    if (i < sections)
      PotAccess::pieces(pot, static_cast<Section>(i), add);
    else
      add(extra);
    header.table[i] = {file_aligned(end), bytes, crc.value()};
    end = header.table[i].offset + header.table[i].bytes;
  }
  header.file_bytes = end;
  return header;
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
