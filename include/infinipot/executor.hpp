// The engine's threads, for the loops of a distillation.
#pragma once

#include <concepts>
#include <cstddef>

#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Runs the items of a loop, perhaps on several threads. A handle, cheap to copy, to the engine's threads;
/// the library starts none. `for_each(count, function)` calls function(item, worker) once for every item
/// below `count`, in any order, and returns when all are done. Calls that run at the same time have different
/// workers, all below workers(). The function never throws, and for_each() must not: a reader calls it where
/// an exception would end the program. One loop runs at a time, none inside another.
///
/// Results have the same bits with every executor: items share nothing but their worker's scratch.
template <class X>
concept Executor = std::copy_constructible<X> &&
    requires(X& executor, const X& view, std::size_t count, void (*function)(std::size_t, std::size_t)) {
  { view.workers() } -> std::convertible_to<std::size_t>;
  executor.for_each(count, function);
};

/// Runs everything on the calling thread.
struct Serial {
  std::size_t workers() const noexcept { return 1; }

  template <std::invocable<std::size_t, std::size_t> F>
  void for_each(std::size_t count, F&& function) const {
    for (std::size_t item = 0; item < count; ++item) function(item, std::size_t{0});
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
