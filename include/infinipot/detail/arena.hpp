// One allocation for many arrays: reserve them all, allocate once, then take the spans.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <span>

#include "infinipot/detail/error.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The number of values in an array of these dimensions. Throws std::invalid_argument if it overflows.
inline std::size_t product(std::initializer_list<std::size_t> dimensions) {
  std::size_t values = 1;
  for (const std::size_t dimension : dimensions) {
    if (dimension != 0 && values > (std::numeric_limits<std::size_t>::max)() / dimension)
      invalid("a pot of ", values, " * ", dimension, " values is too large");
    values *= dimension;
  }
  return values;
}

/// Zero-initialised, 64-byte aligned memory that is carved into typed arrays.
class Arena {
 public:
  static constexpr std::size_t alignment = 64;

  template <class T>
  struct Slot {
    std::size_t offset = 0;
    std::size_t count = 0;
  };

  /// Plans an array of `count` values. Throws std::invalid_argument if the sizes overflow.
  template <class T>
  Slot<T> reserve(std::size_t count) {
    const std::size_t room = (std::numeric_limits<std::ptrdiff_t>::max)() - bytes_ - alignment;
    if (count > room / sizeof(T))
      invalid("a pot of ", count, " values of ", sizeof(T), " bytes is too large");
    const Slot<T> slot{bytes_, count};
    bytes_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    return slot;
  }

  /// Allocates everything reserved. Throws std::bad_alloc.
  void allocate() {
    memory_.reset(static_cast<std::byte*>(::operator new (bytes_, std::align_val_t{alignment})));
    std::fill_n(memory_.get(), bytes_, std::byte{0});
  }

  /// The array of a slot, after allocate().
  template <class T>
  std::span<T> take(Slot<T> slot) const noexcept {
    return {reinterpret_cast<T*>(memory_.get() + slot.offset), slot.count};
  }

  std::size_t bytes() const noexcept { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const noexcept {
      ::operator delete (memory, std::align_val_t{alignment});
    }
  };

  std::size_t bytes_ = 0;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
