// A small pool of threads that shares out the items of a loop, quick enough to start for single tokens.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace smollm2 {

/// Runs loops on the calling thread and `size() - 1` others. One caller at a time; no loops within loops.
class ThreadPool {
 public:
  /// 0 threads means one per core. Throws std::system_error if a thread cannot start.
  explicit ThreadPool(std::size_t threads = 0);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  /// Threads that work on a loop, the caller's included.
  std::size_t size() const noexcept { return workers_.size() + 1; }

  /// Calls function(item, thread) for each item below `count` (at most 4294967294), thread < size(), and
  /// returns when all are done. Which thread takes which item is open, so items must not depend on it for
  /// more than scratch memory. `function` must not throw.
  template <std::invocable<std::size_t, std::size_t> Function>
  void parallel_for(std::size_t count, const Function& function) noexcept {
    if (count <= 1 || workers_.empty()) {
      for (std::size_t item = 0; item < count; ++item) function(item, std::size_t{0});
      return;
    }
    run(static_cast<std::uint32_t>(count), &function,
        [](const void* f, std::size_t item, std::size_t thread) {
          (*static_cast<const Function*>(f))(item, thread);
        });
  }

 private:
  using Call = void (*)(const void* function, std::size_t item, std::size_t thread);

  void run(std::uint32_t count, const void* function, Call call) noexcept;
  void work(std::size_t thread) noexcept;
  bool take_item(std::uint32_t unclaimed, std::size_t thread) noexcept;
  void stop() noexcept;

  // The loop being run. Written only while no item is unclaimed or unfinished; whoever has claimed an item
  // may read it, because the loop cannot end before that item has.
  const void* function_ = nullptr;
  Call call_ = nullptr;
  std::uint32_t count_ = 0;

  // Apart, so that claiming and finishing do not fight over one cache line.
  alignas(64) std::atomic<std::uint32_t> unclaimed_{0};
  alignas(64) std::atomic<std::uint32_t> finished_{0};
  std::vector<std::jthread> workers_;
};

}  // namespace smollm2
