// The pass that a reader waits for, and its sinks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "infinipot/cap.hpp"
#include "infinipot/ccd/needs.hpp"
#include "infinipot/ccd/pass.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// A Pass and its sinks, constructed in place. Sinks refer to the reader that they are of, so a copy is of
/// none.
template <class Engine, class S, class P, class X>
class PendingPass {
  using Needs = detail::Needs<Engine, S, P>;
  struct Absent {
    void require() const noexcept {}
    double seconds() const noexcept { return 0; }
  };
  using Watcher = QueryWatcher<Engine, S, X>;
  using Queries =
      std::conditional_t<Needs::observes, QueryObserver<P>,
                         std::conditional_t<Needs::watches && Needs::by_queries, Watcher, Absent>>;
  using Attention = std::conditional_t<Needs::watches && Needs::by_attention, AttentionWatcher, Absent>;

 public:
  PendingPass() = default;
  PendingPass(const PendingPass&) noexcept : PendingPass() {}
  PendingPass& operator=(const PendingPass&) noexcept {
    clear();
    return *this;
  }
  ~PendingPass() = default;

  /// Null if there is none.
  const Pass* get() const noexcept { return pass_.logits != nullptr ? &pass_ : nullptr; }

  /// Wants the logits of a chunk, and its NuC if `score_all`.
  void begin(std::span<const Token> tokens, std::size_t first, NucTracker& tracker, std::span<Entry> entries,
             bool score_all) noexcept {
    pass_ = {tokens, first, &chunk_.emplace(tracker, tokens, entries, first, score_all)};
  }

  /// Wants no logits.
  void begin(std::span<const Token> tokens, std::size_t first, std::uint64_t stream_offset,
             bool probe) noexcept {
    pass_ = {tokens, first, &none_.emplace(tokens.size(), stream_offset, probe)};
  }

  /// Also wants queries, for a policy that observes them.
  void observe(P& policy, std::span<std::uint8_t> shown) noexcept {
    pass_.queries = &queries_.emplace(policy, shown, pass_.first, pass_.tokens.size());
  }

  /// Also wants queries, to score them.
  void score(Engine& engine, const S& store, std::span<CapScorer> scorers, std::span<std::uint8_t> shown,
             AttentionScores scores, const X& executor) noexcept {
    pass_.queries =
        &queries_.emplace(engine, store, scorers, shown, pass_.first, pass_.tokens.size(), scores, executor);
  }

  /// Also wants attention.
  void attend(const Shape& shape, AttentionScores scores) noexcept {
    pass_.attention = &attention_.emplace(shape, scores);
  }

  /// Once it was run. Throws std::invalid_argument if a sink was not given what it wanted.
  void require() const {
    if (queries_) queries_->require();
    if (attention_) attention_->require();
    if (chunk_) chunk_->require();
  }

  /// Spent on scoring.
  double seconds() const noexcept { return queries_ ? queries_->seconds() : 0; }

  void clear() noexcept {
    pass_ = {};
    chunk_.reset();
    none_.reset();
    queries_.reset();
    attention_.reset();
  }

 private:
  Pass pass_;
  std::optional<ChunkLogits> chunk_;
  std::optional<NoLogits> none_;
  std::optional<Queries> queries_;
  std::optional<Attention> attention_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
