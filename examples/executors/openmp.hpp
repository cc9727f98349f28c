// An infinipot::Executor of OpenMP. Compile with -fopenmp.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>

namespace executors {

/// Runs loops on OpenMP's threads.
class OpenMp {
 public:
  /// At most `workers` threads; 0 means as many as OpenMP would use (OMP_NUM_THREADS).
  explicit OpenMp(std::size_t workers = 0)
      : workers_(workers == 0 ? static_cast<std::size_t>(std::max(1, omp_get_max_threads())) : workers) {}

  std::size_t workers() const noexcept { return workers_; }

  template <class F>
  void for_each(std::size_t count, F&& function) const {
    const auto items = static_cast<std::ptrdiff_t>(count);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(workers_))
    for (std::ptrdiff_t item = 0; item < items; ++item)
      function(static_cast<std::size_t>(item), static_cast<std::size_t>(omp_get_thread_num()));
  }

 private:
  std::size_t workers_;
};

}  // namespace executors
