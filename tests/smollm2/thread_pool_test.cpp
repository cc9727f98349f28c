#include "thread_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace smollm2 {
namespace {

TEST(ThreadPool, RunsEachItemOnce) {
  for (const std::size_t threads : {1U, 2U, 3U, 8U}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    for (const std::size_t count : {0U, 1U, 2U, 7U, 1000U}) {
      std::vector<std::atomic<int>> runs(count);
      std::atomic<bool> thread_exists = true;
      pool.parallel_for(count, [&](std::size_t item, std::size_t thread) {
        runs[item].fetch_add(1);
        if (thread >= threads) thread_exists = false;
      });
      EXPECT_TRUE(thread_exists);
      for (const std::atomic<int>& run : runs) EXPECT_EQ(run, 1);
    }
  }
}

TEST(ThreadPool, RunsManyShortLoops) {
  ThreadPool pool(3);
  std::vector<std::size_t> sums(5);  // one place an item: no two threads write the same
  for (std::size_t loop = 0; loop < 20000; ++loop)
    pool.parallel_for(sums.size(), [&](std::size_t item, std::size_t /*thread*/) { sums[item] += loop; });
  for (const std::size_t sum : sums) EXPECT_EQ(sum, 19999U * 20000U / 2);
}

TEST(ThreadPool, WakesThreadsThatSleep) {
  ThreadPool pool(2);
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    // Two items that wait for each other need two threads that are awake.
    std::atomic<int> arrived = 0;
    pool.parallel_for(2, [&](std::size_t /*item*/, std::size_t /*thread*/) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
  }
}

TEST(ThreadPool, TakesAsManyThreadsAsThereAreCoresByDefault) {
  EXPECT_EQ(ThreadPool().size(), std::max(1U, std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace smollm2
