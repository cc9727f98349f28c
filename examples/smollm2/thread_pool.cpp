#include "thread_pool.hpp"

#include <algorithm>
#include <limits>

namespace smollm2 {
namespace {

/// What `unclaimed_` holds when the workers are to end.
constexpr std::uint32_t no_more = std::numeric_limits<std::uint32_t>::max();

/// Pauses before a worker sleeps: some ten microseconds, longer than the gap between two loops of a forward
/// pass and shorter than anybody notices.
constexpr int spins_before_sleep = 2000;

/// Pauses before the caller lets other threads have its core.
constexpr int spins_before_yield = 2000;

void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(std::size_t threads) {
  if (threads == 0) threads = std::max(1U, std::thread::hardware_concurrency());
  workers_.reserve(threads - 1);
  try {
    for (std::size_t thread = 1; thread < threads; ++thread)
      workers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  unclaimed_.store(no_more, std::memory_order_release);
  unclaimed_.notify_all();
  workers_.clear();  // joins
}

void ThreadPool::run(std::uint32_t count, const void* function, Call call) noexcept {
  function_ = function;
  call_ = call;
  count_ = count;
  finished_.store(0, std::memory_order_relaxed);
  unclaimed_.store(count, std::memory_order_release);
  unclaimed_.notify_all();

  while (const std::uint32_t unclaimed = unclaimed_.load(std::memory_order_acquire)) take_item(unclaimed, 0);
  for (int spins = 0; finished_.load(std::memory_order_acquire) != count; ++spins) {
    if (spins < spins_before_yield) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::work(std::size_t thread) noexcept {
  for (int spins = 0;;) {
    const std::uint32_t unclaimed = unclaimed_.load(std::memory_order_acquire);
    if (unclaimed == no_more) return;
    if (unclaimed > 0) {
      if (take_item(unclaimed, thread)) spins = 0;
    } else if (++spins < spins_before_sleep) {
      pause();
    } else {
      unclaimed_.wait(0, std::memory_order_acquire);
      spins = 0;
    }
  }
}

/// Runs one item if `unclaimed` is still the number of items left; else another thread was faster, and it
/// returns false.
bool ThreadPool::take_item(std::uint32_t unclaimed, std::size_t thread) noexcept {
  if (!unclaimed_.compare_exchange_weak(unclaimed, unclaimed - 1, std::memory_order_acq_rel,
                                        std::memory_order_relaxed))
    return false;
  call_(function_, count_ - unclaimed, thread);
  finished_.fetch_add(1, std::memory_order_release);
  return true;
}

}  // namespace smollm2
