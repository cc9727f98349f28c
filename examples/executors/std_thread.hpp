// An infinipot::Executor of std::thread, for engines that have no threads of their own yet.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace executors {

/// Starts threads for every loop and joins them: that takes some tens of microseconds, which a distillation
/// can spare. An engine with a pool hands its loops to that instead (smollm2/pool_executor.hpp).
class StdThread {
 public:
  /// `workers` threads, the caller's included; at least 1.
  explicit StdThread(std::size_t workers) : workers_(std::max<std::size_t>(workers, 1)) {}

  std::size_t workers() const noexcept { return workers_; }

  template <class F>
  void for_each(std::size_t count, F&& function) const noexcept {
    std::atomic<std::size_t> next{0};
    const auto work = [&](std::size_t worker) {
      for (std::size_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;)
        function(item, worker);
    };
    std::vector<std::jthread> threads;
    try {
      for (std::size_t worker = 1; worker < std::min(workers_, count); ++worker)
        threads.emplace_back(work, worker);
    } catch (const std::exception&) {
      // No thread or no memory to be had: those already started do all of it.
    }
    work(0);
  }

 private:
  std::size_t workers_;
};

}  // namespace executors
