// NuC of one token, beside a plain loop, an Eigen expression, and merely reading the logits.
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "infinipot/nuc.hpp"
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

}  // namespace
