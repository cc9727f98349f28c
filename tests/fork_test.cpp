// A fork of a pot owns a copy of everything, down to the keys as first written.
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "infinipot/pot.hpp"

namespace {

using infinipot::Entry;
using infinipot::Index;
using infinipot::Pot;
using infinipot::Selection;

constexpr infinipot::Shape shape{2, 4, 2, 8};
constexpr std::size_t capacity = 12, keep = 5;

/// Writes entries size() .. capacity - 1 of a pot, numbers that depend on `seed`.
template <class T>
void fill(Pot<T>& pot, int seed) {
  const std::size_t first = pot.size();
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t entry = first; entry < capacity; ++entry)
        for (std::size_t k = 0; k < shape.head_dim; ++k) {
          const auto number =
              static_cast<float>((entry * 7 + head * 5 + layer * 3 + k * 11) % 17) + static_cast<float>(seed);
          pot.keys(layer).row(head, entry)[k] = static_cast<T>(number);
          pot.values(layer).row(head, entry)[k] = static_cast<T>(-number);
        }
  std::vector<Entry> entries(capacity - first);
  for (std::size_t i = 0; i < entries.size(); ++i)
    entries[i] = {static_cast<std::uint64_t>(seed) * 100 + i, static_cast<infinipot::Token>(i), 0.5F, i == 1};
  pot.append(entries);
}

Selection every_other() {
  Selection kept(shape.heads(), keep);
  for (std::size_t lane = 0; lane < shape.heads(); ++lane)
    for (std::size_t j = 0; j < keep; ++j) kept.lane(lane)[j] = static_cast<Index>(2 * j + lane % 2);
  return kept;
}

template <class T>
std::vector<float> contents(const Pot<T>& pot) {
  std::vector<float> all;
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t entry = 0; entry < pot.size(); ++entry)
        for (std::size_t k = 0; k < shape.head_dim; ++k) {
          all.push_back(static_cast<float>(pot.keys(layer).row(head, entry)[k]));
          all.push_back(static_cast<float>(pot.values(layer).row(head, entry)[k]));
        }
  for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
    for (std::size_t entry = 0; entry < pot.size(); ++entry) {
      all.push_back(static_cast<float>(pot.entries().positions(lane)[entry]));
      all.push_back(static_cast<float>(pot.entries().tokens(lane)[entry]));
      all.push_back(pot.entries().nuc(lane)[entry]);
      all.push_back(static_cast<float>(pot.entries().pinned(lane)[entry]));
      all.push_back(static_cast<float>(pot.entries().survived(lane)[entry]));
    }
  return all;
}

template <class T>
void expect_fork_stands_alone(infinipot::KeyStorage storage) {
  const infinipot::PotSettings settings{.shape = shape,
                                        .capacity = capacity,
                                        .max_keep = keep,
                                        .key_storage = storage,
                                        .rope = infinipot::plain_rope(shape.head_dim)};
  const std::ptrdiff_t row = shape.head_dim, entry = 2 * row * 4, head = 2 * row, layer = 4 * row;
  std::vector<T> memory(capacity *
                        static_cast<std::size_t>(entry));  // one row per entry, [layer][kv_head][K, V]
  Pot<T> pot(settings, {infinipot::strided_rows(memory.data(), shape.layers, layer, head, entry),
                        infinipot::strided_rows(memory.data() + row, shape.layers, layer, head, entry)});
  fill(pot, 1);
  pot.keep(every_other());
  fill(pot, 2);

  Pot<T> fork = pot.fork();
  const auto before = contents(pot);
  EXPECT_EQ(contents(fork), before);
  // Survivors have their first keys in the fork too: both rotate them alike, and neither touches the other.
  fork.keep(every_other());
  EXPECT_EQ(contents(pot), before);
  pot.keep(every_other());
  EXPECT_EQ(contents(pot), contents(fork));
  const auto after = contents(fork);
  fill(pot, 3);
  std::fill(memory.begin(), memory.end(), static_cast<T>(0.0F));
  EXPECT_EQ(contents(fork), after);
}

TEST(Fork, StandsAloneForEveryElementTypeAndStorage) {
  for (const auto storage : {infinipot::KeyStorage::rotated, infinipot::KeyStorage::unrotated}) {
    expect_fork_stands_alone<float>(storage);
    expect_fork_stands_alone<infinipot::f16>(storage);
    expect_fork_stands_alone<infinipot::bf16>(storage);
  }
}

}  // namespace
