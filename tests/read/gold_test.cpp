#include "gold.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "infinipot/pot/selection.hpp"

namespace reading {
namespace {

using Positions = std::vector<std::uint64_t>;

// Ada was born in Rome. So was Bo. Rome is big.
const std::vector<std::string> text{"Ada",  " was", " born", " in",   " Ro", "me",   ".", " So",
                                    " was", " Bo",  ".",     " Rome", " is", " big", ".", "\n"};
const std::string born = "Ada was born in Rome.", big = "Rome is big.";

/// In which all of `text` was looked at, as positions from 0 on.
Gold gold_of(const std::vector<std::string>& phrases, const std::string& answer = "Rome") {
  Gold gold(phrases, answer);
  for (std::size_t i = 0; i < text.size(); ++i) gold.push(i, text[i]);
  return gold;
}

/// Each lane of which keeps these positions of the text, as many in each.
infinipot::EntryTable entries_of(const std::vector<std::vector<infinipot::Index>>& lanes) {
  infinipot::EntryTable entries(lanes.size(), text.size());
  for (std::uint64_t position = 0; position < text.size(); ++position)
    entries.append(std::vector<infinipot::Entry>{{.position = position}});
  infinipot::Selection kept(lanes.size(), lanes.front().size());
  for (std::size_t lane = 0; lane < lanes.size(); ++lane)
    std::ranges::copy(lanes[lane], kept.lane(lane).begin());
  entries.keep(kept);
  return entries;
}

TEST(Gold, HasTheTokensOfAllPhrases) {
  EXPECT_EQ(gold_of({big, born}).positions(), (Positions{0, 1, 2, 3, 4, 5, 6, 11, 12, 13, 14}));
  EXPECT_EQ(gold_of({"born in Rome. So", "in Rome."}).positions(),
            (Positions{2, 3, 4, 5, 6, 7}));  // once each
  EXPECT_EQ(gold_of({"", "So was Bo.", ""}).positions(), (Positions{7, 8, 9, 10}));
}

TEST(Gold, KeptIsTheMeanOverLanes) {
  const Gold gold = gold_of({"So was Bo."});
  EXPECT_EQ(gold.kept(entries_of({{7, 8, 9, 10}})), 1.0);
  EXPECT_EQ(gold.kept(entries_of({{7, 8, 9, 10}, {0, 1, 2, 7}, {0, 1, 2, 3}})), 5.0 / 12);
  EXPECT_EQ(gold.kept(Positions{8, 9, 12}), 0.5);
}

TEST(Gold, AnAnswerIsKeptIfAnOccurrenceIsWholly) {
  const Gold gold = gold_of({born, big});
  EXPECT_EQ(gold.answer_kept(Positions{4, 5}), 1.0);
  EXPECT_EQ(gold.answer_kept(Positions{4, 12}), 0.0);  // half of it
  EXPECT_EQ(gold.answer_kept(Positions{11}), 1.0);
  EXPECT_EQ(gold.answer_kept(Positions{}), 0.0);
  EXPECT_EQ(gold.answer_kept(entries_of({{4, 5}, {4, 6}, {5, 11}, {0, 1}})), 0.5);
}

TEST(Gold, AnAnswerOutsideOfGoldDoesNotCount) {
  EXPECT_EQ(gold_of({born}).answer_kept(Positions{11}), 0.0);
  EXPECT_EQ(gold_of({"So was Bo."}).answer_kept(Positions{4, 5, 11}), std::nullopt);
  EXPECT_EQ(gold_of({born}, "rome").answer_kept(Positions{4, 5}), std::nullopt);
  EXPECT_EQ(gold_of({born}, "Rom").answer_kept(Positions{4, 5}), std::nullopt);
  EXPECT_EQ(gold_of({born}, "").answer_kept(Positions{4, 5}), std::nullopt);
  EXPECT_EQ(gold_of({"So was Bo."}).answer_kept(entries_of({{7, 8}})), std::nullopt);
}

TEST(Gold, WhiteSpaceAroundTheAnswerDoesNotCount) {
  EXPECT_EQ(gold_of({born}, " Rome.\n").answer_kept(Positions{4, 5, 6}), 1.0);
  EXPECT_EQ(gold_of({born}, " Rome.\n").answer_kept(Positions{4, 5}), 0.0);
  EXPECT_EQ(gold_of({born}, " \n").answer_kept(Positions{4, 5}), std::nullopt);
}

TEST(Gold, SaysWhatIsMissing) {
  const Gold gold = gold_of({born, "nowhere", "not there"});
  EXPECT_TRUE(gold.found());
  EXPECT_TRUE(gold.wanted());
  EXPECT_EQ(gold.missing(), "nowhere");
  EXPECT_EQ(gold.kept(Positions{0}), 1.0 / 7);  // of what was found

  EXPECT_EQ(gold_of({born}).missing(), std::nullopt);
  EXPECT_FALSE(gold_of({born}).wanted());
}

TEST(Gold, IsNothingWithoutPhrases) {
  for (const Gold& gold : {gold_of({}), gold_of({""}), gold_of({"nowhere"})}) {
    EXPECT_FALSE(gold.found());
    EXPECT_EQ(gold.positions(), Positions{});
    EXPECT_EQ(gold.kept(entries_of({{0, 1}})), std::nullopt);
    EXPECT_EQ(gold.answer_kept(entries_of({{0, 1}})), std::nullopt);
  }
  EXPECT_FALSE(gold_of({""}).wanted());
}

TEST(Gold, SpansNoTwoTexts) {
  Gold gold({"abc", "cd"});
  gold.push(0, "ab");
  gold.end_text();
  gold.push(1, "cd");
  EXPECT_EQ(gold.positions(), Positions{1});
}

}  // namespace
}  // namespace reading
