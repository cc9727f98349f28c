// Choosing k of n entries, beside a full and a partial sort of indices.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "infinipot/top_k.hpp"
#include "inputs.hpp"

namespace {

using infinipot::Index;

/// Scores of several heads, so that a branch predictor cannot learn them by heart.
struct Input {
  std::size_t n, k;
  std::vector<std::vector<float>> heads;

  explicit Input(const benchmark::State& state)
      : n(static_cast<std::size_t>(state.range(0))), k(static_cast<std::size_t>(state.range(1))) {
    for (std::uint64_t head = 0; head < 32; ++head) heads.push_back(inputs::floats(n, head));
  }
};

template <class Sort>
void by_sorting(const std::vector<float>& scores, std::vector<Index>& order, std::size_t k,
                const Sort& sort) {
  std::iota(order.begin(), order.end(), Index{0});
  sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
       [&](Index a, Index b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); });
  std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k));
}

void full_sort(const std::vector<float>& scores, std::vector<Index>& order, std::size_t k) {
  by_sorting(scores, order, k, [](auto begin, auto, auto end, auto less) { std::sort(begin, end, less); });
}

void part_sort(const std::vector<float>& scores, std::vector<Index>& order, std::size_t k) {
  by_sorting(scores, order, k, [](auto begin, auto middle, auto end, auto less) {
    std::partial_sort(begin, middle, end, less);
  });
}

/// Fills `kept` with the k best, ascending, head by head.
template <class Choose>
void run(benchmark::State& state, const Input& in, const Choose& choose) {
  std::vector<Index> kept(in.n), expected(in.n);
  for (auto _ : state) {
    for (const auto& scores : in.heads) choose(scores, kept);
    benchmark::DoNotOptimize(kept.data());
    benchmark::ClobberMemory();
  }
  inputs::set_items(state, in.n * in.heads.size());
  full_sort(in.heads.back(), expected, in.k);
  const auto end = expected.begin() + static_cast<std::ptrdiff_t>(in.k);
  if (!std::equal(expected.begin(), end, kept.begin())) state.SkipWithError("results differ");
}

void top_k(benchmark::State& state) {
  const Input in(state);
  infinipot::TopK top_k(in.n);
  std::vector<std::uint8_t> marks(in.n);
  run(state, in, [&](const std::vector<float>& scores, std::vector<Index>& kept) {
    std::fill(marks.begin(), marks.end(), std::uint8_t{0});
    top_k.mark(scores, in.k, marks);
    infinipot::marked_indices(marks, kept);
  });
}

void std_sort(benchmark::State& state) {
  const Input in(state);
  run(state, in, [&](const auto& scores, auto& kept) { full_sort(scores, kept, in.k); });
}

void std_partial_sort(benchmark::State& state) {
  const Input in(state);
  run(state, in, [&](const auto& scores, auto& kept) { part_sort(scores, kept, in.k); });
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"n", "k"});
  benchmark->Args({2048, 1024})->Args({4096, 2048})->Args({32768, 2048});
  benchmark->Unit(benchmark::kMicrosecond);
}

BENCHMARK(top_k)->Apply(shapes);
BENCHMARK(std_sort)->Apply(shapes);
BENCHMARK(std_partial_sort)->Apply(shapes);

}  // namespace
