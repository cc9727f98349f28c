// NuC from logits, beside a plain loop, an Eigen expression, and merely reading the logits; and from hidden
// states, beside Eigen's matrix product, alone and followed by NuC from its logits.
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "infinipot/nuc.hpp"
#include "infinipot/nuc/nuc_from_hidden.hpp"
#include "inputs.hpp"

namespace {

/// Rows of logits; many of them, so that they come from memory and not from a cache.
struct Rows {
  std::size_t vocab, count;
  std::vector<float> all;

  explicit Rows(const benchmark::State& state)
      : vocab(static_cast<std::size_t>(state.range(0))),
        count(static_cast<std::size_t>(state.range(1))),
        all(inputs::floats(vocab * count, 1, 10)) {}

  std::span<const float> operator[](std::size_t row) const {
    return std::span(all).subspan(row * vocab, vocab);
  }
};

float plain_nuc(std::span<const float> logits, std::size_t token) {
  float top = logits[0];
  for (const float x : logits) top = std::max(top, x);
  float sum = 0;
  for (const float x : logits) sum += std::exp(x - top);
  return top + std::log(sum) - logits[token];
}

float eigen_nuc(std::span<const float> logits, std::size_t token) {
  const Eigen::Map<const Eigen::ArrayXf> row(logits.data(), static_cast<Eigen::Index>(logits.size()));
  const float top = row.maxCoeff();
  return top + std::log((row - top).exp().sum()) - logits[token];
}

/// Scores token 7 of every row, and checks the scores against the plain loop's.
template <class Score>
void run(benchmark::State& state, const Score& score) {
  const Rows rows(state);
  std::vector<float> scores(rows.count), expected(rows.count);
  for (std::size_t row = 0; row < rows.count; ++row) expected[row] = plain_nuc(rows[row], 7);
  for (auto _ : state) {
    for (std::size_t row = 0; row < rows.count; ++row) scores[row] = score(rows[row]);
    benchmark::DoNotOptimize(scores.data());
    benchmark::ClobberMemory();
  }
  inputs::set_bytes(state, rows.all.size() * sizeof(float));
  inputs::set_items(state, rows.count);
  inputs::expect_near(state, scores, expected, 1e-3F);
}

void nuc(benchmark::State& state) {
  run(state, [](std::span<const float> logits) { return infinipot::nuc(logits, 7); });
}
void plain_loop(benchmark::State& state) {
  run(state, [](std::span<const float> logits) { return plain_nuc(logits, 7); });
}
void eigen_array(benchmark::State& state) {
  run(state, [](std::span<const float> logits) { return eigen_nuc(logits, 7); });
}

/// The limit: every logit is loaded once and added up.
void read_bandwidth(benchmark::State& state) {
  const Rows rows(state);
  for (auto _ : state) {
    const float sum =
        Eigen::Map<const Eigen::ArrayXf>(rows.all.data(), static_cast<Eigen::Index>(rows.all.size())).sum();
    benchmark::DoNotOptimize(sum);
  }
  inputs::set_bytes(state, rows.all.size() * sizeof(float));
}

/// SmolLM2's and Llama 3's vocabularies, from memory (100 MB and more), and one row from the cache.
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"vocab", "rows"});
  benchmark->Args({49152, 512})->Args({128256, 256})->Args({49152, 1});
  benchmark->Unit(benchmark::kMicrosecond);
}

BENCHMARK(nuc)->Apply(shapes);
BENCHMARK(plain_loop)->Apply(shapes);
BENCHMARK(eigen_array)->Apply(shapes);
BENCHMARK(read_bandwidth)->Apply(shapes);

// --- From hidden states ------------------------------------------------------------------------------------

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Prediction {
  std::size_t rows, width, vocab;
  std::vector<float> hidden, output;
  std::vector<infinipot::Token> targets;

  explicit Prediction(const benchmark::State& state)
      : rows(static_cast<std::size_t>(state.range(0))),
        width(static_cast<std::size_t>(state.range(1))),
        vocab(static_cast<std::size_t>(state.range(2))),
        hidden(inputs::floats(rows * width, 1)),
        output(inputs::floats(vocab * width, 2, 10 / std::sqrt(static_cast<float>(width)))) {
    for (std::size_t row = 0; row < rows; ++row)
      targets.push_back(static_cast<infinipot::Token>(row * 7919 % vocab));
  }

  /// logits = hidden * output^T
  void multiply(RowMajor& logits) const {
    const auto map = [this](const std::vector<float>& from, std::size_t count) {
      return Eigen::Map<const RowMajor>(from.data(), static_cast<Eigen::Index>(count),
                                        static_cast<Eigen::Index>(width));
    };
    logits.noalias() = map(hidden, rows) * map(output, vocab).transpose();
  }

  RowMajor empty_logits() const {
    return {static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(vocab)};
  }

  void scores_of(const RowMajor& logits, std::vector<float>& scores) const {
    for (std::size_t row = 0; row < rows; ++row)
      scores[row] = infinipot::nuc({logits.row(static_cast<Eigen::Index>(row)).data(), vocab}, targets[row]);
  }

  void set_rate(benchmark::State& state) const {
    inputs::set_rate(state, "flop", 2 * static_cast<double>(rows) * static_cast<double>(width * vocab));
    inputs::set_items(state, rows);
  }
};

/// Scores from elements of T, checked against the baseline's from the same elements as floats.
template <class T>
void from_hidden(benchmark::State& state) {
  Prediction prediction(state);
  std::vector<T> elements(prediction.output.size());
  infinipot::detail::from_float(prediction.output.data(), elements.size(), elements.data());
  infinipot::detail::to_float(elements.data(), elements.size(), prediction.output.data());
  infinipot::NucFromHidden fused(prediction.width);
  std::vector<float> scores(prediction.rows), expected(prediction.rows);
  for (auto _ : state) {
    fused.score(prediction.hidden.data(), static_cast<std::ptrdiff_t>(prediction.width),
                infinipot::OutputMatrix<T>{elements.data(), prediction.vocab, prediction.width},
                prediction.targets, scores);
    benchmark::DoNotOptimize(scores.data());
    benchmark::ClobberMemory();
  }
  RowMajor logits = prediction.empty_logits();
  prediction.multiply(logits);
  prediction.scores_of(logits, expected);
  inputs::expect_near(state, scores, expected, 1e-5F);
  prediction.set_rate(state);
}

void eigen_gemm_and_nuc(benchmark::State& state) {
  const Prediction prediction(state);
  RowMajor logits = prediction.empty_logits();
  std::vector<float> scores(prediction.rows);
  for (auto _ : state) {
    prediction.multiply(logits);
    prediction.scores_of(logits, scores);
    benchmark::DoNotOptimize(scores.data());
    benchmark::ClobberMemory();
  }
  prediction.set_rate(state);
}

/// What the fused kernel would take if NuC cost nothing.
void eigen_gemm_alone(benchmark::State& state) {
  const Prediction prediction(state);
  RowMajor logits = prediction.empty_logits();
  for (auto _ : state) {
    prediction.multiply(logits);
    benchmark::DoNotOptimize(logits.data());
    benchmark::ClobberMemory();
  }
  prediction.set_rate(state);
}

/// SmolLM2-135M and Llama 2 7B.
void predictions(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "width", "vocab"});
  benchmark->Args({256, 576, 49152})->Args({128, 4096, 32000})->Args({16, 576, 49152})->Args({1, 576, 49152});
  benchmark->Unit(benchmark::kMillisecond);
}

BENCHMARK_TEMPLATE(from_hidden, infinipot::f32)->Apply(predictions);
BENCHMARK_TEMPLATE(from_hidden, infinipot::f16)->Apply(predictions);
BENCHMARK_TEMPLATE(from_hidden, infinipot::bf16)->Apply(predictions);
BENCHMARK(eigen_gemm_and_nuc)->Apply(predictions);
BENCHMARK(eigen_gemm_alone)->Apply(predictions);

}  // namespace
