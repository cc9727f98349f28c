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

using infinipot::Pot;

/// Two layers, of more rows than two tiles of keys have.
class AttentionOverAPot : public testing::Test {
 protected:
  static constexpr std::size_t d = 12, tokens = 40;

  /// Random rows from size() on.
  void write(Pot<float>& pot, std::size_t count) {
    for (std::size_t layer = 0; layer < 2; ++layer)
      for (std::size_t head = 0; head < 2; ++head)
        for (std::size_t i = 0; i < count; ++i)
          pot.write(layer, head, pot.size() + i, floats(d, 3).data(), floats(d, 1).data());
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
  /// over all rows.
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
    for (std::size_t row = 0; row <= position; ++row) {
      double logit = 0;
      for (std::size_t k = 0; k < d; ++k)
        logit += static_cast<double>(query[k]) * static_cast<double>(pot.keys(layer).row(head, row)[k]);
      const double weight = std::exp(logit / std::sqrt(static_cast<double>(d)));
      sum += weight;
      for (std::size_t k = 0; k < d; ++k)
        mixed[k] += weight * static_cast<double>(pot.values(layer).row(head, row)[k]);
    }
    for (double& x : mixed) x /= sum;
    return mixed;
  }

  Pot<float> pot_{{.shape = {2, 4, 2, d}, .capacity = 700, .rope = infinipot::plain_rope(d)}};
  reference::Random random_{31};
};

TEST_F(AttentionOverAPot, IsADenseSoftmaxOverItsRows) {
  expect_dense_attention(pot_, 1);  // the first tokens of a stream
  append(pot_, 650);
  for (const std::size_t threads : {1U, 3U}) expect_dense_attention(pot_, threads);
}

}  // namespace
}  // namespace smollm2
