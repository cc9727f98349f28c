// The header of a pot's file, and everything that must be true of it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/crc32.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/detail/pot_access.hpp"
#include "infinipot/pot_settings.hpp"
#include "infinipot/quantized_pot.hpp"

namespace infinipot {

/// The version of the file format that this library writes, and the only one that it reads.
inline constexpr std::uint32_t pot_file_version = 1;

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
  std::size_t size = 0;       ///< entries
  std::size_t survivors = 0;  ///< of those, how many a distillation has moved
  std::size_t channels = 0;   ///< of KeyChannels; 0 where the pot was told none
  /// What the one who saved the pot added, in the file's memory.
  std::span<const std::byte> extra;
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

/// Bytes of the pot's sections, from what the header says.
inline std::array<std::uint64_t, sections> section_bytes(const PotFileInfo& info,
                                                         std::uint64_t row) noexcept {
  const Shape& shape = info.settings.shape;
  const std::uint64_t heads = saturating_product(shape.layers, shape.kv_heads);
  const std::uint64_t lanes = info.settings.granularity == Granularity::head    ? heads
                              : info.settings.granularity == Granularity::layer ? shape.layers
                                                                                : 1;
  const auto rows = [&](std::uint64_t entries) {
    return saturating_product(saturating_product(heads, entries), row);
  };
  const std::uint64_t records = saturating_product(lanes, info.size);
  const std::uint64_t channels = saturating_product(info.channels, sizeof(float));
  return {rows(info.size),
          rows(info.size),
          rows(info.survivors),
          saturating_product(saturating_product(lanes, info.survivors), sizeof(Index)),
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
constexpr std::uint64_t header_size(std::uint64_t frequencies) noexcept {
  return 8 + 2 * 4 + 8 + 4 * 4 + 10 * 8 + 8 + saturating_product(frequencies, 8) + file_sections * 24 + 8;
}

/// Appends numbers, as this machine (little-endian) has them.
class HeaderWriter {
 public:
  template <class T>
  void put(T value) {
    const auto* const first = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof value);
  }
  void put(std::string_view text) {
    for (const char c : text) put(c);
  }
  std::vector<std::byte>& bytes() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Takes numbers off the front of a file.
class HeaderReader {
 public:
  explicit HeaderReader(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}

  /// Throws std::invalid_argument at the file's end.
  template <class T>
  T get() {
    if (bytes_.size() - at_ < sizeof(T)) invalid("the pot file ends inside its header");
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  /// An enumerator, of which there are `count`.
  template <class E>
  E get_choice(const char* what, std::uint32_t count) {
    const auto value = get<std::uint32_t>();
    if (value >= count) invalid("the pot file's ", what, ' ', value, " is out of range 0 .. ", count - 1);
    return static_cast<E>(value);
  }

  std::size_t at() const noexcept { return at_; }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

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
        info.size, info.survivors, info.channels, s.rope.frequencies.size()})
    out.put(std::uint64_t{number});
  out.put(s.rope.attention_factor);
  for (const double frequency : s.rope.frequencies) out.put(frequency);
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

/// Throws std::invalid_argument where numbers would have to be turned around.
inline void check_endianness() {
  if constexpr (std::endian::native != std::endian::little)
    invalid("pot files are for little-endian machines");
}

/// Throws std::invalid_argument unless everything in the header is in order.
inline PotHeader read_header(std::span<const std::byte> file) {
  check_endianness();
  if (file.size() < file_magic.size() || std::memcmp(file.data(), file_magic.data(), file_magic.size()) != 0)
    invalid("this is not a pot file");
  HeaderReader in(file);
  in.get<std::uint64_t>();
  PotHeader header;
  if (const auto version = in.get<std::uint32_t>(); version != pot_file_version)
    invalid("the pot file has version ", version, "; this library reads version ", pot_file_version);
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
  if (frequencies > file.size() || header.header_bytes != header_size(frequencies) ||
      header.header_bytes > file.size())
    invalid("the pot file's header of ", header.header_bytes, " bytes does not fit ", frequencies,
            " frequencies");
  const std::size_t checked = header.header_bytes - 8;
  HeaderReader checksum(file.subspan(checked));
  if (checksum.get<std::uint32_t>() != crc_of(file.first(checked)))
    invalid("the pot file's header is damaged: its checksum is wrong");
  s.rope.attention_factor = in.get<double>();
  s.rope.frequencies.resize(static_cast<std::size_t>(frequencies));
  for (double& frequency : s.rope.frequencies) frequency = in.get<double>();
  for (SectionRecord& section : header.table) {
    section.offset = in.get<std::uint64_t>();
    section.bytes = in.get<std::uint64_t>();
    section.crc = in.get<std::uint32_t>();
    in.get<std::uint32_t>();
  }
  return header;
}

/// Throws std::invalid_argument unless sizes and places of all sections follow from the header.
inline void check_sizes(const PotHeader& header) {
  const PotFileInfo& info = header.info;
  const PotSettings& s = info.settings;
  PotSettings(s).checked();
  if (info.size > s.capacity)
    invalid("the pot file holds ", info.size, " entries, more than its capacity ", s.capacity);
  if (info.survivors > std::min(info.size, s.max_keep))
    invalid("the pot file holds ", info.survivors, " survivors of ", info.size, " entries and max_keep ",
            s.max_keep);
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

/// Throws std::invalid_argument for records that no pot can have.
inline void check_records(std::span<const std::byte> file, const PotHeader& header) {
  const PotFileInfo& info = header.info;
  const auto of = [&](Section section) {
    return section_of(file, header, static_cast<std::size_t>(section));
  };
  const auto positions = of(Section::positions), pinned = of(Section::pinned), tokens = of(Section::tokens);
  for (std::size_t at = 0; at < pinned.size(); ++at) {
    if (static_cast<std::uint8_t>(pinned[at]) > 1)
      invalid("the pot file's pinned flag ", at, " is neither 0 nor 1");
    if (file_number<Token>(tokens, at) < 0) invalid("the pot file's token ", at, " is negative");
    if (at % info.size != 0 &&
        file_number<std::uint64_t>(positions, at) <= file_number<std::uint64_t>(positions, at - 1))
      invalid("the pot file's positions do not ascend at ", at);
  }
  const auto firsts = of(Section::first_positions);
  for (std::size_t at = 0; at < firsts.size() / sizeof(Index); ++at)
    if (const auto first = file_number<Index>(firsts, at);
        first < at % info.survivors || first >= info.settings.capacity)
      invalid("the pot file's key ", at, " was first at ", first, ", which cannot be");
  if (info.channels == 0) return;
  KeyChannels channels;
  for (std::size_t i = 0; i < info.channels; ++i) {
    channels.centre.push_back(file_number<float>(of(Section::key_centres), i));
    channels.spread.push_back(file_number<float>(of(Section::key_spreads), i));
  }
  channels.validate(info.settings.shape);
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
  header.info = {
      element_code<T>,
      {pot.shape(), pot.capacity(), pot.max_keep(), pot.granularity(), pot.key_storage(), pot.rope()},
      pot.size(),
      PotAccess::survivors(pot),
      PotAccess::channels(pot),
      {}};
  header.header_bytes = header_size(pot.rope().frequencies.size());
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
