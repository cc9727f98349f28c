// CaP of one kv head, beside the same thing with the whole matrix in memory, and the bare matrix product.
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/element.hpp"
#include "inputs.hpp"

namespace {

/// Arguments: query heads per kv head, head_dim, entries before the catalyst, catalyst tokens.
struct Input {
  infinipot::Shape shape;
  std::size_t first, count;
  std::vector<float> queries, keys;

  explicit Input(const benchmark::State& state)
      : shape{1, static_cast<std::size_t>(state.range(0)), 1, static_cast<std::size_t>(state.range(1))},
        first(static_cast<std::size_t>(state.range(2))),
        count(static_cast<std::size_t>(state.range(3))),
        queries(inputs::floats(count * shape.query_heads * shape.head_dim, 1)),
        keys(inputs::floats(entries() * shape.head_dim, 2)) {}

  std::size_t entries() const { return first + count; }
  std::size_t rows() const { return count * shape.query_heads; }

  infinipot::Queries view() const {
    const auto d = static_cast<std::ptrdiff_t>(shape.head_dim);
    return {queries.data(), count, static_cast<std::ptrdiff_t>(shape.query_heads) * d, d};
  }

  infinipot::FloatRows key_rows(std::size_t from) const {
    return {keys.data() + from * shape.head_dim, static_cast<std::ptrdiff_t>(shape.head_dim)};
  }
};

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// (entries, rows), a column per query: the orientation in which Eigen is fastest here.
using Logits = Eigen::MatrixXf;

Eigen::Map<const Matrix> as_matrix(const std::vector<float>& values, std::size_t rows, std::size_t columns) {
  return {values.data(), static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns)};
}

/// The whole matrix, then softmax over each column, then the sum of each row.
void materialised(const Input& in, const Matrix& queries, Logits& logits, Eigen::VectorXf& scores) {
  logits.noalias() = as_matrix(in.keys, in.entries(), in.shape.head_dim) * queries.transpose();
  scores.setZero();
  for (Eigen::Index row = 0; row < logits.cols(); ++row) {
    const std::size_t token = static_cast<std::size_t>(row) / in.shape.query_heads;
    const auto seen = static_cast<Eigen::Index>(in.first + token + 1);
    auto column = logits.col(row).head(seen).array();
    column = (column - column.maxCoeff()).exp();
    scores.head(seen) += (column / column.sum()).matrix();
  }
}

Matrix scaled_queries(const Input& in) {
  return as_matrix(in.queries, in.rows(), in.shape.head_dim) /
         std::sqrt(static_cast<float>(in.shape.head_dim));
}

Logits empty_logits(const Input& in) {
  return {static_cast<Eigen::Index>(in.entries()), static_cast<Eigen::Index>(in.rows())};
}

void set_counters(benchmark::State& state, const Input& in) {
  const auto products = static_cast<double>(in.entries() * in.rows() * in.shape.head_dim);
  inputs::set_rate(state, "FLOP", 2 * products);
  inputs::set_items(state, in.entries());
}

void expect_same(benchmark::State& state, const Input& in, const std::vector<float>& scores,
                 float tolerance) {
  Logits logits = empty_logits(in);
  Eigen::VectorXf expected(static_cast<Eigen::Index>(in.entries()));
  materialised(in, scaled_queries(in), logits, expected);
  inputs::expect_near(state, scores, {expected.data(), in.entries()}, tolerance);
}

template <class Keys>
void score(benchmark::State& state, const Input& in, const Keys& keys, const infinipot::AttentionForm& form,
           infinipot::Reduce reduce, std::vector<float>& scores) {
  infinipot::CapScorer scorer(in.shape, in.entries());
  for (auto _ : state) {
    std::fill(scores.begin(), scores.end(), 0.0F);
    scorer.accumulate(in.view(), 0, in.first, keys, form, reduce, scores);
    benchmark::DoNotOptimize(scores.data());
    benchmark::ClobberMemory();
  }
  set_counters(state, in);
}

void cap(benchmark::State& state) {
  const Input in(state);
  std::vector<float> scores(in.entries());
  score(
      state, in, [&](std::size_t from, std::size_t, float*) { return in.key_rows(from); }, {},
      infinipot::Reduce::sum, scores);
  expect_same(state, in, scores, 1e-4F);
}

void cap_max(benchmark::State& state) {
  const Input in(state);
  std::vector<float> scores(in.entries());
  score(
      state, in, [&](std::size_t from, std::size_t, float*) { return in.key_rows(from); }, {},
      infinipot::Reduce::max, scores);
}

void cap_soft_cap(benchmark::State& state) {
  const Input in(state);
  std::vector<float> scores(in.entries());
  score(
      state, in, [&](std::size_t from, std::size_t, float*) { return in.key_rows(from); }, {.soft_cap = 50},
      infinipot::Reduce::sum, scores);
}

void cap_learned_sinks(benchmark::State& state) {
  const Input in(state);
  const std::vector<float> sinks(in.shape.query_heads, 1);
  std::vector<float> scores(in.entries());
  score(
      state, in, [&](std::size_t from, std::size_t, float*) { return in.key_rows(from); }, {.sinks = sinks},
      infinipot::Reduce::sum, scores);
}

template <infinipot::Element T>
void cap_keys_of(benchmark::State& state) {
  const Input in(state);
  std::vector<T> stored(in.keys.size());
  infinipot::detail::from_float(in.keys.data(), in.keys.size(), stored.data());
  const std::size_t d = in.shape.head_dim;
  std::vector<float> scores(in.entries());
  const auto keys = [&](std::size_t from, std::size_t count, float* tile) {
    infinipot::detail::to_float(stored.data() + from * d, count * d, tile);
    return infinipot::FloatRows{tile, static_cast<std::ptrdiff_t>(d)};
  };
  score(state, in, keys, {}, infinipot::Reduce::sum, scores);
  expect_same(state, in, scores, std::is_same_v<T, infinipot::f16> ? 1e-2F : 1e-1F);
}

void eigen_materialised(benchmark::State& state) {
  const Input in(state);
  const Matrix queries = scaled_queries(in);
  Logits logits = empty_logits(in);
  Eigen::VectorXf scores(static_cast<Eigen::Index>(in.entries()));
  for (auto _ : state) {
    materialised(in, queries, logits, scores);
    benchmark::DoNotOptimize(scores.data());
    benchmark::ClobberMemory();
  }
  set_counters(state, in);
}

void eigen_gemm(benchmark::State& state) {
  const Input in(state);
  const Matrix queries = scaled_queries(in);
  Logits logits = empty_logits(in);
  const auto keys = as_matrix(in.keys, in.entries(), in.shape.head_dim);
  for (auto _ : state) {
    logits.noalias() = keys * queries.transpose();
    benchmark::DoNotOptimize(logits.data());
    benchmark::ClobberMemory();
  }
  set_counters(state, in);
}

/// Llama-3-8B: 4 query heads a kv head, d 128; SmolLM2-135M: 3, d 64. M is the entries and the catalyst.
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"group", "d", "first", "p"});
  benchmark->Args({4, 128, 4064, 32})
      ->Args({3, 64, 2016, 32})
      ->Args({4, 128, 4088, 8})
      ->Args({1, 128, 4088, 8})
      ->Args({4, 128, 4095, 1})
      ->Args({1, 128, 4092, 4})
      ->Args({1, 128, 4094, 2})
      ->Args({1, 128, 4095, 1});
  benchmark->Unit(benchmark::kMicrosecond);
}

BENCHMARK(cap)->Apply(shapes);
BENCHMARK(cap_max)->Apply(shapes);
BENCHMARK(cap_soft_cap)->Apply(shapes);
BENCHMARK(cap_learned_sinks)->Apply(shapes);
BENCHMARK_TEMPLATE(cap_keys_of, infinipot::f16)->Apply(shapes);
BENCHMARK_TEMPLATE(cap_keys_of, infinipot::bf16)->Apply(shapes);
BENCHMARK(eigen_materialised)->Apply(shapes);
BENCHMARK(eigen_gemm)->Apply(shapes);

}  // namespace
