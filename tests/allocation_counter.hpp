// Counts calls of operator new in the whole program, for tests that nothing is allocated. A test that
// includes this links allocation_counter.cpp, which replaces the global operators.
#pragma once

#include <cstddef>

namespace allocation_counter {

/// Calls of any operator new, and the bytes they asked for, since the program began, on all threads.
std::size_t calls() noexcept;
std::size_t bytes() noexcept;

/// Counts from its construction. Read it before a GTest assertion, since those allocate.
class Scope {
 public:
  std::size_t calls() const noexcept { return allocation_counter::calls() - calls_; }
  std::size_t bytes() const noexcept { return allocation_counter::bytes() - bytes_; }

 private:
  std::size_t calls_ = allocation_counter::calls();
  std::size_t bytes_ = allocation_counter::bytes();
};

}  // namespace allocation_counter
