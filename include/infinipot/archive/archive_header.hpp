// The header of an archive's file, and everything that must be true of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/archive/archive_settings.hpp"
#include "infinipot/archive/block_header.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/pot/crc32.hpp"
#include "infinipot/pot/file_numbers.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// The version of the file format.
inline constexpr std::uint32_t archive_file_version = 1;

namespace detail {

inline constexpr std::string_view archive_magic = "infinarc";
/// Magic, version, and how many bytes the header has, its CRC included: all versions begin like this.
inline constexpr std::size_t archive_preamble_bytes = 16;
/// The header has everything but blocks; more than this is not one.
inline constexpr std::uint32_t most_archive_header = std::uint32_t{1} << 28U;

/// A header with its own checksum.
inline std::vector<std::byte> archive_header_bytes(const ArchiveSettings& s) {
  HeaderWriter out;
  const std::size_t bytes = archive_preamble_bytes + 12 + std::size_t{9} * 8 + 8 + s.fingerprint.size() +
                            8 * s.rope.frequencies.size() + 8 * s.channels.centre.size() + 4;
  if (bytes > most_archive_header)
    invalid("an archive's header of ", bytes, " bytes is too large; leave out its channels");
  out.put(archive_magic);
  out.put(archive_file_version);
  out.put(static_cast<std::uint32_t>(bytes));
  out.put(static_cast<std::uint32_t>(s.type));
  out.put(static_cast<std::uint32_t>(s.rope.pairing));
  out.put(static_cast<std::uint32_t>(s.fingerprint.size()));
  for (const std::uint64_t number :
       {std::uint64_t{s.shape.layers}, std::uint64_t{s.shape.query_heads}, std::uint64_t{s.shape.kv_heads},
        std::uint64_t{s.shape.head_dim}, std::uint64_t{s.shape.value_channels()}, std::uint64_t{s.block},
        std::uint64_t{s.rope.first_channel}, s.limit, std::uint64_t{s.rope.frequencies.size()}})
    out.put(number);
  out.put(s.rope.attention_factor);
  for (const double frequency : s.rope.frequencies) out.put(frequency);
  out.put(std::span(s.channels.centre));
  out.put(std::span(s.channels.spread));
  out.put(std::string_view(s.fingerprint));
  Crc32 crc;
  crc.add(out.bytes());
  out.put(crc.value());
  return std::move(out.bytes());
}

/// BlockHeader::archive: the header's CRC.
inline std::uint32_t archive_id(std::span<const std::byte> header) noexcept {
  std::uint32_t crc = 0;
  std::memcpy(&crc, header.last(sizeof crc).data(), sizeof crc);
  return crc;
}

/// How many bytes the header has that begins so. Throws std::invalid_argument if it is none.
inline std::uint32_t archive_header_size(std::span<const std::byte> preamble, std::uint64_t file_bytes,
                                         const std::string& path) {
  check_endianness();
  if (preamble.size() < archive_preamble_bytes ||
      std::memcmp(preamble.data(), archive_magic.data(), archive_magic.size()) != 0)
    invalid(path, " is not an archive");
  HeaderReader in(preamble, "archive");
  in.get<std::uint64_t>();
  if (const auto version = in.get<std::uint32_t>(); version != archive_file_version)
    invalid(path, " has version ", version, "; this library reads version ", archive_file_version);
  const auto bytes = in.get<std::uint32_t>();
  if (bytes > file_bytes || bytes > most_archive_header || bytes < archive_preamble_bytes + 4)
    invalid(path, " is cut short: its header has ", bytes, " bytes, the file ", file_bytes);
  return bytes;
}

/// Throws std::invalid_argument if the header is malformed or damaged.
inline ArchiveSettings read_archive_header(std::span<const std::byte> header, const std::string& path) {
  const auto body = header.first(header.size() - 4);
  Crc32 crc;
  crc.add(body);
  if (HeaderReader(header.last(4)).get<std::uint32_t>() != crc.value())
    invalid(path, " is damaged: its header's checksum is wrong");
  HeaderReader in(body, "archive");
  in.get_all<std::byte>(archive_preamble_bytes);
  ArchiveSettings s;
  s.type = in.get_choice<ArchiveType>("type", 5);
  s.rope.pairing = in.get_choice<Pairing>("RoPE pairing", 2);
  const auto fingerprint = in.get<std::uint32_t>();
  for (std::size_t* const number : {&s.shape.layers, &s.shape.query_heads, &s.shape.kv_heads,
                                    &s.shape.head_dim, &s.shape.value_dim, &s.block, &s.rope.first_channel}) {
    const auto value = in.get<std::uint64_t>();
    *number = static_cast<std::size_t>(value);
    if (*number != value) invalid(path, " is of a machine with more memory");
  }
  s.limit = in.get<std::uint64_t>();
  const auto frequencies = in.get<std::uint64_t>();
  s.rope.attention_factor = in.get<double>();
  s.rope.frequencies = in.get_all<double>(frequencies);
  const std::size_t rest = body.size() - in.at();
  if (fingerprint > rest || (rest - fingerprint) % (2 * sizeof(float)) != 0)
    invalid(path, " is no archive: its header's sizes do not fit together");
  const std::size_t channels = (rest - fingerprint) / (2 * sizeof(float));
  s.channels.centre = in.get_all<float>(channels);
  s.channels.spread = in.get_all<float>(channels);
  for (std::uint32_t i = 0; i < fingerprint; ++i) s.fingerprint.push_back(in.get<char>());
  return s;
}

/// Throws std::invalid_argument saying how the model of an archive differs from the one expected.
inline void check_same_model(const ArchiveSettings& archive, const ArchiveSettings& expected,
                             const std::string& path) {
  if (!(archive.shape == expected.shape))
    invalid(path, " is of a model of another shape, ", archive.shape, ", than this one, ", expected.shape);
  const Rope &a = archive.rope, &b = expected.rope;
  const auto name = [](Pairing pairing) {
    return pairing == Pairing::half_split ? "half_split" : "interleaved";
  };
  if (a.pairing != b.pairing)
    invalid(path, " is of a model whose RoPE pairs channels otherwise, ", name(a.pairing),
            ", than this one, ", name(b.pairing));
  if (a.first_channel != b.first_channel)
    invalid(path, " is of a model whose RoPE turns channels from ", a.first_channel, " on, not from ",
            b.first_channel, " on as this one's");
  if (a.frequencies != b.frequencies)
    invalid(path, " is of a model with other RoPE frequencies (", a.frequencies.size(),
            " of them) than this one (", b.frequencies.size(), ')');
  if (a.attention_factor < b.attention_factor || a.attention_factor > b.attention_factor)
    invalid(path, " is of a model with another attention factor of RoPE, ", a.attention_factor,
            ", than this one, ", b.attention_factor);
  if (archive.fingerprint != expected.fingerprint)
    invalid(path, " is of another model: its fingerprint is '", archive.fingerprint, "', this one's '",
            expected.fingerprint, '\'');
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
