#include "infinipot/pot/entries.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/pot/selection.hpp"
#include "reference/random.hpp"

namespace {

using infinipot::Entry;
using infinipot::EntryTable;
using infinipot::Index;
using infinipot::Selection;

struct Record {
  Entry entry;
  std::uint32_t survived = 0;
};
using Lanes = std::vector<std::vector<Record>>;

std::vector<Entry> random_entries(reference::Random& random, std::size_t count, std::uint64_t position) {
  std::vector<Entry> entries(count);
  for (Entry& entry : entries)
    entry = {position++, static_cast<infinipot::Token>(random.below(1u << 31)),
             static_cast<float>(random.uniform()), random.below(3) == 0};
  return entries;
}

/// A selection that differs from lane to lane.
Selection random_selection(reference::Random& random, std::size_t lanes, std::size_t keep, std::size_t size) {
  Selection selection(lanes, keep);
  for (std::size_t lane = 0; lane < lanes; ++lane)
    std::ranges::copy(random.subset<Index>(keep, size), selection.lane(lane).begin());
  return selection;
}

void append(Lanes& lanes, const std::vector<Entry>& entries) {
  for (auto& lane : lanes)
    for (const Entry& entry : entries) lane.push_back({entry, 0});
}

void keep(Lanes& lanes, const Selection& selection) {
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    std::vector<Record> next;
    for (const Index index : selection.lane(i)) {
      next.push_back(lanes[i].at(index));
      ++next.back().survived;
    }
    lanes[i] = next;
  }
}

void expect_equal(const EntryTable& table, const Lanes& lanes) {
  ASSERT_EQ(table.lanes(), lanes.size());
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    ASSERT_EQ(table.size(), lanes[lane].size());
    ASSERT_EQ(table.positions(lane).size(), table.size());
    ASSERT_EQ(table.tokens(lane).size(), table.size());
    ASSERT_EQ(table.nuc(lane).size(), table.size());
    ASSERT_EQ(table.pinned(lane).size(), table.size());
    ASSERT_EQ(table.survived(lane).size(), table.size());
    for (std::size_t i = 0; i < table.size(); ++i) {
      const Record& record = lanes[lane][i];
      ASSERT_EQ(table.positions(lane)[i], record.entry.position);
      ASSERT_EQ(table.tokens(lane)[i], record.entry.token);
      ASSERT_EQ(table.nuc(lane)[i], record.entry.nuc);
      ASSERT_EQ(table.pinned(lane)[i] != 0, record.entry.pinned);
      ASSERT_EQ(table.survived(lane)[i], record.survived);
    }
  }
}

TEST(Entries, FollowAModelThroughRandomOperations) {
  for (const std::size_t lanes : {1u, 2u, 5u, 24u})
    for (const std::size_t capacity : {2u, 3u, 13u, 63u, 64u, 65u}) {
      reference::Random random(lanes * 1000 + capacity);
      EntryTable table(lanes, capacity);
      Lanes model(lanes);
      std::uint64_t position = std::uint64_t{1} << 40;  // streams outgrow 32 bits
      for (int round = 0; round < 20; ++round) {
        const auto added = random_entries(random, random.below(capacity - table.size() + 1), position);
        position += added.size();
        table.append(added);
        append(model, added);
        ASSERT_NO_FATAL_FAILURE(expect_equal(table, model));
        if (random.below(3) == 0) {
          const std::size_t size = random.below(capacity + 1);
          table.truncate(size);
          for (auto& lane : model) lane.resize(std::min(lane.size(), size));
          ASSERT_NO_FATAL_FAILURE(expect_equal(table, model));
        }
        if (table.size() == 0) continue;
        const auto selection = random_selection(random, lanes, 1 + random.below(table.size()), table.size());
        table.keep(selection);
        keep(model, selection);
        ASSERT_NO_FATAL_FAILURE(expect_equal(table, model));
      }
    }
}

TEST(Entries, BeginEmpty) {
  const EntryTable table(3, 8);
  EXPECT_EQ(table.lanes(), 3u);
  EXPECT_EQ(table.capacity(), 8u);
  EXPECT_EQ(table.size(), 0u);
  EXPECT_TRUE(table.tokens(2).empty());
}

TEST(Entries, OfWhichNothingIsSaidAreNeitherNewNorPinned) {
  EntryTable table(1, 8);
  table.append(std::vector<Entry>(1));
  EXPECT_EQ(table.positions(0)[0], 0U);
  EXPECT_EQ(table.tokens(0)[0], 0);
  EXPECT_EQ(table.nuc(0)[0], 0.0F);
  EXPECT_EQ(table.pinned(0)[0], 0);
}

TEST(Entries, EveryChangeGivesAnotherRevision) {
  EntryTable table(2, 8), other(2, 8);
  std::vector<std::uint64_t> seen{table.revision()};
  const auto changed = [&] {
    EXPECT_EQ(std::ranges::count(seen, table.revision()), 0);
    seen.push_back(table.revision());
  };
  table.append(std::vector<Entry>(4));
  changed();
  table.truncate(5);
  EXPECT_EQ(table.revision(), seen.back()) << "nothing changed";
  table.truncate(3);
  changed();
  infinipot::Selection kept(2, 2);
  for (const std::size_t lane : {0U, 1U})
    std::ranges::copy(std::vector<infinipot::Index>{0, 2}, kept.lane(lane).begin());
  table.keep(kept);
  changed();
  table.assign(other, 0);
  changed();
}

TEST(Entries, TwoLanesKeepDifferentTokens) {
  EntryTable table(2, 4);
  table.append(std::vector<Entry>{{10, 100, 1, false}, {11, 101, 2, true}, {12, 102, 3, false}});
  Selection selection(2, 2);
  std::ranges::copy(std::vector<Index>{0, 1}, selection.lane(0).begin());
  std::ranges::copy(std::vector<Index>{1, 2}, selection.lane(1).begin());
  table.keep(selection);
  EXPECT_TRUE(std::ranges::equal(table.tokens(0), std::vector<infinipot::Token>{100, 101}));
  EXPECT_TRUE(std::ranges::equal(table.tokens(1), std::vector<infinipot::Token>{101, 102}));
  EXPECT_TRUE(std::ranges::equal(table.positions(1), std::vector<std::uint64_t>{11, 12}));
  EXPECT_TRUE(std::ranges::equal(table.pinned(0), std::vector<std::uint8_t>{0, 1}));
  EXPECT_TRUE(std::ranges::equal(table.pinned(1), std::vector<std::uint8_t>{1, 0}));
}

TEST(Entries, SlotsOfTheDroppedAreFreshWhenUsedAgain) {
  EntryTable table(1, 2);
  table.append(std::vector<Entry>{{0, 1, 5, true}, {1, 2, 6, true}});
  Selection selection(1, 1);
  selection.lane(0)[0] = 1;
  table.keep(selection);
  table.keep([] {
    Selection same(1, 1);
    same.lane(0)[0] = 0;
    return same;
  }());
  EXPECT_EQ(table.survived(0)[0], 2u);
  table.truncate(0);
  table.append(std::vector<Entry>{{7, 8, 0, false}});
  EXPECT_EQ(table.survived(0)[0], 0u);
  EXPECT_EQ(table.pinned(0)[0], 0u);
  EXPECT_EQ(table.nuc(0)[0], 0.0f);
}

TEST(Entries, TruncateBeyondTheSizeChangesNothing) {
  EntryTable table(1, 4);
  table.append(std::vector<Entry>{{0, 1, 0, false}});
  table.truncate(3);
  EXPECT_EQ(table.size(), 1u);
}

TEST(Entries, SurviveAMove) {
  EntryTable first(2, 4);
  first.append(std::vector<Entry>{{3, 9, 0.5f, true}});
  EntryTable second(std::move(first));
  EXPECT_EQ(second.tokens(1)[0], 9);
  EntryTable third(1, 1);
  third = std::move(second);
  EXPECT_EQ(third.lanes(), 2u);
  EXPECT_EQ(third.positions(0)[0], 3u);
  third.append(std::vector<Entry>{{4, 10, 0, false}});
  EXPECT_EQ(third.tokens(0)[1], 10);
}

TEST(Entries, AllocateOnceAndThenNothing) {
  const std::vector<Entry> added(8, Entry{1, 2, 3, true});
  Selection selection(4, 1);
  const allocation_counter::Scope construction;
  EntryTable table(4, 8);
  EXPECT_EQ(construction.calls(), 1u);
  const allocation_counter::Scope use;
  table.append(added);
  table.keep(selection);
  table.truncate(0);
  EXPECT_EQ(use.calls(), 0u);
}

TEST(Entries, RejectATableThatIsTooLarge) {
  // The second product wraps around to a small number.
  constexpr std::size_t half = std::size_t{1} << 33;
  for (const auto& [lanes, capacity] :
       {std::pair{std::size_t{1}, std::numeric_limits<std::size_t>::max() / 16},
        {half, half},
        {std::size_t{3}, ~std::size_t{0} / 3 + 2}}) {
    try {
      const EntryTable table(lanes, capacity);
      ADD_FAILURE() << lanes << " x " << capacity << " was accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(std::to_string(capacity)), std::string::npos) << error.what();
    }
  }
}

TEST(SelectionRows, AreSeparateByLane) {
  Selection selection(3, 2);
  EXPECT_EQ(selection.lanes(), 3u);
  EXPECT_EQ(selection.keep(), 2u);
  for (Index lane = 0; lane < 3; ++lane)
    for (Index i = 0; i < 2; ++i) selection.lane(lane)[i] = 10 * lane + i;
  const Selection& view = selection;
  for (Index lane = 0; lane < 3; ++lane) {
    ASSERT_EQ(view.lane(lane).size(), 2u);
    for (Index i = 0; i < 2; ++i) EXPECT_EQ(view.lane(lane)[i], 10 * lane + i);
  }
}

}  // namespace
