// The header of a pot's file, and everything that must be true of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/crc32.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/file_numbers.hpp"
#include "infinipot/detail/pot_access.hpp"
#include "infinipot/pot_settings.hpp"
#include "infinipot/quantized_pot.hpp"

namespace infinipot {

/// The version of the file format that this library writes. It also reads version 1, which has no budgets.
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

/// What a file says of the pot in it.
struct PotFileInfo {
  ElementCode element = ElementCode::float32;
  PotSettings settings;
  std::size_t size = 0;       ///< entries; with budgets, where they end (EntryTable::size)
  std::size_t survivors = 0;  ///< entries before this one are those that a distillation has moved
  std::size_t channels = 0;   ///< of KeyChannels; 0 where the pot was told none
  /// With budgets, the first entry of each layer; else empty: it is 0.
  std::vector<std::size_t> begins = {};
  /// What the one who saved the pot added, in the file's memory.
  std::span<const std::byte> extra = {};
};

namespace detail {

inline constexpr std::string_view file_magic = "infinpot";
inline constexpr std::size_t file_alignment = 64;
/// The pot's sections and what the caller adds.
inline constexpr std::size_t file_sections = sections + 1;

struct SectionRecord {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint32_t crc = 0;
};

struct PotHeader {
  std::uint32_t version = pot_file_version;
  PotFileInfo info;
  std::uint64_t header_bytes = 0;
  std::uint64_t file_bytes = 0;
  std::array<SectionRecord, file_sections> table;
};

constexpr std::uint64_t file_aligned(std::uint64_t bytes) noexcept {
  return (bytes + file_alignment - 1) / file_alignment * file_alignment;
}

/// a * b, or the largest number where that is too large, so that no file can have it.
constexpr std::uint64_t saturating_product(std::uint64_t a, std::uint64_t b) noexcept {
  return a != 0 && b > ~std::uint64_t{0} / a ? ~std::uint64_t{0} : a * b;
}

/// Layers that have lanes of their own, and how many: one of one if a lane is of all layers.
struct LaneCounts {
  std::uint64_t layers, members;
};
inline LaneCounts lane_counts(const PotSettings& settings) noexcept {
  if (settings.granularity == Granularity::shared) return {1, 1};
  return {settings.shape.layers, settings.granularity == Granularity::head ? settings.shape.kv_heads : 1};
}

/// Entries of one lane or kv head of a layer up to `end`.
inline std::uint64_t entries_up_to(const PotFileInfo& info, std::size_t end, std::size_t layer) noexcept {
  return info.begins.empty() ? end : end - std::min(end, info.begins[layer]);
}

/// The same of all `members` lanes or heads of all layers.
inline std::uint64_t all_up_to(const PotFileInfo& info, std::size_t end, LaneCounts lanes) noexcept {
  if (info.begins.empty()) return saturating_product(saturating_product(lanes.layers, lanes.members), end);
  std::uint64_t sum = 0;  // fits: as many layers stand in the file, and entries are below 2^32
  for (std::size_t layer = 0; layer < info.begins.size(); ++layer) sum += entries_up_to(info, end, layer);
  return saturating_product(sum, lanes.members);
}

/// Bytes of the pot's sections, from what the header says.
inline std::array<std::uint64_t, sections> section_bytes(const PotFileInfo& info,
                                                         std::uint64_t row) noexcept {
  const LaneCounts heads{info.settings.shape.layers, info.settings.shape.kv_heads};
  const LaneCounts lanes = lane_counts(info.settings);
  const auto rows = [&](std::size_t end) { return saturating_product(all_up_to(info, end, heads), row); };
  const std::uint64_t records = all_up_to(info, info.size, lanes);
  const std::uint64_t channels = saturating_product(info.channels, sizeof(float));
  return {rows(info.size),
          rows(info.size),
          rows(info.survivors),
          saturating_product(all_up_to(info, info.survivors, lanes), sizeof(Index)),
          saturating_product(records, sizeof(std::uint64_t)),
          saturating_product(records, sizeof(Token)),
          saturating_product(records, sizeof(float)),
          records,
          saturating_product(records, sizeof(std::uint32_t)),
          channels,
          channels};
}

inline std::uint64_t bytes_of_row(ElementCode element, std::size_t head_dim) noexcept {
  const Shape shape{1, 1, 1, head_dim};
  switch (element) {
    case ElementCode::float32:
      return PotAccess::row_size<f32>(shape);
    case ElementCode::float16:
    case ElementCode::bfloat16:
      return PotAccess::row_size<f16>(shape);
    case ElementCode::codes8:
      return PotAccess::row_size<int8>(shape);
    case ElementCode::codes4:
      break;
  }
  return PotAccess::row_size<int4>(shape);
}

/// Bytes of a header up to and with its own checksum.
constexpr std::uint64_t header_size(std::uint32_t version, std::uint64_t frequencies,
                                    std::uint64_t budgets) noexcept {
  const std::uint64_t rest = 8 + 2 * 4 + 8 + 4 * 4 + 10 * 8 + 8 + file_sections * 24 + 8;
  const std::uint64_t layers = version == 1 ? 0 : 8 + saturating_product(budgets, 16);
  return rest + layers + saturating_product(frequencies, 8);
}

inline std::uint32_t crc_of(std::span<const std::byte> bytes) noexcept {
  Crc32 crc;
  crc.add(bytes);
  return crc.value();
}

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
        info.size, info.survivors, info.channels, s.rope.frequencies.size(), s.budgets.size()})
    out.put(std::uint64_t{number});
  out.put(s.rope.attention_factor);
  for (const double frequency : s.rope.frequencies) out.put(frequency);
  for (const std::size_t budget : s.budgets) out.put(std::uint64_t{budget});
  for (const std::size_t begin : info.begins) out.put(std::uint64_t{begin});
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

/// Throws std::invalid_argument unless everything in the header is in order.
inline PotHeader read_header(std::span<const std::byte> file) {
  check_endianness();
  if (file.size() < file_magic.size() || std::memcmp(file.data(), file_magic.data(), file_magic.size()) != 0)
    invalid("this is not a pot file");
  HeaderReader in(file);
  in.get<std::uint64_t>();
  PotHeader header;
  header.version = in.get<std::uint32_t>();
  if (header.version < 1 || header.version > pot_file_version)
    invalid("the pot file has version ", header.version, "; this library reads versions 1 .. ",
            pot_file_version);
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
  for (std::size_t* const number :
       {&s.shape.layers, &s.shape.query_heads, &s.shape.kv_heads, &s.shape.head_dim, &s.capacity, &s.max_keep,
        &info.size, &info.survivors, &info.channels})
    *number = static_cast<std::size_t>(in.get<std::uint64_t>());
  const auto frequencies = in.get<std::uint64_t>();
  const std::uint64_t budgets = header.version == 1 ? 0 : in.get<std::uint64_t>();
  if (frequencies > file.size() || budgets > file.size() ||
      header.header_bytes != header_size(header.version, frequencies, budgets) ||
      header.header_bytes > file.size())
    invalid("the pot file's header of ", header.header_bytes, " bytes does not fit ", frequencies,
            " frequencies and ", budgets, " budgets");
  const std::size_t checked = header.header_bytes - 8;
  HeaderReader checksum(file.subspan(checked));
  if (checksum.get<std::uint32_t>() != crc_of(file.first(checked)))
    invalid("the pot file's header is damaged: its checksum is wrong");
  s.rope.attention_factor = in.get<double>();
  s.rope.frequencies.resize(static_cast<std::size_t>(frequencies));
  for (double& frequency : s.rope.frequencies) frequency = in.get<double>();
  for (std::vector<std::size_t>* const numbers : {&s.budgets, &info.begins}) {
    numbers->resize(static_cast<std::size_t>(budgets));
    for (std::size_t& number : *numbers) number = static_cast<std::size_t>(in.get<std::uint64_t>());
  }
  for (SectionRecord& section : header.table) {
    section.offset = in.get<std::uint64_t>();
    section.bytes = in.get<std::uint64_t>();
    section.crc = in.get<std::uint32_t>();
    in.get<std::uint32_t>();
  }
  return header;
}

/// Throws std::invalid_argument unless layers begin where they may.
inline void check_begins(const PotFileInfo& info) {
  const PotSettings& s = info.settings;
  if (s.budgets.empty()) return;
  const LayerRows rows(s.shape.kv_heads, s.capacity, s.max_keep, s.budgets);
  if (info.size < rows.start())
    invalid("the pot file's entries end at ", info.size, ", before their start at ", rows.start());
  for (std::size_t layer = 0; layer < s.budgets.size(); ++layer)
    if (info.begins[layer] < rows.first(layer) || info.begins[layer] > rows.start())
      invalid("the pot file's layer ", layer, " begins at ", info.begins[layer], ", which is out of range ",
              rows.first(layer), " .. ", rows.start());
}

/// Throws std::invalid_argument unless sizes and places of all sections follow from the header.
inline void check_sizes(const PotHeader& header) {
  const PotFileInfo& info = header.info;
  const PotSettings& s = info.settings;
  if (PotSettings(s).checked().budgets != s.budgets)
    invalid("the pot file's budgets are all the same, and should not be there");
  if (info.size > s.capacity)
    invalid("the pot file holds ", info.size, " entries, more than its capacity ", s.capacity);
  if (info.survivors > std::min(info.size, s.max_keep))
    invalid("the pot file holds ", info.survivors, " survivors of ", info.size, " entries and max_keep ",
            s.max_keep);
  check_begins(info);
  if (info.channels != 0 &&
      info.channels !=
          saturating_product(saturating_product(s.shape.layers, s.shape.kv_heads), s.shape.head_dim))
    invalid("the pot file has ", info.channels, " key channels, which do not fit its shape");
  const auto bytes = section_bytes(info, bytes_of_row(info.element, s.shape.head_dim));
  std::uint64_t offset = file_aligned(header.header_bytes);
  for (std::size_t i = 0; i < file_sections; ++i) {
    const SectionRecord& section = header.table[i];
    if (section.offset != offset || (i < sections && section.bytes != bytes[i]) ||
        section.offset > header.file_bytes || section.bytes > header.file_bytes - section.offset)
      invalid("the pot file's section ", i, " has ", section.bytes, " bytes at ", section.offset,
              ", which is not what its header asks for");
    offset = file_aligned(section.offset + section.bytes);
  }
  if (header.table.back().offset + header.table.back().bytes != header.file_bytes)
    invalid("the pot file goes on behind its last section");
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
  const LaneCounts lanes = lane_counts(info.settings);
  // Lanes with nothing in them need no look, and a file may claim any number of those.
  if (pinned.empty()) return check_channels(file, header);
  for (std::size_t lane = 0, at = 0, moved = 0; lane < lanes.layers * lanes.members; ++lane) {
    const std::size_t layer = lane / lanes.members;
    for (std::size_t i = 0; i < entries_up_to(info, info.size, layer); ++i, ++at) {
      if (static_cast<std::uint8_t>(pinned[at]) > 1)
        invalid("the pot file's pinned flag ", at, " is neither 0 nor 1");
      if (file_number<Token>(tokens, at) < 0) invalid("the pot file's token ", at, " is negative");
      if (i != 0 &&
          file_number<std::uint64_t>(positions, at) <= file_number<std::uint64_t>(positions, at - 1))
        invalid("the pot file's positions do not ascend at ", at);
    }
    const std::size_t begin = info.begins.empty() ? 0 : info.begins[layer];
    for (std::size_t i = 0; i < entries_up_to(info, info.survivors, layer); ++i, ++moved)
      if (const auto first = file_number<Index>(firsts, moved);
          first < begin + i || first >= info.settings.capacity)
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
                 {pot.shape(),
                  pot.capacity(),
                  pot.max_keep(),
                  pot.granularity(),
                  pot.key_storage(),
                  pot.rope(),
                  {pot.budgets().begin(), pot.budgets().end()}},
                 pot.size(),
                 PotAccess::survivors(pot),
                 PotAccess::channels(pot),
                 PotAccess::begins(pot)};
  header.header_bytes = header_size(header.version, pot.rope().frequencies.size(), pot.budgets().size());
  const auto bytes = section_bytes(header.info, PotAccess::row_size<T>(pot.shape()));
  std::uint64_t end = header.header_bytes;
  for (std::size_t i = 0; i < file_sections; ++i) {
    Crc32 crc;
    if (i < sections)
      PotAccess::pieces(pot, static_cast<Section>(i),
                        [&](std::span<const std::byte> piece) { crc.add(piece); });
    else
      crc.add(extra);
    header.table[i] = {file_aligned(end), i < sections ? bytes[i] : extra.size(), crc.value()};
    end = header.table[i].offset + header.table[i].bytes;
  }
  header.file_bytes = end;
  return header;
}

}  // namespace detail
}  // namespace infinipot
