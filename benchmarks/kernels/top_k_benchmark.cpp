// Choosing k of n entries, beside a selection, a full and a partial sort, and a plain read of the scores.
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
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

/// A number that orders like a score that is neither NaN nor -0.
std::uint32_t rank(float score) {
  const auto bits = std::bit_cast<std::uint32_t>(score);
  return score < 0 ? ~bits : bits | 0x80000000U;
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

/// Of score and index in one integer, which is quicker than of indices that are compared by their scores.
void std_nth_element(benchmark::State& state) {
  const Input in(state);
  std::vector<std::uint64_t> ranks(in.n);
  std::vector<std::uint8_t> marks(in.n);
  run(state, in, [&](const std::vector<float>& scores, std::vector<Index>& kept) {
    for (std::size_t i = 0; i < in.n; ++i)
      ranks[i] = std::uint64_t{rank(scores[i])} << 32U | (0xFFFFFFFFU - static_cast<Index>(i));
    std::nth_element(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(in.k), ranks.end(),
                     std::greater<>());
    std::fill(marks.begin(), marks.end(), std::uint8_t{0});
    for (std::size_t i = 0; i < in.k; ++i) marks[0xFFFFFFFFU - static_cast<Index>(ranks[i])] = 1;
    infinipot::marked_indices(marks, kept);
  });
}

/// The limit: no selection reads the scores less than once.
void read_scores(benchmark::State& state) {
  const Input in(state);
  for (auto _ : state)
    for (const auto& scores : in.heads) {
      auto total = Eigen::Map<const Eigen::ArrayXf>(scores.data(), static_cast<Eigen::Index>(in.n)).sum();
      benchmark::DoNotOptimize(total);
    }
  inputs::set_items(state, in.n * in.heads.size());
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
  benchmark->Args({2048, 1024})
      ->Args({4096, 2048})
      ->Args({4096, 64})
      ->Args({32768, 16384})
      ->Args({32768, 2048});
  benchmark->Unit(benchmark::kMicrosecond);
}

BENCHMARK(top_k)->Apply(shapes);
BENCHMARK(read_scores)->Apply(shapes);
BENCHMARK(std_nth_element)->Apply(shapes);
BENCHMARK(std_sort)->Apply(shapes);
BENCHMARK(std_partial_sort)->Apply(shapes);

}  // namespace
