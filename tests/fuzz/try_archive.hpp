// What a program may do with the bytes of an archive's file, whatever they are: one body for the fuzzer and
// for the tests.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace fuzz {

/// Bytes that a block of an archive may take before it is left alone.
inline constexpr double most_block_bytes = 1U << 20U;

/// A file in memory, used again for every input.
inline std::string file_of(std::span<const std::byte> bytes) {
  static const int file = memfd_create("archive", 0);
  if (ftruncate(file, 0) != 0 ||
      pwrite(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    std::abort();
  return "/proc/self/fd/" + std::to_string(file);
}

struct Halves final : infinipot::RowSource {
  infinipot::Shape shape;
  void key(std::size_t, std::size_t, std::size_t, float* key) const noexcept override {
    std::fill_n(key, shape.head_dim, 0.5F);
  }
  void value(std::size_t, std::size_t, std::size_t, float* value) const noexcept override {
    std::fill_n(value, shape.value_channels(), -0.5F);
  }
};

/// Reads everything. Positions must ascend.
inline void read_all(infinipot::FileArchive& archive) {
  const infinipot::Shape shape = archive.shape();
  infinipot::StoredBlock block;
  std::vector<float> key(archive.has_rows() ? shape.head_dim : 0);
  std::vector<float> value(archive.has_rows() ? shape.value_channels() : 0);
  for (std::uint64_t position = 0; archive.read(position, block);) {
    for (std::size_t i = 0; i < block.entries().size(); ++i) {
      if (block.entries()[i].position < position) std::abort();
      position = block.entries()[i].position + 1;
      for (std::size_t pair = 0; archive.has_rows() && pair < shape.heads(); ++pair) {
        block.key(pair / shape.kv_heads, pair % shape.kv_heads, i, key.data());
        if (!value.empty()) block.value(pair / shape.kv_heads, pair % shape.kv_heads, i, value.data());
      }
    }
    if (block.entries().empty()) std::abort();
  }
}

/// Goes on with the archive, beyond its limit if it has a small one.
inline void append_some(infinipot::FileArchive& archive) {
  Halves rows;
  rows.shape = archive.shape();
  for (int round = 0; round < 4; ++round) {
    std::vector<infinipot::Entry> entries(archive.settings().block % 8 + 1);
    for (std::size_t i = 0; i < entries.size(); ++i) entries[i].position = archive.end() + i;
    archive.append(entries, rows);
    if (!archive.flush()) std::abort();
  }
}

/// Returns whether the file was accepted. Anything but std::invalid_argument from a file that is not is a
/// fault.
inline bool try_archive(std::span<const std::byte> bytes) {
  const std::string path = file_of(bytes);
  infinipot::ArchiveInfo info;
  try {
    info = infinipot::FileArchive::inspect(path);
  } catch (const std::invalid_argument&) {
    return false;
  }
  const infinipot::Shape& shape = info.settings.shape;
  const double block_bytes =
      static_cast<double>(shape.layers) * static_cast<double>(shape.kv_heads) *
      (static_cast<double>(shape.head_dim) + static_cast<double>(shape.value_channels()) + 4) * 4 *
      static_cast<double>(info.settings.block);
  if (block_bytes > most_block_bytes) return true;
  using infinipot::Access;
  for (const Access access : {Access::read, Access::append, Access::append}) {
    auto archive = infinipot::FileArchive::open(path, info.settings, access);
    read_all(archive);
    if (access == Access::append) append_some(archive);
    read_all(archive);
    archive.stats();
  }
  return true;
}

/// Makes all checksums right, as far as the file's places and sizes allow, so that what they would catch is
/// left to the other checks.
inline void repair_archive(std::span<std::byte> file) {
  using infinipot::detail::BlockHeader;
  const auto put = [&](std::size_t at, std::uint32_t value) { std::memcpy(&file[at], &value, sizeof value); };
  const auto crc_of = [&](std::size_t at, std::size_t size) {
    infinipot::detail::Crc32 crc;
    crc.add(file.subspan(at, size));
    return crc.value();
  };
  std::uint32_t header = 0;
  if (file.size() < 16) return;
  std::memcpy(&header, &file[12], sizeof header);
  if (header < 20 || header > file.size()) return;
  const std::uint32_t id = crc_of(0, header - 4);
  put(header - 4, id);
  for (std::size_t at = 64; at + 64 <= file.size(); at += 64) {
    BlockHeader block;
    std::memcpy(&block, &file[at], sizeof block);
    if (block.magic != BlockHeader::block_magic) continue;
    block.archive = id;
    if (block.payload_bytes <= file.size() - at - 64)
      block.payload_crc = crc_of(at + 64, static_cast<std::size_t>(block.payload_bytes));
    block.header_crc = block.crc();
    std::memcpy(&file[at], &block, sizeof block);
  }
}

}  // namespace fuzz
