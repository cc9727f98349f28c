// Seam 5: the archive, where everything that was read goes, so that nothing is lost that leaves the pot.
//
// A reader hands over every chunk once it is read (Ccd::archive_to); recall() brings back what a question
// needs. MemoryArchive and FileArchive (archive/) are archives; an engine may have its own.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/pot/entries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Keys and values of entries, as floats: of those that are to be archived, or that an archive gives back.
/// Several threads may read at once.
class RowSource {
 public:
  /// The key of entry i, as projected: before RoPE, without its attention factor. (head_dim)
  /// floats into `key`.
  virtual void key(std::size_t layer, std::size_t kv_head, std::size_t i, float* key) const noexcept = 0;

  /// Its value, likewise; (value_channels) floats. Not called if that is 0.
  virtual void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept = 0;

 protected:
  RowSource() = default;
  RowSource(const RowSource&) = default;
  RowSource& operator=(const RowSource&) = default;
  ~RowSource() = default;
};

/// Entries of an archive that were read back together, in text order, and their rows, which are only asked of
/// an archive that has them. A reader's own memory, used again for every block.
template <class B>
concept ArchiveBlock = std::default_initializable<B> && std::derived_from<B, RowSource> &&
    requires(const B& block) {
  { block.entries() } -> std::convertible_to<std::span<const Entry>>;
};

/// Seam 5, the archive. Entries come in text order: each position is at least end().
///
///   has_rows()             whether it keeps keys and values, or token ids alone
///   end()                  one after the newest entry's position; 0 if empty
///   append(entries, rows)  keeps them. It never throws: an archive that can no more (a full disk) ignores
///                          what comes, and says so to its owner. It may take an executor as third argument
///   read(position, block)  the first entries at or after `position`, as many as are kept together. False if
///                          there are none. May allocate in `block` and throw; what is damaged is skipped
template <class A>
concept Archive = requires(A& archive, const A& view, std::span<const Entry> entries, const RowSource& rows,
                           std::uint64_t position, typename A::Block& block) {
  requires ArchiveBlock<typename A::Block>;
  { view.shape() } -> std::convertible_to<Shape>;
  { view.has_rows() } -> std::convertible_to<bool>;
  { view.end() } -> std::convertible_to<std::uint64_t>;
  { archive.append(entries, rows) }
  noexcept;
  { archive.read(position, block) } -> std::convertible_to<bool>;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
