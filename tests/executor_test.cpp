// Distillations on several threads: the same bits as on one, whatever the threads come from.
#include "infinipot/executor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "executors/std_thread.hpp"
#include "infinipot/infinipot.hpp"
#include "smollm2/pool_executor.hpp"
#include "toy_engine.hpp"
#ifdef _OPENMP
#include "executors/openmp.hpp"
#endif

namespace {

using infinipot::Executor;
using infinipot::Granularity;
using infinipot::Pot;
using infinipot::Serial;

static_assert(Executor<Serial> && Executor<executors::StdThread> && Executor<smollm2::PoolExecutor>);

/// What a pot holds, to the bit, and what it holds of: NaN would differ from itself.
struct Contents {
  std::vector<float> rows;
  std::vector<std::uint64_t> positions;
  std::uint64_t nan_scores = 0;

  friend bool operator==(const Contents&, const Contents&) = default;
};

template <class T>
Contents contents_of(const Pot<T>& pot, std::uint64_t nan_scores) {
  Contents contents{{}, {}, nan_scores};
  const auto add = [&](const T* row) {
    std::vector<float> floats(pot.shape().head_dim);
    infinipot::detail::to_float(row, floats.size(), floats.data());
    contents.rows.insert(contents.rows.end(), floats.begin(), floats.end());
  };
  for (std::size_t layer = 0; layer < pot.shape().layers; ++layer)
    for (std::size_t head = 0; head < pot.shape().kv_heads; ++head)
      for (std::size_t entry = 0; entry < pot.size(); ++entry) {
        add(pot.keys().row(layer, head, entry));
        add(pot.values().row(layer, head, entry));
      }
  for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
    for (const std::uint64_t position : pot.entries().positions(lane)) contents.positions.push_back(position);
  return contents;
}

/// Reads a text through several distillations.
template <class T, class P, Executor X>
Contents read(const P& policy, Granularity granularity, X executor) {
  const toy::Model model(infinipot::plain_rope(8, 100),
                         {.layers = 3, .query_heads = 6, .kv_heads = 3, .head_dim = 8});
  auto pot = toy::make_pot<T>(model, 40, 20, granularity);
  toy::Engine<Pot<T>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, policy, {.keep = 20, .sinks = 2, .chunk = 16}, std::move(executor));
  reader.feed(toy::text(150, 1));
  EXPECT_GE(reader.stats().distillations, 5U);
  return contents_of(pot, reader.stats().nan_scores);
}

template <class T, Executor X>
void expect_same(X executor) {
  const auto check = [&](const auto& policy) {
    for (const auto granularity : {Granularity::head, Granularity::layer, Granularity::shared}) {
      const Contents alone = read<T>(policy, granularity, Serial{});
      for (int repeat = 0; repeat < 3; ++repeat)
        EXPECT_EQ(read<T>(policy, granularity, executor), alone) << policy.name();
    }
  };
  check(infinipot::Infinipot({.catalysts = {{7, 21, 3}, {4}}, .kernel = 3}));
  check(
      infinipot::Infinipot({.catalysts = {{7, 21, 3}}, .over_queries = infinipot::Reduce::max, .kernel = 3}));
  check(infinipot::SnapKv(6, 3));
  check(infinipot::Tova());
  check(infinipot::H2o());
  check(infinipot::StreamingLlm());
  check(infinipot::KeyDiff());
  check(infinipot::TemporalRedundancy(3, 2));
  check(infinipot::ExpectedAttention({.rope = infinipot::plain_rope(8, 100)}));
}

TEST(Executors, OfStdThreadGiveTheSameBits) {
  for (const std::size_t workers : {1U, 2U, 3U, 7U}) {
    expect_same<float>(executors::StdThread(workers));
    expect_same<infinipot::f16>(executors::StdThread(workers));
  }
}

TEST(Executors, OfTheEnginesPoolGiveTheSameBits) {
  for (const std::size_t workers : {1U, 2U, 3U}) {
    smollm2::ThreadPool pool(workers);
    expect_same<float>(smollm2::PoolExecutor(pool));
  }
}

#ifdef _OPENMP
static_assert(Executor<executors::OpenMp>);

TEST(Executors, OfOpenMpGiveTheSameBits) {
  for (const std::size_t workers : {1U, 2U, 3U}) expect_same<float>(executors::OpenMp(workers));
  EXPECT_GE(executors::OpenMp().workers(), 1U);
}
#endif

/// Runs items from the last to the first, each by another worker.
struct Backwards {
  std::size_t workers() const { return 5; }
  template <class F>
  void for_each(std::size_t count, F&& function) const {
    for (std::size_t item = count; item-- > 0;) function(item, item % 5);
  }
};

TEST(Executors, MayRunItemsInAnyOrder) { expect_same<float>(Backwards{}); }

template <Executor X>
void expect_every_item_once(X executor) {
  for (const std::size_t count : {0U, 1U, 2U, 5U, 100U}) {
    std::vector<std::atomic<int>> calls(count);
    std::atomic<bool> in_range = true;
    executor.for_each(count, [&](std::size_t item, std::size_t worker) {
      ++calls.at(item);
      if (worker >= executor.workers()) in_range = false;
    });
    EXPECT_TRUE(in_range);
    EXPECT_TRUE(std::ranges::all_of(calls, [](const auto& n) { return n == 1; }));
  }
}

TEST(Executors, CallEveryItemOnce) {
  expect_every_item_once(Serial{});
  for (const std::size_t workers : {1U, 2U, 3U, 7U}) {
    expect_every_item_once(executors::StdThread(workers));
    smollm2::ThreadPool pool(workers);
    expect_every_item_once(smollm2::PoolExecutor(pool));
#ifdef _OPENMP
    expect_every_item_once(executors::OpenMp(workers));
#endif
  }
  EXPECT_EQ(executors::StdThread(0).workers(), 1U);
}

}  // namespace
