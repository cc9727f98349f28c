// Copies of more rows than the cache holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "infinipot/detail/simd.hpp"
#include "infinipot/version.hpp"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

inline constexpr std::size_t cache_line = 64;

/// How many rows ahead to prefetch. Kept rows are scattered; the processor cannot foresee them.
inline constexpr std::size_t rows_ahead = 16;

/// Prefetches a row.
template <class T>
void prefetch_row(const T* row, std::size_t width) noexcept {
  for (std::size_t i = 0; i < width; i += cache_line / sizeof(T)) prefetch(row + i);
}

/// Copies a row to another that does not overlap it. Inline, as a call would take as long as the row.
template <class T>
void copy_row(const T* from, std::size_t width, T* to) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  constexpr std::size_t line = cache_line / sizeof(T);
  std::size_t i = 0;
  for (; i + line <= width; i += line) std::memcpy(static_cast<void*>(to + i), from + i, line * sizeof(T));
  for (; i < width; ++i) std::memcpy(static_cast<void*>(to + i), from + i, sizeof(T));
}

/// Writes rows past the cache: a pot is larger, and old rows need not be fetched only to be overwritten. If
/// the processor or the rows' alignment does not allow it, copies as usual. Other threads see the rows only
/// after the writer's destruction.
template <class T>
class RowWriter {
 public:
  /// For rows of `width` elements that begin at `rows` plus any multiple of `stride` elements.
  RowWriter(const T* rows, std::ptrdiff_t stride, std::size_t width) noexcept : width_(width) {
    const auto pitch = static_cast<std::size_t>(stride) * sizeof(T);  // modulo a power of two, if negative
    streams_ = reinterpret_cast<std::uintptr_t>(rows) % cache_line == 0 && pitch % cache_line == 0 &&
               width * sizeof(T) % cache_line == 0;
  }
  RowWriter(const RowWriter&) = delete;
  RowWriter& operator=(const RowWriter&) = delete;
#ifdef __SSE2__
  ~RowWriter() { _mm_sfence(); }
#endif

  void copy(const T* from, T* to) const noexcept {
#ifdef __SSE2__
    if (streams_) {
      constexpr std::size_t step = sizeof(__m128i) / sizeof(T);
      for (std::size_t i = 0; i < width_; i += step)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
      return;
    }
#endif
    copy_row(from, width_, to);
  }

 private:
  std::size_t width_;
  bool streams_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
