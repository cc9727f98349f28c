// In-place gather of kept rows: row kept[j] moves to row j.
#pragma once

#include <cstddef>
#include <span>

#include "infinipot/detail/copy_row.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Moves row kept[j] to row j, in order, in place. `kept` ascends strictly, so no source is overwritten
/// before it is read. Rows lie `stride` elements apart and hold `width` elements.
template <class T>
void compact_rows(T* rows, std::ptrdiff_t stride, std::size_t width, std::span<const Index> kept) noexcept {
  const auto row = [=](std::size_t i) { return rows + static_cast<std::ptrdiff_t>(i) * stride; };
  const detail::RowWriter<T> writer(rows, stride, width);
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const std::size_t next = j + detail::rows_ahead;
    if (next < kept.size()) detail::prefetch_row(row(kept[next]), width);
    if (kept[j] != j) writer.copy(row(kept[j]), row(j));
  }
}

/// The same for an array of one value per entry.
template <class T>
void compact(std::span<T> values, std::span<const Index> kept) noexcept {
  for (std::size_t j = 0; j < kept.size(); ++j) values[j] = values[kept[j]];
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
