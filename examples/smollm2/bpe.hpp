#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace smollm2 {

/// Byte-pair merging on token ids: joins neighbours by the merge learnt earliest, leftmost first, until
/// none applies. Takes O(n log n) for a word of n symbols.
class Bpe {
 public:
  /// Memory reused from word to word.
  class Workspace;

  /// Adds the next merge in rank order; a pair that already has one keeps it.
  void add_merge(std::int32_t left, std::int32_t right, std::int32_t merged);

  /// Appends to `out` what the symbols of one word merge to.
  void merge(std::span<const std::int32_t> symbols, Workspace& workspace,
             std::vector<std::int32_t>& out) const;

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t merged;
  };
  struct Symbol {
    std::int32_t id;
    std::uint32_t previous;
    std::uint32_t next;
  };
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t left;  // index of the pair's left symbol
    std::int32_t merged;
  };

  // The standard heap keeps the largest in front: "larger" is the lower rank and, within it, the pair
  // further left.
  static bool worse(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  }

  std::optional<Merge> find(std::int32_t left, std::int32_t right) const;
  void offer(std::uint32_t left, Workspace& workspace) const;
  void apply(const Candidate& candidate, Workspace& workspace) const;

  std::unordered_map<std::uint64_t, Merge> merges_;
};

class Bpe::Workspace {
  friend class Bpe;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace smollm2
