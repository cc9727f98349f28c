// Distillations on several threads: the same bits as on one, wherever the threads come from.
#include "infinipot/executor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"
#include "executors/std_thread.hpp"
#include "infinipot/infinipot.hpp"
#include "smollm2/pool_executor.hpp"
#include "toy_engine.hpp"
#ifdef _OPENMP
#include "executors/openmp.hpp"
#endif

namespace {

using namespace trial;
using infinipot::Executor;
using infinipot::Serial;
using infinipot::Shape;

static_assert(Executor<Serial> && Executor<executors::StdThread> && Executor<smollm2::PoolExecutor>);

/// Any executor, so that the loop is compiled once for all of them.
class AnyExecutor {
 public:
  using Item = std::function<void(std::size_t, std::size_t)>;

  template <Executor X>
  static AnyExecutor of(X executor) {
    AnyExecutor any;
    any.workers_ = executor.workers();
    any.for_each_ = [executor](std::size_t count, const Item& item) mutable {
      executor.for_each(count, item);
    };
    return any;
  }

  std::size_t workers() const { return workers_; }
  void for_each(std::size_t count, const Item& item) const { for_each_(count, item); }

 private:
  std::size_t workers_ = 0;
  std::function<void(std::size_t, const Item&)> for_each_;
};

static_assert(Executor<AnyExecutor>);

/// Reads a text through several distillations, and returns all that there is then, to the bit.
template <class T, class P>
Snapshot read(const P& policy, Granularity granularity, AnyExecutor executor,
              KeyStorage storage = KeyStorage::rotated) {
  const toy::Model model(infinipot::plain_rope(8, 100),
                         {.layers = 3, .query_heads = 6, .kv_heads = 3, .head_dim = 8});
  auto pot = toy::make_pot<T>(model, 40, 20, granularity, storage);
  toy::Engine<Pot<T>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, policy, {.keep = 20, .sinks = 2, .chunk = 16}, std::move(executor));
  reader.feed(toy::text(100, 1));
  EXPECT_GE(reader.stats().distillations, 3U);
  return snapshot_of(pot, reader);
}

/// Reads, archives and recalls.
Snapshot recalled(AnyExecutor executor) {
  const toy::Model model(infinipot::plain_rope(8, 100),
                         {.layers = 3, .query_heads = 6, .kv_heads = 3, .head_dim = 8});
  auto pot = toy::make_pot(model, 40, 20, Granularity::shared);
  toy::Engine<Pot<float>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 20, .sinks = 2, .chunk = 16},
                        std::move(executor));
  infinipot::MemoryArchive archive({.shape = model.shape, .block = 16, .limit = 200000});
  reader.archive_to(archive);
  reader.feed(toy::text(150, 1));
  EXPECT_TRUE(recall(reader, archive, std::vector<Token>{7, 21, 3}, {.steps = 2, .draft = 4}).done);
  return snapshot_of(pot, reader);
}

template <class T, class P>
void expect_same(const P& policy, const AnyExecutor& executor, KeyStorage storage = KeyStorage::rotated) {
  for (const Granularity granularity : all_granularities) {
    const Snapshot alone = read<T>(policy, granularity, AnyExecutor::of(Serial{}), storage);
    for (int repeat = 0; repeat < 2; ++repeat)
      EXPECT_EQ(read<T>(policy, granularity, executor, storage), alone) << policy.name();
  }
}

/// The smallest engine that writes into a pot of codes: its keys and queries are the tokens' own, hashed.
class CodesEngine {
 public:
  CodesEngine(const Shape& shape, Pot<infinipot::int8>& pot) : shape_(shape), pot_(pot) {}

  Shape shape() const { return shape_; }
  std::size_t vocab_size() const { return 50; }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      for (std::size_t layer = 0; layer < shape_.layers; ++layer)
        for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
          const auto seed = static_cast<std::uint64_t>(tokens[i]) * 100 + layer * 10 + head;
          pot_.write(layer, head, first + i, numbers(seed, shape_.head_dim).data(),
                     numbers(seed + 7, shape_.head_dim).data());
        }
      if (i >= logits.first_row())
        logits.row(i, numbers(static_cast<std::uint64_t>(tokens[i]), vocab_size()));
    }
  }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& queries) {
    forward(tokens, first, logits);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      const auto data = numbers(first + layer, tokens.size() * shape_.query_heads * shape_.head_dim);
      queries.layer(layer, infinipot::contiguous_queries(data.data(), tokens.size(), shape_));
    }
  }

 private:
  static std::vector<float> numbers(std::uint64_t seed, std::size_t count) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i)
      values[i] = static_cast<float>(toy::hash(seed << 32U | i) % 2001) * 1e-3F - 1;
    return values;
  }

  Shape shape_;
  Pot<infinipot::int8>& pot_;
};

/// What a reader of a pot of codes leaves, as a file.
template <class P>
std::string read_codes(const P& policy, KeyStorage storage, AnyExecutor executor) {
  const Shape shape{.layers = 3, .query_heads = 6, .kv_heads = 3, .head_dim = 32};
  Pot<infinipot::int8> pot(
      {.shape = shape, .capacity = 40, .key_storage = storage, .rope = infinipot::plain_rope(32)});
  CodesEngine engine(shape, pot);
  infinipot::Ccd reader(engine, pot, policy, {.keep = 20, .sinks = 2, .chunk = 16}, std::move(executor));
  reader.feed(toy::text(100, 1));
  EXPECT_GE(reader.stats().distillations, 3U);
  std::ostringstream out;
  infinipot::save_pot(pot, out, reader.memory());
  return out.str();
}

template <class P>
void expect_same_codes(const P& policy, const AnyExecutor& executor) {
  for (const KeyStorage storage : both_storages)
    EXPECT_EQ(read_codes(policy, storage, executor), read_codes(policy, storage, AnyExecutor::of(Serial{})));
}

/// With policies for which a reader runs other loops.
void expect_same(const AnyExecutor& executor) {
  expect_same<float>(infinipot::Infinipot({.catalysts = {{7, 21, 3}, {4}}, .kernel = 3}), executor);
  expect_same<float>(
      infinipot::Infinipot({.catalysts = {{7, 21, 3}}, .over_queries = infinipot::Reduce::max}), executor);
  expect_same<float>(infinipot::Tova(), executor);
  expect_same<float>(infinipot::TemporalRedundancy(3, 2), executor);
  expect_same<float>(infinipot::ExpectedAttention({.rope = infinipot::plain_rope(8, 100)}), executor);
  expect_same<infinipot::f16>(infinipot::H2o(), executor);
  expect_same<float>(infinipot::Reread({.instruction = {7, 21}, .block = 5}), executor);
  expect_same<float>(infinipot::KNorm(), executor);
  expect_same<float>(infinipot::ValueNorm(), executor);
  expect_same<float>(infinipot::SirLlm(), executor);
  expect_same<infinipot::bf16>(infinipot::KNorm(), executor, KeyStorage::unrotated);
  expect_same<float>(infinipot::Infinipot({.catalysts = {{7, 21, 3}}}), executor, KeyStorage::unrotated);
  expect_same_codes(infinipot::Infinipot({.catalysts = {{7, 21, 3}}}), executor);
  expect_same_codes(infinipot::ValueNorm(), executor);
}

TEST(Executors, OfStdThreadGiveTheSameBits) {
  for (const std::size_t workers : {1U, 2U, 7U}) expect_same(AnyExecutor::of(executors::StdThread(workers)));
}

TEST(Executors, OfTheEnginesPoolGiveTheSameBits) {
  for (const std::size_t workers : {1U, 2U, 3U}) {
    smollm2::ThreadPool pool(workers);
    expect_same(AnyExecutor::of(smollm2::PoolExecutor(pool)));
  }
}

#ifdef _OPENMP
static_assert(Executor<executors::OpenMp>);

TEST(Executors, OfOpenMpGiveTheSameBits) {
  for (const std::size_t workers : {1U, 2U}) expect_same(AnyExecutor::of(executors::OpenMp(workers)));
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

TEST(Executors, RecallTheSameBits) {
  const Snapshot alone = recalled(AnyExecutor::of(Serial{}));
  for (const std::size_t threads : {2U, 3U})
    EXPECT_EQ(recalled(AnyExecutor::of(executors::StdThread(threads))), alone) << threads;
}

TEST(Executors, MayRunItemsInAnyOrder) { expect_same(AnyExecutor::of(Backwards{})); }

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
