#include "bpe.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace smollm2 {
namespace {

constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
constexpr std::int32_t gone = -1;  // id of a symbol already joined to its left neighbour

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

}  // namespace

void Bpe::add_merge(std::int32_t left, std::int32_t right, std::int32_t merged) {
  merges_.try_emplace(pair_key(left, right), Merge{static_cast<std::uint32_t>(merges_.size()), merged});
}

std::optional<Bpe::Merge> Bpe::find(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  if (found == merges_.end()) return std::nullopt;
  return found->second;
}

void Bpe::offer(std::uint32_t left, Workspace& workspace) const {
  const Symbol& symbol = workspace.symbols_[left];
  if (symbol.next == none) return;
  const std::optional<Merge> found = find(symbol.id, workspace.symbols_[symbol.next].id);
  if (!found) return;
  workspace.heap_.push_back({found->rank, left, found->merged});
  std::push_heap(workspace.heap_.begin(), workspace.heap_.end(), worse);
}

void Bpe::apply(const Candidate& candidate, Workspace& workspace) const {
  std::vector<Symbol>& symbols = workspace.symbols_;
  Symbol& left = symbols[candidate.left];
  if (left.id == gone || left.next == none) return;
  Symbol& right = symbols[left.next];
  // Either side may have changed since the pair was offered.
  const std::optional<Merge> now = find(left.id, right.id);
  if (!now || now->rank != candidate.rank) return;
  left.id = candidate.merged;
  left.next = right.next;
  right.id = gone;
  if (left.next != none) symbols[left.next].previous = candidate.left;
  if (left.previous != none) offer(left.previous, workspace);
  offer(candidate.left, workspace);
}

void Bpe::merge(std::span<const std::int32_t> symbols, Workspace& workspace,
                std::vector<std::int32_t>& out) const {
  if (symbols.size() >= none) throw std::length_error("a word of 4 GiB or more cannot be tokenized");
  if (symbols.empty()) return;
  const auto count = static_cast<std::uint32_t>(symbols.size());
  workspace.symbols_.clear();
  workspace.heap_.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    workspace.symbols_.push_back({symbols[i], i == 0 ? none : i - 1, i + 1 == count ? none : i + 1});
  }
  for (std::uint32_t i = 0; i < count; ++i) offer(i, workspace);
  while (!workspace.heap_.empty()) {
    std::pop_heap(workspace.heap_.begin(), workspace.heap_.end(), worse);
    const Candidate best = workspace.heap_.back();
    workspace.heap_.pop_back();
    apply(best, workspace);
  }
  for (std::uint32_t i = 0; i != none; i = workspace.symbols_[i].next)
    out.push_back(workspace.symbols_[i].id);
}

}  // namespace smollm2
