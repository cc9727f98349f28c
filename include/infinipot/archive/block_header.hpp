// Blocks of an archive: their header, their sizes.
//
// A block, at a multiple of 64 bytes, little-endian: its header (64 bytes), then the payload: a record for
// each entry (token i32, NuC f32; in an archive of token ids the token alone), zeros up to a multiple of 64
// bytes, and each entry's rows (archive/row_codec.hpp), one after another. Then zeros up to the next multiple
// of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "infinipot/pot/crc32.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

inline constexpr std::size_t block_alignment = 64;

constexpr std::uint64_t block_aligned(std::uint64_t bytes) noexcept {
  return (bytes + block_alignment - 1) / block_alignment * block_alignment;
}

/// Exactly as it stands in a file. CRC-32 is zlib's.
struct BlockHeader {
  static constexpr std::uint32_t block_magic = 0x6B6C6269;  // "iblk"
  /// Positions and numbers from here on are those of no text.
  static constexpr std::uint64_t most = std::uint64_t{1} << 62U;

  std::uint32_t magic = block_magic;
  std::uint32_t archive = 0;  ///< CRC-32 of the archive's header, so that no other archive's block is taken
  std::uint64_t number = 0;   ///< ascends with the text, from 0
  std::uint64_t oldest = 0;   ///< number of the oldest block that is valid once this one is
  std::uint64_t first = 0;    ///< position of the first entry; the others follow without a gap
  std::uint32_t count = 0;    ///< entries
  std::uint32_t pinned = 0;   ///< of all entries, 0 or 1
  std::uint64_t payload_bytes = 0;
  std::uint64_t dropped = 0;  ///< entries that made room for others so far
  std::uint32_t payload_crc = 0;
  std::uint32_t header_crc = 0;  ///< of the 60 bytes before it

  std::uint64_t end() const noexcept { return first + count; }

  std::uint32_t crc() const noexcept {
    Crc32 crc;
    crc.add(std::as_bytes(std::span(this, 1)).first(sizeof *this - sizeof header_crc));
    return crc.value();
  }
};
static_assert(sizeof(BlockHeader) == block_alignment && std::is_trivially_copyable_v<BlockHeader>);

/// Sizes of an archive's blocks.
struct BlockLayout {
  std::size_t block = 0;        ///< entries of a full one
  std::size_t entry_bytes = 0;  ///< an entry's rows; 0 without
  std::uint32_t archive = 0;    ///< BlockHeader::archive

  std::size_t record_bytes() const noexcept { return entry_bytes == 0 ? sizeof(Token) : 2 * sizeof(Token); }

  /// Where the rows begin in the payload of a block of `count` entries.
  std::uint64_t rows_at(std::uint64_t count) const noexcept {
    return entry_bytes == 0 ? count * record_bytes() : block_aligned(count * record_bytes());
  }
  std::uint64_t payload_bytes(std::uint64_t count) const noexcept {
    return rows_at(count) + count * entry_bytes;
  }
  std::uint64_t bytes(std::uint64_t count) const noexcept {
    return block_aligned(sizeof(BlockHeader) + payload_bytes(count));
  }

  /// Whether a block of this archive may have that header.
  bool fits(const BlockHeader& header) const noexcept {
    return header.magic == BlockHeader::block_magic && header.archive == archive &&
           header.header_crc == header.crc() && header.count >= 1 && header.count <= block &&
           header.pinned <= 1 && header.payload_bytes == payload_bytes(header.count) &&
           header.number < BlockHeader::most && header.oldest <= header.number &&
           header.first < BlockHeader::most;
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
