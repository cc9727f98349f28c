// Turns a policy's scores into the entries that every lane keeps.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/entries.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/score_view.hpp"
#include "infinipot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/smooth.hpp"
#include "infinipot/top_k.hpp"

namespace infinipot {

/// Entries that stay whatever their score, beside those that were pinned when they were read.
struct Protection {
  std::size_t sinks = 0;   ///< the first entries (attention sinks, arXiv 2309.17453)
  std::size_t recent = 0;  ///< the last entries
  /// (lanes) instead of `recent` where lanes differ, else empty.
  std::span<const std::size_t> recents = {};

  std::size_t recent_of(std::size_t lane) const noexcept { return recents.empty() ? recent : recents[lane]; }
};

/// Applies a policy's rules lane by lane. Allocates once, in the constructor.
class Selector {
 public:
  /// For stores of up to `capacity` entries, of which `keep` stay, and executors of up to `workers` workers.
  Selector(const Shape& shape, Granularity granularity, std::size_t capacity, std::size_t keep,
           std::span<const Rule> rules, std::size_t workers = 1)
      : Selector(shape, granularity, capacity, Selection(shape.lanes(granularity), keep), rules, workers) {}

  /// The same for stores of which each lane keeps as many as `kept` has for it, or all that it has if these
  /// are fewer.
  Selector(const Shape& shape, Granularity granularity, std::size_t capacity, Selection kept,
           std::span<const Rule> rules, std::size_t workers = 1)
      : shape_(shape),
        granularity_(granularity),
        capacity_(capacity),
        rules_(checked(rules)),
        protected_(shape.lanes(granularity) * capacity),
        marks_(shape.lanes(granularity) * capacity),
        free_(shape.lanes(granularity)),
        left_(shape.lanes(granularity)),
        scratch_(workers, Scratch(capacity, widest_scope() > 1 ? widest_scope() : 0)),
        kept_(std::move(kept)) {
    for (std::size_t lane = 0; lane < kept_.lanes(); ++lane) budgets_.push_back(kept_.lane(lane).size());
  }

  /// The result of the last select().
  const Selection& kept() const noexcept { return kept_; }

  /// Chooses the entries that stay. `attention` is (layers, kv_heads, capacity), as the policy watched it.
  /// Returns the number of NaN scores of unprotected entries, which count as lowest.
  /// Precondition: keep <= table.size(), unless lanes keep different numbers; no lane has more protected
  /// entries than it keeps.
  template <Policy P, Executor X = Serial>
  std::size_t select(const P& policy, const EntryTable& table, std::span<const float> attention,
                     const Protection& protection, X executor = {}) noexcept {
    for (Scratch& scratch : scratch_) scratch.nans = 0;
    executor.for_each(table.lanes(),
                      [&](std::size_t lane, std::size_t) { protect(table, lane, protection); });
    for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
      const std::size_t width = lanes_per_scope(rules_[rule].scope);
      executor.for_each(table.lanes() / width, [&](std::size_t scope, std::size_t worker) {
        Scratch& scratch = scratch_[worker];
        apply(policy, rule, view(table, attention, scope * width, width, scratch), scratch);
      });
    }
    executor.for_each(table.lanes(), [&](std::size_t lane, std::size_t) { collect(table, lane); });
    std::size_t nans = 0;
    for (const Scratch& scratch : scratch_) nans += scratch.nans;
    return nans;
  }

 private:
  /// Of one worker.
  struct Scratch {
    Scratch(std::size_t capacity, std::size_t widest_scope)
        : scores(capacity),
          smoothed(capacity),
          scope_protected(capacity),
          scope_marks(capacity),
          aligned(widest_scope * capacity),
          top_k(capacity) {}

    std::vector<float> scores;                  // (capacity)
    std::vector<float> smoothed;                // (capacity)
    std::vector<std::uint8_t> scope_protected;  // (capacity)
    std::vector<std::uint8_t> scope_marks;      // (capacity)
    std::vector<Index> aligned;                 // (lanes of the widest scope, capacity)
    TopK top_k;
    std::size_t nans = 0;
  };

  static std::vector<Rule> checked(std::span<const Rule> rules) {
    if (rules.empty()) detail::invalid("a policy must have at least one rule");
    for (const Rule& rule : rules) {
      if (!(rule.share >= 0 && rule.share <= 1))
        detail::invalid("a rule's share ", rule.share, " is out of range 0 .. 1");
      rule.smoothing.validate();
    }
    return {rules.begin(), rules.end()};
  }

  std::size_t lanes_per_scope(Granularity scope) const noexcept {
    return shape_.lanes(granularity_) / shape_.lanes(std::max(scope, granularity_));
  }

  std::size_t widest_scope() const noexcept {
    std::size_t widest = 1;
    for (const Rule& rule : rules_) widest = std::max(widest, lanes_per_scope(rule.scope));
    return widest;
  }

  // Flags of the entries that a lane holds.
  std::span<std::uint8_t> protected_of(const EntryTable& table, std::size_t lane) noexcept {
    return std::span(protected_).subspan(lane * capacity_, table.size() - table.begin(lane));
  }
  std::span<const std::uint8_t> protected_of(const EntryTable& table, std::size_t lane) const noexcept {
    return std::span(protected_).subspan(lane * capacity_, table.size() - table.begin(lane));
  }
  std::span<std::uint8_t> marks_of(const EntryTable& table, std::size_t lane) noexcept {
    return std::span(marks_).subspan(lane * capacity_, table.size() - table.begin(lane));
  }

  void protect(const EntryTable& table, std::size_t lane, const Protection& protection) noexcept {
    const auto flags = protected_of(table, lane);
    const std::size_t size = flags.size();
    std::ranges::copy(table.pinned(lane), flags.begin());
    std::fill_n(flags.begin(), std::min(protection.sinks, size), std::uint8_t{1});
    std::fill_n(flags.rbegin(), std::min(protection.recent_of(lane), size), std::uint8_t{1});
    std::copy(flags.begin(), flags.end(), marks_of(table, lane).begin());
    const auto taken = static_cast<std::size_t>(std::count(flags.begin(), flags.end(), 1));
    const std::size_t keep = std::min(budgets_[lane], size);
    kept_.set_count(lane, keep);
    free_[lane] = left_[lane] = keep - std::min(keep, taken);
  }

  ScoreView view(const EntryTable& table, std::span<const float> attention, std::size_t lane,
                 std::size_t width, Scratch& scratch) const noexcept {
    ScoreView view;
    view.table_ = &table;
    view.first_lane_ = lane;
    view.begin_ = table.begin(lane);
    view.heads_per_lane_ = shape_.heads_per_lane(granularity_);
    view.heads_per_layer_ = shape_.kv_heads;
    view.first_head_ = lane * view.heads_per_lane_;
    view.heads_ = width * view.heads_per_lane_;
    view.stride_ = capacity_;
    view.attention_ = attention;
    view.protected_ = protected_of(table, lane);
    view.size_ = view.protected_.size();
    if (width > 1) align(view, width, scratch);
    return view;
  }

  /// Finds the entries that all lanes of a scope still hold. Positions ascend in each, so one walk will do.
  void align(ScoreView& view, std::size_t width, Scratch& scratch) const noexcept {
    const EntryTable& table = *view.table_;
    std::vector<Index>& aligned = scratch.aligned;
    std::size_t found = 0;
    // Row `lane` of aligned is written up to `found`; its next cell serves as that lane's cursor.
    for (std::size_t lane = 0; lane < width; ++lane)
      aligned[lane * capacity_] = static_cast<Index>(table.begin(view.first_lane_ + lane));
    for (const std::uint64_t position : table.positions(view.first_lane_)) {
      bool everywhere = true, pinned = false;
      for (std::size_t lane = 0; lane < width; ++lane) {
        const std::size_t begin = table.begin(view.first_lane_ + lane);
        const auto positions = table.positions(view.first_lane_ + lane);
        Index& cursor = aligned[lane * capacity_ + found];
        while (cursor < table.size() && positions[cursor - begin] < position) ++cursor;
        const bool here = cursor < table.size() && positions[cursor - begin] == position;
        everywhere = everywhere && here;
        pinned = pinned || (here && protected_of(table, view.first_lane_ + lane)[cursor - begin] != 0);
      }
      if (!everywhere) continue;
      scratch.scope_protected[found++] = pinned ? 1 : 0;
      if (found < capacity_)
        for (std::size_t lane = 0; lane < width; ++lane)
          aligned[lane * capacity_ + found] = aligned[lane * capacity_ + found - 1];
    }
    view.size_ = found;
    view.aligned_ = std::span<const Index>(aligned).first(width * capacity_);
    view.protected_ = std::span<const std::uint8_t>(scratch.scope_protected).first(found);
  }

  template <Policy P>
  void apply(const P& policy, std::size_t rule, const ScoreView& view, Scratch& scratch) noexcept {
    const std::size_t width = view.heads_ / view.heads_per_lane_;
    const auto lanes = std::span(left_).subspan(view.first_lane_, width);
    const std::size_t left = *std::min_element(lanes.begin(), lanes.end());
    const std::size_t wanted = std::min(left, budget(rule, view.first_lane_, width));
    if (wanted == 0) return;

    const auto scores = std::span(scratch.scores).first(view.size_);
    policy.score(rule, view, scores);
    for (std::size_t t = 0; t < scores.size(); ++t)
      if (!view.is_protected(t) && is_nan(scores[t])) ++scratch.nans;
    auto ranked = scores;
    if (rules_[rule].smoothing.kernel > 1) {
      ranked = std::span(scratch.smoothed).first(view.size_);
      smooth(scores, view.protected_, rules_[rule].smoothing, ranked);
    }
    width == 1 ? mark_lane(ranked, wanted, view, scratch) : mark_scope(ranked, wanted, view, width, scratch);
  }

  std::size_t budget(std::size_t rule, std::size_t lane, std::size_t width) const noexcept {
    const auto free = std::span(free_).subspan(lane, width);
    const std::size_t least = *std::min_element(free.begin(), free.end());
    if (rule + 1 == rules_.size()) return least;
    return static_cast<std::size_t>(rules_[rule].share * static_cast<double>(least));
  }

  void mark_lane(std::span<const float> scores, std::size_t wanted, const ScoreView& view,
                 Scratch& scratch) noexcept {
    left_[view.first_lane_] -= scratch.top_k.mark(scores, wanted, marks_of(*view.table_, view.first_lane_));
  }

  void mark_scope(std::span<const float> scores, std::size_t wanted, const ScoreView& view, std::size_t width,
                  Scratch& scratch) noexcept {
    const EntryTable& table = *view.table_;
    const auto marks = std::span(scratch.scope_marks).first(view.size_);
    const auto mark_at = [&](std::size_t lane, std::size_t t) -> std::uint8_t& {
      const std::size_t of = view.first_lane_ + lane;
      return marks_of(table, of)[scratch.aligned[lane * capacity_ + t] - table.begin(of)];
    };
    // What one lane has taken for itself is no candidate (2): the others must not be made to follow.
    std::fill(marks.begin(), marks.end(), std::uint8_t{0});
    for (std::size_t lane = 0; lane < width; ++lane)
      for (std::size_t t = 0; t < view.size_; ++t)
        if (mark_at(lane, t) != 0) marks[t] = 2;
    scratch.top_k.mark(scores, wanted, marks);
    for (std::size_t lane = 0; lane < width; ++lane)
      for (std::size_t t = 0; t < view.size_; ++t)
        if (marks[t] == 1) {
          mark_at(lane, t) = 1;
          --left_[view.first_lane_ + lane];
        }
  }

  void collect(const EntryTable& table, std::size_t lane) noexcept {
    const auto marks = marks_of(table, lane);
    // Only a scope whose lanes agree on too few entries leaves a gap: the newest entries fill it.
    for (std::size_t t = marks.size(); t-- > 0 && left_[lane] > 0;) {
      if (marks[t] != 0) continue;
      marks[t] = 1;
      --left_[lane];
    }
    const auto kept = kept_.lane(lane);
    marked_indices(marks, kept);
    if (const auto begin = static_cast<Index>(table.begin(lane)); begin != 0)
      for (Index& index : kept) index += begin;
  }

  Shape shape_;
  Granularity granularity_;
  std::size_t capacity_;
  std::vector<Rule> rules_;
  std::vector<std::size_t> budgets_;     // (lanes)
  std::vector<std::uint8_t> protected_;  // (lanes, capacity)
  std::vector<std::uint8_t> marks_;      // (lanes, capacity): protected or chosen
  std::vector<std::size_t> free_;        // (lanes): what protected entries leave of the budget
  std::vector<std::size_t> left_;        // (lanes): what is still to be chosen
  std::vector<Scratch> scratch_;         // (workers)
  Selection kept_;
};

}  // namespace infinipot
