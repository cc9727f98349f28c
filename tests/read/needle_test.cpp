#include "needle.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "infinipot/pot/selection.hpp"

namespace reading {
namespace {

using Positions = std::vector<std::uint64_t>;

/// Where a phrase is found in a text whose tokens, at positions from 100 on, are these.
Positions found(const std::string& phrase, const std::vector<std::string>& tokens) {
  Needle needle(phrase);
  for (std::size_t i = 0; i < tokens.size(); ++i) needle.push(100 + i, tokens[i]);
  EXPECT_EQ(needle.found(), !needle.positions().empty());
  return needle.positions();
}

TEST(Needle, IsFoundInAToken) {
  EXPECT_EQ(found("cat", {"the", "cat", "sat"}), (Positions{101}));
  EXPECT_EQ(found("a", {"the", "cat", "sat"}), (Positions{101}));
  EXPECT_EQ(found("the", {"the"}), (Positions{100}));
}

TEST(Needle, IsFoundAcrossTokens) {
  EXPECT_EQ(found("the cat", {"on", "the", " ", "cat", "."}), (Positions{101, 102, 103}));
  EXPECT_EQ(found("abc", {"a", "b", "c"}), (Positions{100, 101, 102}));
}

TEST(Needle, CountsTokensThatHoldSomeOfIt) {
  EXPECT_EQ(found("cat sat", {"the", " cat", " sat.", "Then"}), (Positions{101, 102}));
  EXPECT_EQ(found("tsa", {"cat", "sat"}), (Positions{100, 101}));
  EXPECT_EQ(found("cat", {"dog", "cat", "dog"}), (Positions{101}));  // and not those that only touch it
}

TEST(Needle, IsTheFirstOfSeveral) {
  EXPECT_EQ(found("cat", {"a", "cat", "and", "cat"}), (Positions{101}));
  EXPECT_EQ(found("aa", {"a", "a", "a"}), (Positions{100, 101}));
  EXPECT_EQ(found("aab", {"a", "a", "a", "b"}), (Positions{101, 102, 103}));  // a false start first
}

TEST(Needle, MayBeNowhere) {
  EXPECT_EQ(found("cat", {"c", "a", "r", "t"}), Positions{});
  EXPECT_EQ(found("cat", {}), Positions{});
  Needle needle("cat");
  EXPECT_TRUE(needle.wanted());
  EXPECT_FALSE(needle.hit_rate(infinipot::EntryTable(1, 4)).has_value());
}

TEST(Needle, IsNotWantedIfEmpty) {
  EXPECT_FALSE(Needle("").wanted());
  EXPECT_EQ(found("", {"a"}), Positions{});
}

TEST(Needle, PassesOverTokensWithoutText) {
  EXPECT_EQ(found("ab", {"", "a", "", "b"}), (Positions{101, 103}));
}

TEST(Needle, MayCutCharactersWhereTokensDo) {
  // "é" in two tokens, "€" in three.
  EXPECT_EQ(found("\xc3\xa9", {"caf", "\xc3", "\xa9", "s"}), (Positions{101, 102}));
  EXPECT_EQ(found("5 \xe2\x82\xac", {"5", " \xe2", "\x82", "\xac", "."}), (Positions{100, 101, 102, 103}));
}

TEST(Needle, IsFoundFarIntoAText) {
  Needle needle("needle in");
  std::uint64_t position = 0;
  for (; position < 100'000; ++position) needle.push(position, "hay need");
  for (const char* token : {"need", "le ", "in", " it"}) needle.push(position++, token);
  EXPECT_EQ(needle.positions(), (Positions{100'000, 100'001, 100'002}));
}

TEST(Needle, AgreesWithASearchOfTheWholeText) {
  std::uint32_t random = 1;
  const auto below = [&](std::uint32_t limit) {
    random = random * 1664525U + 1013904223U;
    return (random >> 8U) % limit;
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> tokens(40);
    std::string text;
    for (std::string& token : tokens) {
      for (std::uint32_t length = below(4); length > 0; --length) token += below(2) != 0 ? 'a' : 'b';
      text += token;
    }
    std::string phrase;
    for (std::uint32_t length = 1 + below(9); length > 0; --length) phrase += below(2) != 0 ? 'a' : 'b';

    Positions expected;
    if (const std::size_t at = text.find(phrase); at != std::string::npos)
      for (std::size_t i = 0, begin = 0; i < tokens.size(); begin += tokens[i++].size())
        if (begin + tokens[i].size() > at && begin < at + phrase.size() && !tokens[i].empty())
          expected.push_back(100 + i);
    EXPECT_EQ(found(phrase, tokens), expected) << phrase << " in " << text;
  }
}

TEST(Needle, SpansNoTwoTexts) {
  Needle needle("abc");
  needle.push(0, "ab");
  needle.end_text();
  needle.push(1, "c");
  EXPECT_FALSE(needle.found());
  needle.push(2, "ab");
  needle.push(3, "c");
  EXPECT_EQ(needle.positions(), (Positions{2, 3}));
}

TEST(Needle, StaysFoundWhenItsTextEnds) {
  Needle needle("ab");
  needle.push(0, "ab");
  needle.end_text();
  needle.push(1, "ab");
  EXPECT_EQ(needle.positions(), (Positions{0}));
}

TEST(Needle, IsFoundInALaterText) {
  Needle needle("long phrase");
  for (std::uint64_t position = 0; position < 90; ++position) {
    needle.push(position, "text");
    if (position % 7 == 0) needle.end_text();
  }
  needle.push(90, "a long");
  needle.push(91, " phrase");
  EXPECT_EQ(needle.positions(), (Positions{90, 91}));
}

TEST(Needle, HitRateIsTheMeanOverLanes) {
  Needle needle("cd");
  const std::vector<std::string> tokens{"a", "b", "c", "d", "e", "f"};
  for (std::size_t i = 0; i < tokens.size(); ++i) needle.push(i, tokens[i]);

  infinipot::EntryTable entries(3, 8);
  for (std::uint64_t position = 0; position < tokens.size(); ++position)
    entries.append(std::vector<infinipot::Entry>{{.position = position}});
  EXPECT_EQ(needle.hit_rate(entries), 1.0);

  infinipot::Selection kept(3, 2);
  const std::vector<std::vector<infinipot::Index>> lanes{{2, 3}, {0, 3}, {0, 5}};  // both, one, none
  for (std::size_t lane = 0; lane < lanes.size(); ++lane)
    std::copy(lanes[lane].begin(), lanes[lane].end(), kept.lane(lane).begin());
  entries.keep(kept);
  EXPECT_EQ(needle.hit_rate(entries), 0.5);
}

}  // namespace
}  // namespace reading
