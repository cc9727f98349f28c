// What ties a reader to its archive.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "infinipot/archive.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Entries `first` ... of a store.
template <ArchivableEntries S>
class StoreRows final : public RowSource {
 public:
  StoreRows(const S& store, std::size_t first) noexcept
      : store_(store), first_(first), value_channels_(Shape(store.shape()).value_channels()) {}

  void key(std::size_t layer, std::size_t kv_head, std::size_t i, float* key) const noexcept override {
    store_.read_projected(layer, kv_head, first_ + i, key);
  }
  void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept override {
    const FloatRows rows = store_.value_rows(layer, kv_head, first_ + i, 1, value);
    if (rows.data != value) std::copy_n(rows.data, value_channels_, value);
  }

 private:
  const S& store_;
  std::size_t first_, value_channels_;
};

/// For an archive that asks for none.
class NoRows final : public RowSource {
 public:
  void key(std::size_t, std::size_t, std::size_t, float*) const noexcept override {}
  void value(std::size_t, std::size_t, std::size_t, float*) const noexcept override {}
};

template <Archive A, class X>
void append_to(A& archive, std::span<const Entry> entries, const RowSource& rows, X& executor) noexcept {
  if constexpr (requires { archive.append(entries, rows, executor); })
    archive.append(entries, rows, executor);
  else
    archive.append(entries, rows);
}

/// Hands over what was read to an archive of any type, or to none.
template <class S, class X>
class ArchiveLink {
 public:
  ArchiveLink() = default;

  template <Archive A>
  explicit ArchiveLink(A& archive) noexcept : archive_(std::addressof(archive)), append_(&append<A>) {}

  /// Entries `first` ... of the store were just read.
  void add(const S& store, std::size_t first, std::span<const Entry> entries, X& executor) const noexcept {
    if (append_ != nullptr) append_(archive_, store, first, entries, executor);
  }

 private:
  template <Archive A>
  static void append(void* to, const S& store, std::size_t first, std::span<const Entry> entries,
                     X& executor) noexcept {
    A& archive = *static_cast<A*>(to);
    if constexpr (ArchivableEntries<S>)
      append_to(archive, entries, StoreRows<S>(store, first), executor);
    else
      append_to(archive, entries, NoRows(), executor);
  }

  void* archive_ = nullptr;
  void (*append_)(void*, const S&, std::size_t, std::span<const Entry>, X&) noexcept = nullptr;
};

/// Where a reader that stands at `position` of its stream goes on once it is archived. Throws
/// std::invalid_argument if the archive does not fit its store.
template <Archive A, class S>
std::uint64_t archive_start(const A& archive, const S& store, std::uint64_t position) {
  if (const Shape shape = archive.shape(); !(shape == Shape(store.shape())))
    invalid("the archive is of shape ", shape, ", but the store is of ", Shape(store.shape()));
  if constexpr (!ArchivableEntries<S>)
    if (archive.has_rows())
      invalid("this store's entries cannot be read back as projected (ArchivableEntries in ",
              "infinipot/concepts.hpp): archive token ids alone");
  const std::uint64_t end = archive.end();
  if (end <= position) return position;
  if (!store.entries().empty())
    invalid("the archive ends at position ", end, ", but the reader, which holds entries, goes on at ",
            position, ": it would archive what is there already");
  return end;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
