// All that a distillation does once the catalyst has run: score (CaP of every head), select and keep.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/policy/infinipot.hpp"
#include "infinipot/policy/selector.hpp"
#include "infinipot/pot.hpp"
#include "inputs.hpp"

namespace {

using infinipot::Granularity;
using infinipot::Index;

struct Case {
  infinipot::Shape shape;
  std::size_t capacity, keep, catalyst;
  std::size_t read() const { return capacity - catalyst; }
};

constexpr Case smollm{{30, 9, 3, 64}, 2048, 1024, 32};        // SmolLM2-135M
constexpr Case llama_layer{{1, 32, 8, 128}, 4096, 2048, 32};  // one of the 32 layers of Llama-3-8B

/// A full pot of f32, the attention paid to its entries, and the catalyst's queries of one layer.
class Fixture {
 public:
  Fixture(const Case& c, Granularity granularity)
      : case_(c),
        policy_({.catalysts = {std::vector<infinipot::Token>(c.catalyst, 1)}}),
        pot_({.shape = c.shape,
              .capacity = c.capacity,
              .max_keep = c.keep,
              .granularity = granularity,
              .rope = infinipot::plain_rope(c.shape.head_dim)}),
        selector_(c.shape, granularity, c.capacity, c.keep, policy_.rules()),
        scorer_(c.shape, c.capacity),
        queries_(inputs::floats(c.catalyst * c.shape.query_heads * c.shape.head_dim, 2)),
        attention_(inputs::floats(c.shape.heads() * c.capacity, 3)),
        entries_(c.capacity) {
    const std::size_t floats = c.shape.heads() * c.capacity * c.shape.head_dim;
    const auto random = inputs::floats(floats, 1);
    std::ranges::copy(random, pot_.keys(0).data);
    std::ranges::copy(random, pot_.values(0).data);
    const auto nuc = inputs::floats(c.capacity, 4);
    for (std::size_t t = 0; t < entries_.size(); ++t) entries_[t] = {t, 0, nuc[t], false};
    for (float& score : attention_) score += 1;
  }

  /// Reads until the pot is full but for the catalyst. Positions ascend, as they do in a stream.
  void fill() {
    const std::size_t missing = case_.read() - pot_.size();
    for (std::size_t i = 0; i < missing; ++i) entries_[i].position = position_++;
    pot_.append(std::span(entries_).first(missing));
  }

  void score() {
    std::fill(attention_.begin(), attention_.end(), 0.0F);
    const auto d = static_cast<std::ptrdiff_t>(case_.shape.head_dim);
    const infinipot::Queries queries{queries_.data(), case_.catalyst,
                                     static_cast<std::ptrdiff_t>(case_.shape.query_heads) * d, d};
    for (std::size_t layer = 0; layer < case_.shape.layers; ++layer)
      for (std::size_t head = 0; head < case_.shape.kv_heads; ++head) {
        const auto keys = [&](std::size_t from, std::size_t count, float* tile) {
          return pot_.key_rows(layer, head, from, count, tile);
        };
        const std::size_t row = case_.shape.head_of(layer, head) * case_.capacity;
        scorer_.accumulate(queries, head, case_.read(), keys, {}, infinipot::Reduce::sum,
                           std::span(attention_).subspan(row, case_.capacity));
      }
  }

  void select() { selector_.select(policy_, pot_.entries(), attention_, {.sinks = 4, .recent = 0}); }
  void keep() { pot_.keep(selector_.kept()); }

  const infinipot::Selection& kept() const { return selector_.kept(); }
  const infinipot::Pot<float>& pot() const { return pot_; }
  std::span<const float> attention(std::size_t head) const {
    return std::span(attention_).subspan(head * case_.capacity, case_.read());
  }

 private:
  Case case_;
  infinipot::Infinipot policy_;
  infinipot::Pot<float> pot_;
  infinipot::Selector selector_;
  infinipot::CapScorer scorer_;
  std::vector<float> queries_, attention_;
  std::vector<infinipot::Entry> entries_;
  std::uint64_t position_ = 0;
};

/// Marks the best `count` by a full sort.
void take_by_sort(std::span<const float> scores, std::size_t count, std::vector<std::uint8_t>& marks) {
  std::vector<Index> order(scores.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return scores[a] > scores[b]; });
  for (const Index t : order) {
    if (count == 0) return;
    if (marks[t] != 0) continue;
    marks[t] = 1;
    --count;
  }
}

/// What a lane keeps, by full sorts: half of what the sinks leave by NuC, the rest by CaP.
std::vector<Index> kept_by_sort(const Fixture& f, const Case& c, std::size_t lane) {
  std::vector<std::uint8_t> marks(c.read(), 0);
  std::fill_n(marks.begin(), 4, std::uint8_t{1});
  take_by_sort(f.pot().entries().nuc(lane), (c.keep - 4) / 2, marks);
  take_by_sort(f.attention(lane), c.keep - 4 - (c.keep - 4) / 2, marks);
  std::vector<Index> kept(c.keep);
  infinipot::marked_indices(marks, kept);
  return kept;
}

bool same_as_sorts(const Fixture& f, const Case& c) {
  for (std::size_t lane = 0; lane < f.kept().lanes(); ++lane)
    if (!std::ranges::equal(kept_by_sort(f, c, lane), f.kept().lane(lane))) return false;
  return true;
}

void select(benchmark::State& state, const Case& c, Granularity granularity) {
  Fixture f(c, granularity);
  f.fill();
  for (auto _ : state) {
    f.select();
    benchmark::ClobberMemory();
  }
  inputs::set_items(state, c.shape.heads() * c.read());
  if (granularity == Granularity::head && !same_as_sorts(f, c)) state.SkipWithError("results differ");
}

void select_by_sort(benchmark::State& state, const Case& c) {
  Fixture f(c, Granularity::head);
  f.fill();
  for (auto _ : state)
    for (std::size_t lane = 0; lane < c.shape.heads(); ++lane)
      benchmark::DoNotOptimize(kept_by_sort(f, c, lane).data());
  inputs::set_items(state, c.shape.heads() * c.read());
}

void select_and_keep(benchmark::State& state, const Case& c, Granularity granularity) {
  Fixture f(c, granularity);
  for (auto _ : state) {
    f.fill();
    f.select();
    f.keep();
    benchmark::ClobberMemory();
  }
  inputs::set_items(state, c.shape.heads() * c.read());
}

void score_select_and_keep(benchmark::State& state, const Case& c, Granularity granularity) {
  Fixture f(c, granularity);
  for (auto _ : state) {
    f.fill();
    f.score();
    f.select();
    f.keep();
    benchmark::ClobberMemory();
  }
  inputs::set_items(state, c.shape.heads() * c.read());
}

#define OF_SHAPE(function, shape)                                                                       \
  BENCHMARK_CAPTURE(function, shape##_head, shape, Granularity::head)->Unit(benchmark::kMillisecond);   \
  BENCHMARK_CAPTURE(function, shape##_layer, shape, Granularity::layer)->Unit(benchmark::kMillisecond); \
  BENCHMARK_CAPTURE(function, shape##_shared, shape, Granularity::shared)->Unit(benchmark::kMillisecond)

OF_SHAPE(select, smollm);
BENCHMARK_CAPTURE(select_by_sort, smollm_head, smollm)->Unit(benchmark::kMillisecond);
OF_SHAPE(select_and_keep, smollm);
OF_SHAPE(score_select_and_keep, smollm);
OF_SHAPE(select, llama_layer);
BENCHMARK_CAPTURE(select_by_sort, llama_layer_head, llama_layer)->Unit(benchmark::kMillisecond);
OF_SHAPE(select_and_keep, llama_layer);
OF_SHAPE(score_select_and_keep, llama_layer);

}  // namespace
