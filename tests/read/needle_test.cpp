#include "needle.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

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

TEST(Needle, CountsTokensWhoseMiddleIsInIt) {
  EXPECT_EQ(found("cat sat", {"the", " cat", " sat.", "Then"}), (Positions{101, 102}));
  EXPECT_EQ(found("he cat", {"the", " cat", ".\n", "sat"}), (Positions{100, 101}));
  EXPECT_EQ(found("e cat", {"the", " cat"}), (Positions{101}));
  EXPECT_EQ(found("cat.", {" cat", ".\n\n", "sat"}), (Positions{100}));
  EXPECT_EQ(found("cat", {"dog", "cat", "dog"}), (Positions{101}));  // and not those that only touch it
}

TEST(Needle, HasTheTokenOfItsMiddleIfNoTokensMiddleIsInIt) {
  EXPECT_EQ(found("t", {"the", "cat", "sat"}), (Positions{100}));
  EXPECT_EQ(found("tsa", {"cat", "sat"}), (Positions{101}));
  EXPECT_EQ(found("ts", {"cat", "sat"}), (Positions{101}));
  EXPECT_EQ(found("5", {"of", " 15)"}), (Positions{101}));
}

TEST(Needle, IsTheFirstOfSeveral) {
  EXPECT_EQ(found("cat", {"a", "cat", "and", "cat"}), (Positions{101}));
  EXPECT_EQ(found("aa", {"a", "a", "a"}), (Positions{100, 101}));
  EXPECT_EQ(found("aab", {"a", "a", "a", "b"}), (Positions{101, 102, 103}));  // a false start first
}

TEST(Needle, MayBeNowhere) {
  EXPECT_EQ(found("cat", {"c", "a", "r", "t"}), Positions{});
  EXPECT_EQ(found("cat", {}), Positions{});
  EXPECT_TRUE(Needle("cat").wanted());
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
    if (const std::size_t at = text.find(phrase); at != std::string::npos) {
      const std::size_t own_middle = at + at + phrase.size();  // in half bytes
      for (std::size_t i = 0, begin = 0; i < tokens.size(); begin += tokens[i++].size()) {
        if (tokens[i].empty()) continue;
        const std::size_t end = begin + tokens[i].size(), middle = begin + end;
        const bool in_phrase = middle >= 2 * at && middle < 2 * (at + phrase.size());
        if (in_phrase || (own_middle >= 2 * begin && own_middle < 2 * end)) expected.push_back(100 + i);
      }
    }
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

TEST(Occurrences, AreOfWholeWords) {
  using Places = std::vector<std::size_t>;
  EXPECT_EQ(occurrences("a cat, cats and cat", "cat"), (Places{2, 16}));
  EXPECT_EQ(occurrences("concatenate", "cat"), Places{});
  EXPECT_EQ(occurrences("15 and 150 and 5", "15"), Places{0});
  EXPECT_EQ(occurrences("caf\xc3\xa9s of a caf\xc3\xa9", "caf"), Places{});  // é is a letter
  EXPECT_EQ(occurrences("the Cat", "cat"), Places{});
  EXPECT_EQ(occurrences("to be or not to be", "to be"), (Places{0, 13}));
  EXPECT_EQ(occurrences("no no no", "no no"), (Places{0, 3}));
  EXPECT_EQ(occurrences("text", ""), Places{});
  EXPECT_EQ(occurrences("", "text"), Places{});
}

TEST(Occurrences, MayBeginAndEndWithSigns) {
  using Places = std::vector<std::size_t>;
  EXPECT_EQ(occurrences("it costs $5m", "$5m"), Places{9});
  EXPECT_EQ(occurrences("is <42>now", "<42>"), Places{3});
  EXPECT_EQ(occurrences("x$5 and $55", "$5"), Places{1});
}

TEST(Needle, FindsTheAnswerInItAlone) {
  Needle needle("in Rome, not Romeo, at Rome.", "Rome");
  const std::vector<std::string> tokens{"Rome",  " is", " big.", " He is", " in", " Rome", ",", " not",
                                        " Rome", "o",   ",",     " at",    " R",  "ome",   ".", " Rome"};
  for (std::size_t i = 0; i < tokens.size(); ++i) needle.push(50 + i, tokens[i]);
  EXPECT_EQ(needle.positions(), (Positions{54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64}));
  EXPECT_EQ(needle.answers(), (std::vector<Positions>{{55}, {62, 63}}));
}

TEST(Needle, MayLackTheAnswer) {
  Needle needle("a cat", "dog");
  needle.push(0, "a cat and a dog");
  EXPECT_TRUE(needle.found());
  EXPECT_TRUE(needle.answers().empty());
}

}  // namespace
}  // namespace reading
