// Archives of rows that follow from an entry's position, so that whatever is read back can be checked alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"

namespace archives {

using infinipot::Archive;
using infinipot::ArchiveSettings;
using infinipot::ArchiveType;
using infinipot::Entry;
using infinipot::KeyChannels;
using infinipot::Shape;
using infinipot::StoredBlock;
using infinipot::Token;

inline constexpr ArchiveType all_types[] = {ArchiveType::float32, ArchiveType::float16, ArchiveType::codes8,
                                            ArchiveType::codes4, ArchiveType::tokens};

/// Two layers, heads whose width is no multiple of a group of codes.
inline constexpr Shape shape{2, 4, 2, 36};

inline ArchiveSettings settings(ArchiveType type, std::size_t block = 8, std::uint64_t limit = 0) {
  return {.shape = shape,
          .rope = infinipot::plain_rope(32),
          .type = type,
          .fingerprint = "a model",
          .block = block,
          .limit = limit};
}

/// (head_dim) numbers of one key or value: every row has a size and a shift of its own.
inline std::vector<float> row_of(std::uint64_t position, std::size_t row, std::size_t head_dim) {
  reference::Random random(1000 * position + row);
  const double size = 4 * std::abs(random.uniform()), shift = random.uniform();
  std::vector<float> numbers;
  for (const double x : random.uniforms(head_dim)) numbers.push_back(static_cast<float>(size * (x + shift)));
  return numbers;
}
inline std::vector<float> key_of(std::uint64_t position, std::size_t pair, std::size_t head_dim) {
  return row_of(position, 2 * pair, head_dim);
}
inline std::vector<float> value_of(std::uint64_t position, std::size_t pair, std::size_t head_dim) {
  return row_of(position, 2 * pair + 1, head_dim);
}

class Rows final : public infinipot::RowSource {
 public:
  explicit Rows(std::span<const Entry> entries, Shape of = shape) : entries_(entries), shape_(of) {}

  void key(std::size_t layer, std::size_t kv_head, std::size_t i, float* key) const noexcept override {
    std::ranges::copy(key_of(entries_[i].position, shape_.head_of(layer, kv_head), shape_.head_dim), key);
  }
  void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept override {
    std::ranges::copy(value_of(entries_[i].position, shape_.head_of(layer, kv_head), shape_.value_channels()),
                      value);
  }

 private:
  std::span<const Entry> entries_;
  Shape shape_;
};

inline Entry entry_of(std::uint64_t position, bool pinned = false) {
  reference::Random random(position);
  return {position, static_cast<Token>(random.below(50000)), static_cast<float>(random.uniform() + 1),
          pinned};
}

inline std::vector<Entry> entries_of(std::uint64_t from, std::uint64_t to, bool pinned = false) {
  std::vector<Entry> entries;
  for (; from < to; ++from) entries.push_back(entry_of(from, pinned));
  return entries;
}

template <class A>
void append(A& archive, std::span<const Entry> entries) {
  archive.append(entries, Rows(entries, archive.shape()));
}
template <class A>
void append(A& archive, std::uint64_t from, std::uint64_t to, bool pinned = false) {
  append(archive, entries_of(from, to, pinned));
}

/// How far a row that was read may be from the one that was archived: `x` in float or rounded to f16; or half
/// a step of codes, with a scale and an offset that are rounded to f16 (2^-11 of what they multiply, or the
/// subnormal spacing), and of what is centred and scaled before, the rounding of that.
inline std::vector<double> bounds(ArchiveType type, std::span<const float> row, const float* centre,
                                  const float* spread) {
  constexpr std::size_t group = 32;
  constexpr double f16 = 0x1p-11, subnormal = 0x1p-25, single = 0x1p-22;
  std::vector<double> result(row.size()), scaled(row.size());
  for (std::size_t c = 0; c < row.size(); ++c)
    scaled[c] = (static_cast<double>(row[c]) - (centre ? static_cast<double>(centre[c]) : 0)) /
                (spread ? static_cast<double>(spread[c]) : 1);
  for (std::size_t c = 0; c < row.size(); ++c) {
    const auto first = scaled.begin() + static_cast<std::ptrdiff_t>(c / group * group);
    const auto last =
        scaled.begin() + static_cast<std::ptrdiff_t>(std::min(row.size(), (c / group + 1) * group));
    const auto [low, high] = std::minmax_element(first, last);
    const double largest = std::max(std::abs(*low), std::abs(*high)), range = *high - *low;
    const double rounding = single * (largest + (centre ? std::abs(static_cast<double>(centre[c])) : 0));
    double bound = 0;
    switch (type) {
      case ArchiveType::float32:
      case ArchiveType::tokens:
        continue;
      case ArchiveType::float16:
        result[c] = std::abs(static_cast<double>(row[c])) * f16 + subnormal;
        continue;
      case ArchiveType::codes8:
        bound = 0.5 * largest / 127 + largest * f16 + 127 * subnormal;
        break;
      case ArchiveType::codes4:
        bound = 0.5 * range / 15 + range * f16 + 2 * std::abs(*low) * f16 + 16 * subnormal;
        break;
    }
    result[c] = (bound + rounding) * (spread ? static_cast<double>(spread[c]) : 1) + rounding;
  }
  return result;
}

/// Whether a row is what was archived, rounded.
inline bool is_row(const ArchiveSettings& s, std::span<const float> read, std::span<const float> row,
                   bool key, std::size_t pair) {
  const bool scaled =
      key && !s.channels.centre.empty() && (s.type == ArchiveType::codes8 || s.type == ArchiveType::codes4);
  const std::size_t at = pair * s.shape.head_dim;
  const auto bound = bounds(s.type, row, scaled ? s.channels.centre.data() + at : nullptr,
                            scaled ? s.channels.spread.data() + at : nullptr);
  for (std::size_t c = 0; c < row.size(); ++c)
    if (!(std::abs(static_cast<double>(read[c]) - static_cast<double>(row[c])) <= bound[c])) return false;
  return true;
}

/// Whether entry i of a block is the entry that was archived for its position.
inline bool is_entry(const ArchiveSettings& s, const StoredBlock& block, std::size_t i) {
  const Entry& entry = block.entries()[i];
  const Entry archived = entry_of(entry.position);
  if (entry.token != archived.token) return false;
  if (s.type == ArchiveType::tokens) return true;
  if (entry.nuc < archived.nuc || entry.nuc > archived.nuc) return false;
  std::vector<float> row(s.shape.head_dim);
  for (std::size_t pair = 0; pair < s.shape.heads(); ++pair) {
    const std::size_t layer = pair / s.shape.kv_heads, head = pair % s.shape.kv_heads;
    block.key(layer, head, i, row.data());
    if (!is_row(s, row, key_of(entry.position, pair, row.size()), true, pair)) return false;
    std::vector<float> value(s.shape.value_channels());
    block.value(layer, head, i, value.data());
    if (!is_row(s, value, value_of(entry.position, pair, value.size()), false, pair)) return false;
  }
  return true;
}

/// Reads everything from `from` on, and checks it. Positions, in the order in which they came.
template <class A>
std::vector<std::uint64_t> read_all(A& archive, std::uint64_t from = 0) {
  std::vector<std::uint64_t> positions;
  StoredBlock block;
  while (archive.read(from, block)) {
    if (block.entries().empty()) {
      ADD_FAILURE() << "an empty block";
      break;
    }
    for (std::size_t i = 0; i < block.entries().size(); ++i) {
      const std::uint64_t position = block.entries()[i].position;
      EXPECT_GE(position, from);
      EXPECT_TRUE(is_entry(archive.settings(), block, i)) << "position " << position;
      positions.push_back(position);
      from = position + 1;
    }
  }
  return positions;
}

/// from .. to - 1.
inline std::vector<std::uint64_t> range(std::uint64_t from, std::uint64_t to) {
  std::vector<std::uint64_t> all;
  for (; from < to; ++from) all.push_back(from);
  return all;
}

}  // namespace archives
