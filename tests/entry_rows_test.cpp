// Keys and values read back for a policy, from a store that is not a pot.
#include "infinipot/policy/entry_rows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/infinipot.hpp"

namespace {

using infinipot::EntryRows;
using infinipot::FloatRows;
using infinipot::Granularity;
using infinipot::Shape;
using infinipot::Token;

constexpr Shape model{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 3};

/// Numbers that tell where they come from.
float key_of(std::size_t layer, std::size_t head, std::size_t t, std::size_t channel) {
  return static_cast<float>(10000 * layer + 5000 * head + 10 * t + channel);
}

/// Stores keys halved, which must be converted, and shows values in place, 5 apart.
class DoubledStore {
 public:
  explicit DoubledStore(std::size_t capacity, Granularity granularity = Granularity::layer)
      : capacity_(capacity),
        granularity_(granularity),
        entries_(model.lanes(granularity), capacity),
        halves_(model.heads() * capacity * model.head_dim),
        values_(model.heads() * capacity * stride) {
    for (std::size_t head = 0; head < model.heads(); ++head)
      for (std::size_t t = 0; t < capacity; ++t)
        for (std::size_t k = 0; k < model.head_dim; ++k) {
          const float key = key_of(head / model.kv_heads, head % model.kv_heads, t, k);
          halves_[(head * capacity + t) * model.head_dim + k] = key / 2;
          values_[(head * capacity + t) * stride + k] = -key;
        }
  }

  Shape shape() const { return model; }
  std::size_t capacity() const { return capacity_; }
  Granularity granularity() const { return granularity_; }
  const infinipot::EntryTable& entries() const { return entries_; }
  void append(std::span<const infinipot::Entry> added) { entries_.append(added); }
  void truncate(std::size_t size) { entries_.truncate(size); }
  void keep(const infinipot::Selection& kept) { entries_.keep(kept); }

  FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                     float* tile) const noexcept {
    const float* const from = &halves_[row(layer, kv_head, first) * model.head_dim];
    std::transform(from, from + count * model.head_dim, tile, [](float half) { return 2 * half; });
    return {tile, static_cast<std::ptrdiff_t>(model.head_dim)};
  }
  FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t /*count*/,
                       float* /*tile*/) const noexcept {
    return {&values_[row(layer, kv_head, first) * stride], stride};
  }

 private:
  static constexpr std::ptrdiff_t stride = 5;

  std::size_t row(std::size_t layer, std::size_t kv_head, std::size_t t) const noexcept {
    return (layer * model.kv_heads + kv_head) * capacity_ + t;
  }

  std::size_t capacity_;
  Granularity granularity_;
  infinipot::EntryTable entries_;
  std::vector<float> halves_, values_;
};

static_assert(infinipot::ReadableEntries<DoubledStore>);

/// A store of `size` entries at positions 100, 102, ..., in every lane.
DoubledStore store_of(std::size_t size, Granularity granularity = Granularity::layer) {
  DoubledStore store(size + 3, granularity);
  for (std::size_t t = 0; t < size; ++t) {
    const infinipot::Entry entry{100 + 2 * t, static_cast<Token>(t), 0, false};
    store.append({&entry, 1});
  }
  return store;
}

std::vector<float> memory_for(std::size_t scratch) {
  return std::vector<float>(EntryRows::floats(model, scratch));
}

TEST(EntryRows, VisitEveryKeyAndValueInOrder) {
  for (const std::size_t size : {0U, 1U, 63U, 64U, 65U, 128U, 200U}) {
    const DoubledStore store = store_of(size);
    auto memory = memory_for(4);
    for (std::size_t layer = 0; layer < model.layers; ++layer)
      for (std::size_t head = 0; head < model.kv_heads; ++head) {
        const EntryRows rows(store, layer, head, memory);
        EXPECT_EQ(rows.size(), size);
        EXPECT_EQ(rows.head_dim(), model.head_dim);
        EXPECT_EQ(rows.layer(), layer);
        EXPECT_EQ(rows.kv_head(), head);
        std::size_t next = 0;
        const auto check = [&](std::size_t t, const float* row, float sign) {
          ASSERT_EQ(t, next++);
          EXPECT_EQ(rows.position(t), 100 + 2 * t);
          for (std::size_t k = 0; k < model.head_dim; ++k)
            EXPECT_EQ(row[k], sign * key_of(layer, head, t, k)) << t << ", " << k;
        };
        rows.for_each_key([&](std::size_t t, const float* key) { check(t, key, 1); });
        EXPECT_EQ(next, size);
        next = 0;
        rows.for_each_value([&](std::size_t t, const float* value) { check(t, value, -1); });
        EXPECT_EQ(next, size);
      }
  }
}

TEST(EntryRows, ScratchIsThePolicysOwn) {
  const DoubledStore store = store_of(150);
  auto memory = memory_for(11);
  const EntryRows rows(store, 1, 0, memory);
  EXPECT_EQ(rows.scratch().size(), 11U);
  std::ranges::fill(rows.scratch(), 7.0F);
  rows.for_each_key([](std::size_t, const float*) {});
  rows.for_each_value([](std::size_t, const float*) {});
  EXPECT_TRUE(std::ranges::all_of(rows.scratch(), [](float x) { return x == 7; }));
}

TEST(EntryRows, AllocateNothing) {
  const DoubledStore store = store_of(150);
  auto memory = memory_for(0);
  float sum = 0;
  const allocation_counter::Scope use;
  EntryRows(store, 0, 1, memory).for_each_key([&](std::size_t, const float* key) { sum += key[0]; });
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
  EXPECT_GT(sum, 0);
}

/// Predicts nothing, and leaves the store's keys alone.
struct SilentEngine {
  Shape shape() const { return model; }
  std::size_t vocab_size() const { return 50; }
  void forward(std::span<const Token> tokens, std::size_t /*first*/, infinipot::LogitsSink& logits) {
    const std::vector<float> none(50);
    for (std::size_t i = logits.first_row(); i < tokens.size(); ++i) logits.row(i, none);
  }
};

/// Scores entry t by how near its first value is to entry 20's, and asks for more scratch than the default.
struct NearTwenty {
  std::string_view name() const { return "near_twenty"; }
  std::size_t scratch(const Shape& shape, std::size_t capacity) const { return shape.head_dim + capacity; }
  void score_entries(const EntryRows& rows, std::span<float> scores) const {
    EXPECT_EQ(rows.scratch().size(), model.head_dim + 43);
    EXPECT_EQ(scores.size(), rows.size());
    const float wanted = -key_of(rows.layer(), rows.kv_head(), 20, 0);
    rows.for_each_value([&](std::size_t t, const float* value) { scores[t] = -std::abs(value[0] - wanted); });
  }
};

TEST(EntryRows, LetAReaderScoreEntriesOfAnyStore) {
  for (const Granularity granularity : {Granularity::head, Granularity::layer, Granularity::shared}) {
    DoubledStore store = store_of(40, granularity);
    store.truncate(0);
    SilentEngine engine;
    infinipot::Ccd reader(engine, store, NearTwenty(), {.keep = 5, .sinks = 1});
    std::vector<Token> text(44);
    for (std::size_t t = 0; t < text.size(); ++t) text[t] = static_cast<Token>(t);
    reader.feed(text);
    EXPECT_EQ(reader.stats().distillations, 1U);
    for (std::size_t lane = 0; lane < store.entries().lanes(); ++lane) {
      const auto tokens = store.entries().tokens(lane);
      EXPECT_EQ((std::vector<Token>(tokens.begin(), tokens.end())),
                (std::vector<Token>{0, 18, 19, 20, 21, 43}));
    }
  }
}

}  // namespace
