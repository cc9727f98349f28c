// In-place gather of kept rows: row kept[j] moves to row j.
#pragma once

#include <cstddef>
#include <span>

#include "infinipot/detail/copy_row.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {
/// Moves row kept[j] to row first + j, in order, in place; `rows` is row `first`. `kept` ascends strictly and
/// has nothing below `first`, so that a source is never overwritten before it was read. Rows stand `stride`
/// elements apart and hold `width` elements.
template <class T>
void compact_rows(T* rows, std::ptrdiff_t stride, std::size_t width, std::span<const Index> kept,
                  std::size_t first = 0) noexcept {
  const auto row = [=](std::size_t i) { return rows + static_cast<std::ptrdiff_t>(i) * stride; };
  const detail::RowWriter<T> writer(rows, stride, width);
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const std::size_t next = j + detail::rows_ahead;
    if (next < kept.size()) detail::prefetch_row(row(kept[next] - first), width);
    if (kept[j] - first != j) writer.copy(row(kept[j] - first), row(j));
  }
}

/// The same for an array of one value per entry, whose first one is that of row `first`.
template <class T>
void compact(std::span<T> values, std::span<const Index> kept, std::size_t first = 0) noexcept {
  for (std::size_t j = 0; j < kept.size(); ++j) values[j] = values[kept[j] - first];
}

}  // namespace infinipot
