#include "attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "matrix.hpp"
#include "reference/random.hpp"
#include "thread_pool.hpp"

namespace smollm2 {
namespace {

using infinipot::KeyStorage;
using infinipot::Pot;

/// Two layers of which each keeps another number of entries, so that they begin at different rows; the longer
/// one has more than two tiles of keys.
class AttentionOverBudgets : public testing::Test {
 protected:
  static constexpr std::size_t d = 12, tokens = 40;

  static Pot<float> pot(const std::vector<std::size_t>& budgets) {
    return Pot<float>(
        {.shape = {2, 4, 2, d}, .capacity = 700, .rope = infinipot::plain_rope(d), .budgets = budgets});
  }

  /// Random rows from size() on.
  void write(Pot<float>& pot, std::size_t count) {
    for (std::size_t layer = 0; layer < 2; ++layer)
      for (std::size_t head = 0; head < 2; ++head)
        for (std::size_t i = 0; i < count; ++i)
          pot.write(layer, head, pot.size() + i, floats(d, 3).data(), floats(d, 1).data());
  }

  void distil(Pot<float>& pot) {
    infinipot::Selection kept(pot.entries().budgets());
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane) {
      const std::size_t begin = pot.entries().begin(lane), held = pot.size() - begin;
      kept.set_count(lane, std::min(kept.lane(lane).size(), held));
      std::ranges::copy(random_.subset<infinipot::Index>(kept.lane(lane).size(), held),
                        kept.lane(lane).begin());
      for (auto& index : kept.lane(lane)) index += static_cast<infinipot::Index>(begin);
    }
    pot.keep(kept);
  }

  void append(Pot<float>& pot, std::size_t count) {
    write(pot, count);
    pot.append(std::vector<infinipot::Entry>(count));
  }

  std::vector<float> floats(std::size_t count, double scale) {
    std::vector<float> values;
    for (const double x : random_.uniforms(count)) values.push_back(static_cast<float>(scale * x));
    return values;
  }

  /// Attention of `tokens` new ones, whose keys and values are written, against a softmax in double precision
  /// over the rows that a layer has.
  void expect_dense_attention(Pot<float>& pot, std::size_t threads) {
    write(pot, tokens);
    const std::vector<float> numbers = floats(tokens * 4 * d, 1);
    const auto queries = infinipot::contiguous_queries(numbers.data(), tokens, pot.shape());
    ThreadPool pool(threads);
    Attention<Pot<float>> attention(pot, pool);
    Matrix out(tokens, 4 * d);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      attention.run(layer, queries, pot.size(), out.view().slice(0, tokens));
      for (std::size_t i = 0; i < tokens; ++i)
        for (std::size_t head = 0; head < 4; ++head) {
          const std::vector<double> expected =
              dense(pot, layer, head / 2, queries.at(i, head), pot.size() + i);
          for (std::size_t k = 0; k < d; ++k)
            ASSERT_NEAR(static_cast<double>(out.row(i)[head * d + k]), expected[k], 2e-6)
                << "layer " << layer << " token " << i;
        }
    }
  }

  static std::vector<double> dense(const Pot<float>& pot, std::size_t layer, std::size_t head,
                                   const float* query, std::size_t position) {
    std::vector<double> mixed(d);
    double sum = 0;
    for (std::size_t row = pot.begin(layer); row <= position; ++row) {
      double logit = 0;
      for (std::size_t k = 0; k < d; ++k)
        logit += static_cast<double>(query[k]) * static_cast<double>(pot.keys().row(layer, head, row)[k]);
      const double weight = std::exp(logit / std::sqrt(static_cast<double>(d)));
      sum += weight;
      for (std::size_t k = 0; k < d; ++k)
        mixed[k] += weight * static_cast<double>(pot.values().row(layer, head, row)[k]);
    }
    for (double& x : mixed) x /= sum;
    return mixed;
  }

  reference::Random random_{31};
};

TEST_F(AttentionOverBudgets, IsADenseSoftmaxOverTheRowsOfALayer) {
  for (const auto& budgets : {std::vector<std::size_t>{600, 150}, {40, 610}, {300, 299}}) {
    Pot<float> pot = this->pot(budgets);
    expect_dense_attention(pot, 1);  // the first tokens of a stream
    append(pot, 650 - pot.size());
    distil(pot);
    for (const std::size_t threads : {1U, 3U}) expect_dense_attention(pot, threads);
    append(pot, 650 - pot.size());
    distil(pot);
    ASSERT_NE(pot.begin(0), pot.begin(1));
    for (const std::size_t threads : {1U, 3U}) expect_dense_attention(pot, threads);
  }
}

TEST_F(AttentionOverBudgets, IsThatOfAPotWithoutWhereALayerHasAllRows) {
  // The same rows in a pot without budgets, where a layer begins at 0: the same bits.
  Pot<float> with = pot({500, 300}), without = pot({});
  append(with, 600 - with.size());
  distil(with);
  append(with, 640 - with.size());
  distil(with);
  ASSERT_EQ(with.begin(0), 0U);
  without.append(std::vector<infinipot::Entry>(500));
  write(with, tokens);
  for (std::size_t head = 0; head < 2; ++head)
    for (std::size_t row = 0; row < 500 + tokens; ++row)
      without.write(0, head, row, with.keys().row(0, head, row), with.values().row(0, head, row));
  const std::vector<float> numbers = floats(tokens * 4 * d, 1);
  ThreadPool pool(2);
  Matrix a(tokens, 4 * d), b(tokens, 4 * d);
  const auto queries = infinipot::contiguous_queries(numbers.data(), tokens, with.shape());
  Attention<Pot<float>>(with, pool).run(0, queries, 500, a.view().slice(0, tokens));
  Attention<Pot<float>>(without, pool).run(0, queries, 500, b.view().slice(0, tokens));
  for (std::size_t i = 0; i < tokens; ++i) EXPECT_TRUE(std::equal(a.row(i), a.row(i) + 4 * d, b.row(i))) << i;
}

}  // namespace
}  // namespace smollm2
