#pragma once

#include <cstddef>

#include "thread_pool.hpp"

namespace smollm2 {

/// Lends the engine's threads to infinipot (infinipot::Executor). The pool must outlive it.
class PoolExecutor {
 public:
  explicit PoolExecutor(ThreadPool& pool) noexcept : pool_(&pool) {}

  std::size_t workers() const noexcept { return pool_->size(); }

  template <class F>
  void for_each(std::size_t count, F&& function) const noexcept {
    pool_->parallel_for(count, function);
  }

 private:
  ThreadPool* pool_;
};

}  // namespace smollm2
