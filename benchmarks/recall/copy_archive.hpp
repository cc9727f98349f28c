// The same entries in an archive of another type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/archive.hpp"
#include "infinipot/pot/entries.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What an archive gave back, to be archived again.
template <ArchiveBlock B>
class BlockRows final : public RowSource {
 public:
  explicit BlockRows(const B& block) noexcept : block_(block) {}

  void key(std::size_t layer, std::size_t kv_head, std::size_t i, float* key) const noexcept override {
    block_.key(layer, kv_head, i, key);
  }
  void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept override {
    block_.value(layer, kv_head, i, value);
  }

 private:
  const B& block_;
};

/// Appends all of an archive, which must have rows if the other one keeps them, block by block. What the
/// first one has lost or dropped, the second lacks too. Throws what reading throws.
template <Archive From, Archive To>
void copy_archive(From& from, To& to) {
  typename From::Block block;
  for (std::uint64_t position = 0; from.read(position, block);) {
    const std::span<const Entry> entries = block.entries();
    to.append(entries, BlockRows(block));
    position = entries.back().position + 1;
  }
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
