// A reader's store, guarded against changes by others and against what the store itself throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "infinipot/detail/error.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

template <class S>
class GuardedStore {
 public:
  explicit GuardedStore(S& store) noexcept : store_(&store), seen_(revision()) {}

  const S& view() const noexcept { return *store_; }

  /// For rows from an archive, and for other entries altogether; accept() must follow the latter.
  S& target() noexcept { return *store_; }
  const EntryTable& entries() const noexcept { return store_->entries(); }
  std::size_t size() const noexcept { return entries().size(); }

  /// Whether nobody else has changed the entries.
  bool unchanged() const noexcept { return seen_ == revision(); }

  /// Throws std::invalid_argument if somebody else has changed the entries, or if keep() failed.
  void check_unchanged() const {
    if (broken_) invalid("the store failed and may have lost entries: bring it into order and call resume()");
    if (!unchanged())
      invalid("the store's entries were changed by something other than the reader, such as restore_pot(): ",
              "call resume() first");
  }

  /// Throws std::invalid_argument unless `other` could be a copy of this store.
  void check_copy(const S& other) const {
    const S& own = *store_;
    if (!(Shape(other.shape()) == Shape(own.shape())) || other.capacity() != own.capacity() ||
        other.granularity() != own.granularity() || other.entries().size() != size())
      invalid("the store ", Shape(other.shape()), " of ", other.entries().size(), " entries out of ",
              other.capacity(), " is not a copy of the one to go on from, ", Shape(own.shape()), " of ",
              size(), " out of ", own.capacity(), ", of the same granularity");
  }

  /// check_unchanged() before a change. Also drops what a failed truncate() has left; throws what the store
  /// throws.
  void check() {
    check_unchanged();
    if (owed_) drop(*owed_);
  }

  /// Takes the store as it is. Throws what its truncate() throws.
  void accept() {
    drop(size());
    broken_ = false;
  }

  void append(std::span<const Entry> added) {
    store_->append(added);
    see();
  }

  void truncate(std::size_t size) {
    store_->truncate(size);
    see();
  }

  /// Drops what was written from `size` on. If that fails, the next check() tries again.
  void drop(std::size_t size) {
    owed_ = size;
    truncate(size);
    owed_.reset();
  }

  /// The same after a failure.
  void roll_back(std::size_t size) noexcept {
    returns([&] { drop(size); });
  }

  /// Appends entries that were truncated, after a failure.
  void put_back(std::span<const Entry> entries) noexcept {
    broken_ = owed_ || !returns([&] { append(entries); });
  }

  template <class X>
  void keep(const Selection& kept, X& executor) {
    broken_ = true;
    if constexpr (requires { store_->keep(kept, executor); })
      store_->keep(kept, executor);
    else
      store_->keep(kept);
    broken_ = false;
    see();
  }

 private:
  std::uint64_t revision() const noexcept { return entries().revision(); }
  void see() noexcept { seen_ = revision(); }

  S* store_;
  std::uint64_t seen_;               // the revision that the reader knows
  std::optional<std::size_t> owed_;  // what truncate() has still to do
  bool broken_ = false;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
