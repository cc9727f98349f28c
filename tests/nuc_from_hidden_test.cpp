#include "infinipot/nuc/nuc_from_hidden.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "allocation_counter.hpp"
#include "infinipot/detail/nan.hpp"
#include "nuc_tolerance.hpp"
#include "reference/random.hpp"

namespace {

using infinipot::bf16;
using infinipot::Element;
using infinipot::f16;
using infinipot::NucFromHidden;
using infinipot::OutputMatrix;
using infinipot::Token;
using infinipot::detail::is_nan;

const float inf = -infinipot::detail::minus_infinity();
const float nan = infinipot::detail::quiet_nan<float>();

/// Hidden rows, an output matrix with a few elements between rows, targets.
template <Element T>
struct Case {
  std::size_t rows, width, vocab, hidden_stride, output_stride;
  std::vector<float> hidden;
  std::vector<T> output;
  std::vector<Token> targets;

  Case(std::size_t row_count, std::size_t columns, std::size_t vocabulary, double spread = 3,
       std::size_t gap = 0)
      : rows(row_count),
        width(columns),
        vocab(vocabulary),
        hidden_stride(width + gap),
        output_stride(width + 2 * gap),
        hidden(rows * hidden_stride, nan),
        output(vocab * output_stride, static_cast<T>(nan)) {
    reference::Random random(rows * 31 + width * 7 + vocab);
    const double scale = spread / std::sqrt(static_cast<double>(width));
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t k = 0; k < width; ++k)
        hidden[r * hidden_stride + k] = static_cast<float>(random.uniform());
    for (std::size_t t = 0; t < vocab; ++t)
      for (std::size_t k = 0; k < width; ++k)
        output[t * output_stride + k] = static_cast<T>(static_cast<float>(scale * random.uniform()));
    for (std::size_t r = 0; r < rows; ++r) targets.push_back(static_cast<Token>(random.below(vocab)));
    if (rows > 2) {
      targets[0] = 0;
      targets[1] = static_cast<Token>(vocab - 1);
    }
  }

  /// Scores of rows first .. first + count - 1.
  std::vector<float> scores(NucFromHidden& fused, std::size_t first, std::size_t count) const {
    std::vector<float> nuc(count, -1);
    fused.score(hidden.data() + first * hidden_stride, static_cast<std::ptrdiff_t>(hidden_stride),
                OutputMatrix<T>{output.data(), vocab, width, static_cast<std::ptrdiff_t>(output_stride)},
                std::span(targets).subspan(first, count), nuc);
    return nuc;
  }

  std::vector<float> scores() const {
    NucFromHidden fused(width);
    return scores(fused, 0, rows);
  }
};

struct Truth {
  double nuc, tolerance;
};

/// A sum of `width` products in float errs by at most width + 1 roundings of their magnitudes, in a log-sum
/// and in the target's logit; then as for NuC of logits. Sums of shorter blocks are only more exact.
template <Element T>
Truth truth(const Case<T>& c, std::size_t row) {
  double largest_error = 0, top = -reference::infinity;
  std::vector<double> logits(c.vocab);
  for (std::size_t t = 0; t < c.vocab; ++t) {
    double magnitude = 0;
    for (std::size_t k = 0; k < c.width; ++k) {
      const double product = static_cast<double>(c.hidden[row * c.hidden_stride + k]) *
                             static_cast<double>(static_cast<float>(c.output[t * c.output_stride + k]));
      logits[t] += product;
      magnitude += std::abs(product);
    }
    largest_error =
        std::max(largest_error, reference::unit * static_cast<double>(c.width + 1) * magnitude * 1.01);
    top = std::max(top, logits[t]);
  }
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - top);
  const std::vector<float> rounded(logits.begin(), logits.end());
  const double nuc = top + std::log(sum) - logits[static_cast<std::size_t>(c.targets[row])];
  return {nuc, 2 * largest_error + reference::nuc_tolerance(rounded, c.targets[row])};
}

template <Element T>
void expect_right(const Case<T>& c) {
  const auto scores = c.scores();
  for (std::size_t row = 0; row < c.rows; ++row) {
    const Truth expected = truth(c, row);
    ASSERT_NEAR(scores[row], expected.nuc, expected.tolerance)
        << c.rows << " rows, width " << c.width << ", vocabulary " << c.vocab << ": row " << row;
    ASSERT_GE(scores[row], 0.0F);
  }
}

template <class T>
class NucFromHiddenOf : public testing::Test {};
using Elements = testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(NucFromHiddenOf, Elements);

// Around the packet, the steps of 4 and 8 tokens, the tiles of 256 tokens, rows and columns; primes.
TYPED_TEST(NucFromHiddenOf, MatchesTheReferenceAtEverySize) {
  for (const std::size_t width : {1U, 2U, 7U, 16U, 37U, 255U, 256U, 257U, 600U})
    for (const std::size_t vocab : {1U, 3U, 4U, 8U, 9U, 31U, 255U, 256U, 257U, 521U})
      expect_right(Case<TypeParam>(3, width, vocab, 5, vocab % 2));
}

TYPED_TEST(NucFromHiddenOf, MatchesTheReferenceForAnyNumberOfRows) {
  for (std::size_t rows = 1; rows <= 70; ++rows) expect_right(Case<TypeParam>(rows, 19, 101));
  for (const std::size_t rows : {255U, 256U, 257U, 520U}) expect_right(Case<TypeParam>(rows, 9, 67));
}

TYPED_TEST(NucFromHiddenOf, MatchesTheReferenceAtEverySpread) {
  for (const double spread : {0.0, 1e-3, 1.0, 30.0, 1000.0})
    expect_right(Case<TypeParam>(5, 64, 700, spread));
}

TYPED_TEST(NucFromHiddenOf, ARowIsTheSameBitsWhicheverRowsAreScoredWithIt) {
  const Case<TypeParam> c(300, 77, 301, 10);
  NucFromHidden fused(c.width);
  const auto all = c.scores(fused, 0, c.rows);
  for (const std::size_t count : {1U, 2U, 15U, 16U, 17U, 31U, 33U, 70U, 257U})
    for (const std::size_t first : {0U, 1U, 13U, 43U}) {
      const auto some = c.scores(fused, first, count);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + static_cast<std::ptrdiff_t>(first)))
          << count << " rows from " << first;
    }
}

TYPED_TEST(NucFromHiddenOf, OneTokenIsCertain) {
  EXPECT_EQ(Case<TypeParam>(4, 33, 1, 100).scores(), (std::vector<float>(4, 0)));
}

TYPED_TEST(NucFromHiddenOf, BadNumbers) {
  for (const float bad : {nan, inf, -inf})
    for (const std::size_t token : {0U, 7U, 8U, 255U, 256U, 299U}) {
      Case<TypeParam> c(40, 20, 300);
      for (std::size_t r = 0; r < c.rows; ++r) c.hidden[r * c.hidden_stride + 4] = r == 33 ? -1 : 1;
      c.output[token * c.output_stride + 4] = static_cast<TypeParam>(bad);
      std::fill(c.targets.begin(), c.targets.end(), Token{100});
      c.targets[2] = static_cast<Token>(token);
      const auto scores = c.scores();
      for (std::size_t r = 0; r < c.rows; ++r) {
        // A logit of -inf is an impossible token.
        const float logit = r == 33 ? -bad : bad;
        if (!is_nan(logit) && logit < 0) {
          EXPECT_EQ(scores[r] == inf, r == 2) << r;
          EXPECT_FALSE(is_nan(scores[r])) << r;
        } else {
          EXPECT_TRUE(is_nan(scores[r])) << bad << " row " << r << " token " << token;
        }
      }
    }
}

TYPED_TEST(NucFromHiddenOf, BadHiddenStatesSpoilTheirRowOnly) {
  for (const float bad : {nan, inf}) {
    Case<TypeParam> c(40, 20, 300);
    const auto sound = c.scores();
    c.hidden[17 * c.hidden_stride + 3] = bad;
    const auto scores = c.scores();
    for (std::size_t r = 0; r < c.rows; ++r)
      EXPECT_TRUE(r == 17 ? is_nan(scores[r]) : scores[r] == sound[r]) << r;
  }
}

TYPED_TEST(NucFromHiddenOf, NothingButMaskedTokensIsNaN) {
  Case<TypeParam> c(2, 3, 300);
  for (std::size_t r = 0; r < c.rows; ++r) c.hidden[r * c.hidden_stride] = 1;
  for (std::size_t t = 0; t < c.vocab; ++t) c.output[t * c.output_stride] = static_cast<TypeParam>(-inf);
  for (const float score : c.scores()) EXPECT_TRUE(is_nan(score));
  c.output[299 * c.output_stride] = static_cast<TypeParam>(1.0F);
  c.targets = {299, 0};
  EXPECT_EQ(c.scores(), (std::vector<float>{0, inf}));
}

TEST(NucFromHidden, TheStrideOfTheOutputMatrixDefaultsToItsWidth) {
  const Case<float> c(3, 12, 50);
  NucFromHidden fused(12);
  EXPECT_EQ(fused.width(), 12U);
  std::vector<float> nuc(3);
  fused.score(c.hidden.data(), 12, OutputMatrix<float>{c.output.data(), 50, 12}, c.targets, nuc);
  EXPECT_EQ(nuc, c.scores());
}

TEST(NucFromHidden, DoesNothingForNoRows) {
  NucFromHidden fused(4);
  fused.score(nullptr, 4, OutputMatrix<float>{nullptr, 5, 4}, {}, {});
}

TEST(NucFromHidden, RejectsAWidthOfZero) { EXPECT_THROW(NucFromHidden(0), std::invalid_argument); }

TYPED_TEST(NucFromHiddenOf, AllocatesNothingAfterConstruction) {
  const Case<TypeParam> c(300, 40, 600);
  NucFromHidden fused(c.width);
  std::vector<float> nuc(c.rows);
  const OutputMatrix<TypeParam> output{c.output.data(), c.vocab, c.width};
  const allocation_counter::Scope use;
  fused.score(c.hidden.data(), static_cast<std::ptrdiff_t>(c.hidden_stride), output, c.targets, nuc);
  const std::size_t calls = use.calls();
  EXPECT_EQ(calls, 0U);
}

TEST(NucFromHidden, NeedsMemoryForTilesOnly) {
  const allocation_counter::Scope use;
  const NucFromHidden fused(576);
  EXPECT_LT(use.bytes(), std::size_t{2} << 20U) << "256 rows of a vocabulary of 49152 are 48 MiB";
}

}  // namespace
