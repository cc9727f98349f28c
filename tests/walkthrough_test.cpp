// A walk through infinipot: seven tokens A .. G through a tiny pot, every step written out.
//
// The model is scripted: how much the catalyst attends to a letter and how surprising a letter is are read
// from a table, so each decision can be followed by hand. Read this file from top to bottom.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace {

using infinipot::Token;

// The vocabulary: seven letters of the text, and two words that only the Catalyst Prompt uses.
enum Letter : Token { A, B, C, D, E, F, G, ask, why, vocabulary };

/// What the scripted model thinks of each letter.
struct Script {
  std::array<float, 7> attention_of_head_0;  // that each catalyst token pays to A .. G
  std::array<float, 7> attention_of_head_1;
  std::array<float, 7> novelty;  // -log p(letter), nats
};

/// An engine in 40 lines. One layer, two heads, and attention probabilities, which it happens to have
/// (AttentionSink); a real engine would show its queries. It meets infinipot::YieldsAttention.
class ScriptedEngine {
 public:
  ScriptedEngine(const Script& script, infinipot::Pot<float>& pot) : script_(script), pot_(pot) {}

  infinipot::Shape shape() const { return pot_.shape(); }
  std::size_t vocab_size() const { return vocabulary; }

  /// Reading: keys and values go into the pot's rows `first`, `first` + 1, ...; logits go to the sink.
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      for (std::size_t head = 0; head < 2; ++head) {
        pot_.keys(0).row(head, first + i)[0] = static_cast<float>(tokens[i]);
        pot_.values(0).row(head, first + i)[0] = static_cast<float>(tokens[i]);
      }
      if (i >= logits.first_row()) logits.row(i, prediction());
    }
  }

  /// The catalyst: the same, and how much each of its tokens attends to what the pot holds.
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::AttentionSink& attention) {
    forward(tokens, first, logits);
    for (std::size_t head = 0; head < 2; ++head) {
      const auto held = pot_.entries().tokens(head).first(first);
      std::vector<float> row;
      for (const Token letter : held) row.push_back(attention_to(head, letter));
      for (std::size_t i = 0; i < tokens.size(); ++i) attention.row(0, head, i, row);
    }
  }

 private:
  float attention_to(std::size_t head, Token letter) const {
    return (head == 0 ? script_.attention_of_head_0
                      : script_.attention_of_head_1)[static_cast<std::size_t>(letter)];
  }

  /// Logits whose softmax gives every letter the probability exp(-novelty), whatever came before.
  const std::vector<float>& prediction() {
    double rest = 1;
    logits_.assign(vocabulary, 0);
    for (std::size_t letter = 0; letter < 7; ++letter) {
      logits_[letter] = -script_.novelty[letter];
      rest -= std::exp(-static_cast<double>(script_.novelty[letter]));
    }
    logits_[ask] = logits_[why] = static_cast<float>(std::log(rest / 2));
    return logits_;
  }

  Script script_;
  infinipot::Pot<float>& pot_;
  std::vector<float> logits_;
};

infinipot::Pot<float> make_pot(std::size_t capacity, std::size_t keep) {
  return infinipot::Pot<float>({.shape = {.layers = 1, .query_heads = 2, .kv_heads = 2, .head_dim = 2},
                                .capacity = capacity,
                                .max_keep = keep,
                                .rope = infinipot::plain_rope(2)});
}

/// The letters that a head of the pot holds, in order.
std::string letters(const infinipot::Pot<float>& pot, std::size_t head) {
  std::string text;
  for (const Token token : pot.entries().tokens(head)) text += static_cast<char>('A' + token);
  return text;
}

// A pot of 3 with a catalyst of one word: two letters fit beside it, and one is kept. Every letter from C on
// finds the pot full, so a distillation makes room first. Only CaP counts (alpha 0).
TEST(Walkthrough, PotOfThree) {
  const Script script{.attention_of_head_0 = {.1F, .2F, .3F, .9F, .1F, .2F, .3F},
                      .attention_of_head_1 = {.5F, .4F, .3F, .2F, .1F, .6F, .2F},
                      .novelty = {3, 3, 3, 3, 3, 3, 3}};
  auto pot = make_pot(3, 1);
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, infinipot::Infinipot({.catalysts = {{ask}}, .alpha = 0}),
                        {.keep = 1, .sinks = 0});
  std::vector<std::string> head_0, head_1;
  reader.on_distillation([&](const infinipot::Distillation& d) {
    EXPECT_EQ(d.entries_before, 2U);  // M - p = 3 - 1
    head_0.push_back(letters(pot, 0));
    head_1.push_back(letters(pot, 1));
  });

  reader.feed(std::array<Token, 7>{A, B, C, D, E, F, G});

  // Head 0 meets AB, keeps B (.2 > .1); meets BC, keeps C; CD: D; after that nothing beats D (.9).
  EXPECT_EQ(head_0, (std::vector<std::string>{"B", "C", "D", "D", "D"}));
  // Head 1 sees other merits in the same text: A (.5) stays until F (.6) comes.
  EXPECT_EQ(head_1, (std::vector<std::string>{"A", "A", "A", "A", "F"}));
  // After the last distillation G was read, at position 1, after the kept letter.
  EXPECT_EQ(letters(pot, 0), "DG");
  EXPECT_EQ(letters(pot, 1), "FG");
  // Entries know their place in the text: D was token 3, F token 5, G token 6.
  EXPECT_EQ(pot.entries().positions(0)[0], 3U);
  EXPECT_EQ(pot.entries().positions(1)[0], 5U);
  EXPECT_EQ(pot.entries().positions(1)[1], 6U);
  EXPECT_EQ(reader.stats().distillations, 5U);
}

// A pot of 8 with a catalyst of two words: six letters fit, G finds the pot full. Four of six are kept: the
// first is a sink; of the three free places, floor(0.5 * 3) = 1 goes by NuC, to the most novel, and two go by
// CaP.
TEST(Walkthrough, PotOfEight) {
  const Script script{.attention_of_head_0 = {.1F, .2F, .3F, .1F, .4F, .2F, 0},
                      .attention_of_head_1 = {.1F, .4F, .1F, .3F, .2F, .1F, 0},
                      .novelty = {4, 3, 5, 4, 3, 4.5F, 4}};
  auto pot = make_pot(8, 4);
  ScriptedEngine engine(script, pot);
  infinipot::Ccd reader(engine, pot, infinipot::Infinipot({.catalysts = {{ask, why}}, .alpha = .5}),
                        {.keep = 4, .sinks = 1});
  int distillations = 0;
  reader.on_distillation([&](const infinipot::Distillation& d) {
    ++distillations;
    EXPECT_EQ(d.entries_before, 6U);  // ABCDEF; the two catalyst entries are gone already
    EXPECT_EQ(letters(pot, 0), "ABCE");
    EXPECT_EQ(letters(pot, 1), "ABCD");
  });

  reader.feed(std::array<Token, 6>{A, B, C, D, E, F});
  EXPECT_EQ(distillations, 0) << "a pot that is just full is not distilled until a token needs the room";
  EXPECT_EQ(letters(pot, 0), "ABCDEF");
  // NuC: 0 for the first token of a stream, which nothing predicted; then what the script says.
  const std::array<float, 6> nuc{0, 3, 5, 4, 3, 4.5F};
  for (std::size_t t = 0; t < 6; ++t) EXPECT_NEAR(pot.entries().nuc(0)[t], nuc[t], 1e-5F) << t;

  reader.feed(G);
  EXPECT_EQ(distillations, 1);
  // Both heads: A is the sink; C is the most novel (NuC 5). Then head 0 takes E (.4) and, of B and F, which
  // tie at .2, the earlier one; head 1 takes B (.4) and D (.3). Text order is kept, and G follows.
  EXPECT_EQ(letters(pot, 0), "ABCEG");
  EXPECT_EQ(letters(pot, 1), "ABCDG");
  // Values moved with their letters, and the keys with theirs: E came from position 4 and now stands at 3,
  // as if it had been rotated for 3 from the start (the script rotates nothing itself: 4 - 3 = one step
  // back).
  EXPECT_EQ(pot.values(0).row(0, 3)[0], static_cast<float>(E));
  EXPECT_NEAR(pot.keys(0).row(0, 3)[0], static_cast<float>(E) * std::cos(1.0F), 1e-6F);
  EXPECT_NEAR(pot.keys(0).row(0, 3)[1], -static_cast<float>(E) * std::sin(1.0F), 1e-6F);
  // NuC travels with its entry: C's is still 5, at position 2.
  EXPECT_NEAR(pot.entries().nuc(0)[2], 5, 1e-5F);
  EXPECT_EQ(pot.entries().survived(0)[2], 1U);
  EXPECT_EQ(pot.entries().survived(0)[4], 0U);
}

}  // namespace
