// Pot::keep (compaction and re-rotation in one pass), beside a fresh copy that is rotated afterwards, and
// memcpy of the same bytes.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "infinipot/pot.hpp"
#include "inputs.hpp"

namespace {

using infinipot::bf16;
using infinipot::f16;
using infinipot::f32;
using infinipot::Index;

constexpr infinipot::Shape llama{8, 32, 8, 128}, smollm{30, 9, 3, 64};

struct Case {
  infinipot::Shape shape;
  std::size_t capacity, keep;

  explicit Case(const benchmark::State& state)
      : shape(state.range(0) == 0 ? llama : smollm),
        capacity(static_cast<std::size_t>(state.range(1))),
        keep(static_cast<std::size_t>(state.range(2))) {}
};

/// A full pot, of random keys and values.
template <class T>
infinipot::Pot<T> full_pot(const Case& c, infinipot::KeyStorage storage) {
  infinipot::Pot<T> pot({.shape = c.shape,
                         .capacity = c.capacity,
                         .max_keep = c.keep,
                         .key_storage = storage,
                         .rope = infinipot::plain_rope(c.shape.head_dim, 500000)});
  const std::size_t floats = c.shape.heads() * c.capacity * c.shape.head_dim;
  const auto random = inputs::floats(floats, 1);
  infinipot::detail::from_float(random.data(), floats, pot.keys(0).data);
  infinipot::detail::from_float(random.data(), floats, pot.values(0).data);
  return pot;
}

/// Other entries in each lane.
infinipot::Selection random_selection(const Case& c) {
  infinipot::Selection selection(c.shape.heads(), c.keep);
  for (std::size_t lane = 0; lane < selection.lanes(); ++lane)
    std::ranges::copy(inputs::subset(c.keep, c.capacity, lane), selection.lane(lane).begin());
  return selection;
}

/// Bytes that a distillation must read and write: what stays, keys and values.
template <class T>
std::size_t bytes_kept(const Case& c) {
  return 2 * 2 * c.shape.heads() * c.keep * c.shape.head_dim * sizeof(T);
}

template <class T>
void refill(infinipot::Pot<T>& pot, const std::vector<infinipot::Entry>& entries) {
  pot.append(std::span(entries).first(pot.capacity() - pot.size()));
}

template <class T>
void keep(benchmark::State& state, infinipot::KeyStorage storage) {
  const Case c(state);
  auto pot = full_pot<T>(c, storage);
  const auto selection = random_selection(c);
  const std::vector<infinipot::Entry> entries(c.capacity);
  for (auto _ : state) {  // from the second on half of the entries are survivors, as in life
    refill(pot, entries);
    pot.keep(selection);
    benchmark::ClobberMemory();
  }
  inputs::set_bytes(state, bytes_kept<T>(c));
  inputs::set_items(state, c.shape.heads() * c.keep);
}

template <class T>
void keep_rotated(benchmark::State& state) {
  keep<T>(state, infinipot::KeyStorage::rotated);
}
template <class T>
void keep_unrotated(benchmark::State& state) {
  keep<T>(state, infinipot::KeyStorage::unrotated);
}

/// The obvious way: gather into fresh memory, rotate there in float, copy back. It drifts.
template <class T>
struct CopyAndRotate {
  std::vector<T> keys, values;
  std::vector<float> row;

  explicit CopyAndRotate(const Case& c)
      : keys(c.keep * c.shape.head_dim), values(keys.size()), row(c.shape.head_dim) {}

  void gather(const T* from, std::span<const Index> kept, std::vector<T>& to) const {
    const std::size_t d = row.size();
    for (std::size_t j = 0; j < kept.size(); ++j) std::copy_n(from + kept[j] * d, d, to.data() + j * d);
  }

  void rotate(std::span<const Index> kept, const infinipot::Pot<T>& pot) {
    const std::size_t d = row.size();
    for (std::size_t j = 0; j < kept.size(); ++j) {
      infinipot::detail::to_float(keys.data() + j * d, d, row.data());
      infinipot::rotate(row.data(), pot.angles()[kept[j] - j], pot.rope().pairing, infinipot::Turn::backward,
                        d, row.data());
      infinipot::detail::from_float(row.data(), d, keys.data() + j * d);
    }
  }

  void keep_head(const infinipot::Pot<T>& pot, std::size_t layer, std::size_t head,
                 std::span<const Index> kept) {
    T* const old_keys = pot.keys(layer).row(head, 0);
    T* const old_values = pot.values(layer).row(head, 0);
    gather(old_keys, kept, keys);
    gather(old_values, kept, values);
    rotate(kept, pot);
    std::copy(keys.begin(), keys.end(), old_keys);
    std::copy(values.begin(), values.end(), old_values);
  }

  void keep(const infinipot::Pot<T>& pot, const infinipot::Selection& selection) {
    const auto& shape = pot.shape();
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.kv_heads; ++head)
        keep_head(pot, layer, head, selection.lane(shape.head_of(layer, head)));
  }
};

/// Both ways from the same full pot: after one distillation they must agree to a rounding.
template <class T>
void expect_same(benchmark::State& state, const Case& c, const infinipot::Selection& selection) {
  auto pot = full_pot<T>(c, infinipot::KeyStorage::rotated);
  auto copied = full_pot<T>(c, infinipot::KeyStorage::rotated);
  refill(pot, std::vector<infinipot::Entry>(c.capacity));
  pot.keep(selection);
  CopyAndRotate<T>(c).keep(copied, selection);
  const std::size_t d = c.shape.head_dim;
  std::vector<float> ours(c.keep * d), theirs(c.keep * d);
  const auto compare = [&](const infinipot::Rows<T>& mine, const infinipot::Rows<T>& other) {
    infinipot::detail::to_float(mine.row(1, 0), ours.size(), ours.data());
    infinipot::detail::to_float(other.row(1, 0), theirs.size(), theirs.data());
    inputs::expect_near(state, ours, theirs, 1e-2F);
  };
  compare(pot.keys(0), copied.keys(0));
  compare(pot.values(0), copied.values(0));
}

template <class T>
void copy_and_rotate(benchmark::State& state) {
  const Case c(state);
  const auto pot = full_pot<T>(c, infinipot::KeyStorage::rotated);
  const auto selection = random_selection(c);
  CopyAndRotate<T> copy(c);
  for (auto _ : state) {
    copy.keep(pot, selection);
    benchmark::ClobberMemory();
  }
  inputs::set_bytes(state, bytes_kept<T>(c));
  inputs::set_items(state, c.shape.heads() * c.keep);
  expect_same<T>(state, c, selection);
}

/// The limit: keys and values that stay, copied to elsewhere.
template <class T>
void copy_bandwidth(benchmark::State& state) {
  const Case c(state);
  const std::size_t bytes = bytes_kept<T>(c) / 2;
  std::vector<std::byte> from(bytes, std::byte{1}), to(bytes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  inputs::set_bytes(state, 2 * bytes);
}

/// One layer of Llama-3-8B, all of SmolLM2-135M.
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"smollm", "M", "C"});
  benchmark->Args({0, 4096, 2048})->Args({1, 2048, 1024});
  benchmark->Unit(benchmark::kMicrosecond);
}

BENCHMARK_TEMPLATE(keep_rotated, f32)->Apply(shapes);
BENCHMARK_TEMPLATE(keep_unrotated, f32)->Apply(shapes);
BENCHMARK_TEMPLATE(copy_and_rotate, f32)->Apply(shapes);
BENCHMARK_TEMPLATE(copy_bandwidth, f32)->Apply(shapes);
BENCHMARK_TEMPLATE(keep_rotated, f16)->Apply(shapes);
BENCHMARK_TEMPLATE(keep_unrotated, f16)->Apply(shapes);
BENCHMARK_TEMPLATE(copy_and_rotate, f16)->Apply(shapes);
BENCHMARK_TEMPLATE(copy_bandwidth, f16)->Apply(shapes);
BENCHMARK_TEMPLATE(keep_rotated, bf16)->Apply(shapes);
BENCHMARK_TEMPLATE(keep_unrotated, bf16)->Apply(shapes);
BENCHMARK_TEMPLATE(copy_and_rotate, bf16)->Apply(shapes);
BENCHMARK_TEMPLATE(copy_bandwidth, bf16)->Apply(shapes);

}  // namespace
