// Whether the rows that a Pot's strides name are apart from each other and within the engine's memory.
// Nothing is run, read or written.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/check_options.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/pot/kv_layout.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// A store whose rows are strides over memory, as those of Pot<f32>, Pot<f16> and Pot<bf16>.
template <class S>
concept StridedStore = Store<S> && requires(const S& store, std::size_t layer) {
  typename S::element;
  { store.keys(layer) } -> std::convertible_to<const Rows<typename S::element>&>;
  { store.values(layer) } -> std::convertible_to<const Rows<typename S::element>&>;
};

/// One row and whose it is.
struct NamedRow {
  std::uintptr_t begin = 0, end = 0;
  bool value = false;
  std::size_t layer = 0, head = 0, entry = 0;

  std::string name() const {
    return text(value ? "the value of (layer " : "the key of (layer ", layer, ", kv head ", head, ", entry ",
                entry, ")");
  }
};

/// The first entries of all layers and heads, and the last one.
template <StridedStore S>
std::vector<NamedRow> named_rows(const S& store) {
  constexpr std::size_t most = 64;
  const Shape shape = store.shape();
  std::vector<NamedRow> rows;
  const auto add = [&](bool value, std::size_t layer, std::size_t entry) {
    const std::size_t channels = value ? shape.value_channels() : shape.head_dim;
    if (channels == 0) return;
    const auto& table = value ? store.values(layer) : store.keys(layer);
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      // As a number: a wrong stride may lead outside any object.
      const auto element = static_cast<std::ptrdiff_t>(sizeof(typename S::element));
      const std::uintptr_t begin =
          reinterpret_cast<std::uintptr_t>(table.data) +
          static_cast<std::uintptr_t>(element * (static_cast<std::ptrdiff_t>(head) * table.head_stride +
                                                 static_cast<std::ptrdiff_t>(entry) * table.entry_stride));
      rows.push_back({begin, begin + channels * sizeof(typename S::element), value, layer, head, entry});
    }
  };
  for (const bool value : {false, true})
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      for (std::size_t entry = 0; entry < (std::min)(most, store.capacity()); ++entry)
        add(value, layer, entry);
      if (store.capacity() > most) add(value, layer, store.capacity() - 1);
    }
  return rows;
}

/// Which stride two rows that overlap speak against.
inline Flaw overlap_of(const NamedRow& a, const NamedRow& b) noexcept {
  if (a.value != b.value) return Flaw::overlap;
  if (a.layer != b.layer) return a.head == b.head && a.entry == b.entry ? Flaw::layer_stride : Flaw::overlap;
  if (a.head == b.head) return Flaw::entry_stride;
  return a.entry == b.entry ? Flaw::head_stride : Flaw::swapped_strides;
}

template <StridedStore S>
void check_overlaps(const S& store, std::vector<NamedRow>& rows, AdapterReport& report) {
  std::ranges::sort(rows, [](const NamedRow& a, const NamedRow& b) { return a.begin < b.begin; });
  for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
    const NamedRow &a = rows[i], &b = rows[i + 1];
    if (b.begin >= a.end) continue;
    const Flaw flaw = overlap_of(a, b);
    if (report.has(flaw)) continue;
    const auto& table = a.value ? store.values(a.layer) : store.keys(a.layer);
    report.found(flaw, a.name(), " and ", b.name(), " share memory: the layout's strides are ",
                 table.entry_stride, " elements from entry to entry and ", table.head_stride,
                 " from head to head, of ", a.value ? store.shape().value_channels() : store.shape().head_dim,
                 " elements each",
                 flaw == Flaw::layer_stride      ? "; the tables of two layers are the same"
                 : flaw == Flaw::swapped_strides ? "; are the two strides swapped?"
                                                 : "");
  }
}

/// Whether all rows are within the engine's memory.
template <StridedStore S>
bool check_bounds(const S& store, std::span<const NamedRow> rows, const CheckOptions& options,
                  AdapterReport& report) {
  for (const NamedRow& row : rows) {
    const auto holds = [&](std::span<const std::byte> memory) {
      const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
      return row.begin >= begin && row.end <= begin + memory.size();
    };
    if (options.memory.empty() || std::ranges::any_of(options.memory, holds)) continue;
    report.found(Flaw::capacity, row.name(), " is outside the memory that the engine has: a capacity of ",
                 store.capacity(), " is too large, or a stride is wrong");
    return false;
  }
  return true;
}

template <StridedStore S>
void check_layout(const S& store, const CheckOptions& options, AdapterReport& report) {
  std::vector<NamedRow> rows = named_rows(store);
  if (!check_bounds(store, rows, options, report)) return;
  AdapterReport overlaps;
  check_overlaps(store, rows, overlaps);
  // Several kinds of overlap follow from one: only the plainest is reported.
  for (const Flaw flaw :
       {Flaw::layer_stride, Flaw::head_stride, Flaw::entry_stride, Flaw::swapped_strides, Flaw::overlap}) {
    const auto found = std::ranges::find(overlaps.findings(), flaw, &Finding::flaw);
    if (found == overlaps.findings().end()) continue;
    report.found(flaw, found->what);
    return;
  }
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
