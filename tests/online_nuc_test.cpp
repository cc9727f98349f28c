#include "infinipot/nuc/online_nuc.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "nuc_tolerance.hpp"
#include "reference/random.hpp"

namespace {

using infinipot::LogitTile;
using infinipot::LogSumExp;
using infinipot::OnlineNuc;
using infinipot::Token;
using infinipot::detail::is_nan;

const float inf = -infinipot::detail::minus_infinity();
const float nan = infinipot::detail::quiet_nan<float>();

/// Rows of random logits, each with a target.
struct Rows {
  std::size_t vocab;
  std::vector<std::vector<float>> logits;
  std::vector<Token> targets;

  Rows(std::size_t count, std::size_t vocabulary, std::uint64_t seed, double spread = 10)
      : vocab(vocabulary) {
    reference::Random random(seed);
    for (std::size_t row = 0; row < count; ++row) {
      auto& values = logits.emplace_back(vocab);
      for (float& x : values) x = static_cast<float>(spread * random.uniform());
      targets.push_back(static_cast<Token>(random.below(vocab)));
    }
  }

  /// Gives `online` tokens first .. first + count - 1 of all rows, `stride` floats apart among NaN.
  void give(OnlineNuc& online, std::size_t first, std::size_t count, std::size_t stride) const {
    std::vector<float> tile(logits.size() * stride, nan);
    for (std::size_t row = 0; row < logits.size(); ++row)
      std::copy_n(logits[row].begin() + static_cast<std::ptrdiff_t>(first), count,
                  tile.begin() + static_cast<std::ptrdiff_t>(row * stride));
    online.add({tile.data(), static_cast<std::ptrdiff_t>(stride), 0, logits.size(), first, count});
  }

  std::vector<float> scores(std::size_t tile) const {
    OnlineNuc online(logits.size());
    online.start(targets);
    for (std::size_t first = 0; first < vocab; first += tile)
      give(online, first, std::min(tile, vocab - first), tile + 3);
    return result(online);
  }

  static std::vector<float> result(const OnlineNuc& online) {
    std::vector<float> scores;
    for (std::size_t row = 0; row < online.rows(); ++row) scores.push_back(online.nuc(row));
    return scores;
  }

  std::vector<float> whole() const {
    std::vector<float> scores;
    for (std::size_t row = 0; row < logits.size(); ++row)
      scores.push_back(infinipot::nuc(logits[row], targets[row]));
    return scores;
  }
};

TEST(OnlineNuc, MatchesTheReferenceWhateverTheTiles) {
  for (const std::size_t vocab : {1U, 2U, 63U, 64U, 65U, 1000U, 5001U})
    for (const std::size_t tile : {1U, 7U, 64U, 100U, 2048U, 6000U}) {
      if (vocab > 2000 && tile < 64) continue;
      for (const double spread : {0.0, 1.0, 10.0, 300.0}) {
        const Rows rows(3, vocab, vocab + tile, spread);
        const auto scores = rows.scores(tile);
        for (std::size_t row = 0; row < 3; ++row) {
          const double truth = std::max(0.0, reference::nuc(rows.logits[row], rows.targets[row]));
          ASSERT_NEAR(scores[row], truth, reference::nuc_tolerance(rows.logits[row], rows.targets[row]))
              << vocab << " in tiles of " << tile << ", spread " << spread;
        }
      }
    }
}

TEST(OnlineNuc, OfWholeBlocksIsTheSameBitsAsNuc) {
  for (const std::size_t vocab : {1U, 2047U, 2048U, 2049U, 10007U}) {
    const Rows rows(5, vocab, vocab);
    EXPECT_EQ(rows.scores(LogSumExp::block), rows.whole()) << vocab;
  }
}

TEST(OnlineNuc, PartsOfAVocabularyAddUp) {
  const Rows rows(4, 9000, 3);
  std::vector<OnlineNuc> parts(5, OnlineNuc(4));
  for (std::size_t part = 0; part < parts.size(); ++part) {
    parts[part].start(rows.targets);
    const std::size_t first = part * LogSumExp::block;
    rows.give(parts[part], first, std::min(LogSumExp::block, rows.vocab - first), 2048);
  }
  OnlineNuc total(4);
  total.start(rows.targets);
  for (const OnlineNuc& part : parts) total.add(part);
  EXPECT_EQ(Rows::result(total), rows.whole());
}

TEST(OnlineNuc, FindsTargetsOnBothSidesOfATilesBorder) {
  Rows rows(1, 200, 5);
  for (const Token target : {0, 63, 64, 65, 127, 128, 199}) {
    rows.targets[0] = target;
    EXPECT_NEAR(rows.scores(64)[0], rows.whole()[0], 1e-5) << target;
  }
}

TEST(OnlineNuc, RowsMayComeInTilesOfTheirOwn) {
  const Rows rows(6, 300, 8);
  OnlineNuc online(6);
  online.start(rows.targets);
  for (const std::size_t row : {3U, 0U, 5U, 1U, 4U, 2U})
    online.add({rows.logits[row].data(), 0, row, 1, 0, 300});
  EXPECT_EQ(Rows::result(online), rows.whole());
}

TEST(OnlineNuc, StartsAnew) {
  const Rows first(4, 100, 1), second(2, 70, 2);
  OnlineNuc online(4);
  EXPECT_EQ(online.max_rows(), 4U);
  for (const Rows* rows : {&first, &second, &first}) {
    online.start(rows->targets);
    EXPECT_EQ(online.rows(), rows->targets.size());
    rows->give(online, 0, rows->vocab, rows->vocab);
    EXPECT_EQ(Rows::result(online), rows->whole());
  }
}

TEST(OnlineNuc, BadLogitsSpoilTheirRowOnly) {
  for (const float bad : {nan, inf})
    for (const std::size_t at : {0U, 63U, 64U, 150U}) {
      Rows rows(3, 151, 6);
      rows.logits[1][at] = bad;
      const auto scores = rows.scores(64);
      EXPECT_TRUE(is_nan(scores[1])) << bad << " at " << at;
      EXPECT_FALSE(is_nan(scores[0]) || is_nan(scores[2]));
    }
}

TEST(OnlineNuc, MaskedTokens) {
  Rows rows(4, 130, 6);
  std::fill(rows.logits[0].begin(), rows.logits[0].begin() + 64, -inf);  // the first tile
  std::fill(rows.logits[1].begin(), rows.logits[1].end(), -inf);
  rows.logits[2].assign(130, -inf);
  rows.logits[2][static_cast<std::size_t>(rows.targets[2])] = 3;
  rows.logits[3][static_cast<std::size_t>(rows.targets[3])] = -inf;
  rows.targets[0] = 100;
  const auto scores = rows.scores(64);
  EXPECT_NEAR(scores[0], reference::nuc(rows.logits[0], 100), 1e-5);
  EXPECT_TRUE(is_nan(scores[1])) << "no token can come";
  EXPECT_EQ(scores[2], 0.0F) << "only the target can come";
  EXPECT_EQ(scores[3], inf) << "the target cannot come";
}

TEST(OnlineNuc, WithoutItsTargetIsNaN) {
  Rows rows(1, 100, 6);
  rows.targets[0] = 99;
  OnlineNuc online(1);
  online.start(rows.targets);
  EXPECT_TRUE(is_nan(online.nuc(0)));
  rows.give(online, 0, 99, 99);
  EXPECT_TRUE(is_nan(online.nuc(0)));
  rows.give(online, 99, 1, 1);
  EXPECT_NEAR(online.nuc(0), rows.whole()[0], 1e-5);
}

TEST(OnlineNuc, AllocatesNothingAfterConstruction) {
  const Rows rows(3, 5000, 6);
  OnlineNuc online(3), other(3);
  const allocation_counter::Scope use;
  online.start(rows.targets);
  other.start(rows.targets);
  online.add({rows.logits[0].data(), 0, 0, 1, 0, 5000});
  online.add(other);
  const float score = online.nuc(0);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
  EXPECT_GT(score, 0.0F);
}

}  // namespace
