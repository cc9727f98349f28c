// Turns a policy's scores into the entries that every lane keeps.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/policy/score_view.hpp"
#include "infinipot/policy/smooth.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/top_k.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// Entries that stay whatever their score, besides those pinned when read.
struct Protection {
  std::size_t sinks = 0;   ///< the first entries (attention sinks, arXiv 2309.17453)
  std::size_t recent = 0;  ///< the last entries
};

/// Applies a policy's rules lane by lane. Allocates once, in the constructor.
class Selector {
 public:
  /// For stores of up to `capacity` entries, of which `keep` stay, and executors of up to `workers` workers.
  Selector(const Shape& shape, Granularity granularity, std::size_t capacity, std::size_t keep,
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
        kept_(shape.lanes(granularity), keep) {}

  /// The result of the last select().
  const Selection& kept() const noexcept { return kept_; }

  /// Chooses the entries that stay. `attention` is (layers, kv_heads, capacity), as the policy watched it.
  /// Returns the number of NaN scores of unprotected entries, which count as lowest.
  /// Precondition: keep <= table.size(); no lane has more protected entries than it keeps.
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
  /// Memory of one worker.
  struct Scratch {
    Scratch(std::size_t capacity, std::size_t widest_scope)
        : scores(capacity),
          smoothed(capacity),
          scope_protected(capacity),
          scope_taken(capacity),
          scope_marks(capacity),
          aligned(widest_scope * capacity),
          cursors(widest_scope),
          top_k(capacity) {}

    std::vector<float> scores;                  // (capacity)
    std::vector<float> smoothed;                // (capacity): every other smoothing of these
    std::vector<std::uint8_t> scope_protected;  // (capacity)
    std::vector<std::uint8_t> scope_taken;      // (capacity): marked in one of the lanes already
    std::vector<std::uint8_t> scope_marks;      // (capacity): those, and what is chosen for all lanes
    std::vector<Index> aligned;                 // (lanes of the widest scope, capacity)
    std::vector<Index> cursors;                 // (lanes of the widest scope)
    TopK top_k;
    std::size_t nans = 0;
  };

  static std::vector<Rule> checked(std::span<const Rule> rules) {
    if (rules.empty()) detail::invalid("a policy must have at least one rule");
    for (const Rule& rule : rules) {
      if (detail::is_nan(rule.share) || rule.share < 0 || rule.share > 1)
        detail::invalid("a rule's share ", rule.share, " is out of range 0 .. 1");
      rule.smoothing.validate();
      rule.then.validate();
    }
    return {rules.begin(), rules.end()};
  }

  std::size_t lanes_per_scope(Granularity scope) const noexcept {
    return shape_.lanes(granularity_) / shape_.lanes((std::max)(scope, granularity_));
  }

  std::size_t widest_scope() const noexcept {
    std::size_t widest = 1;
    for (const Rule& rule : rules_) widest = (std::max)(widest, lanes_per_scope(rule.scope));
    return widest;
  }

  // Flags of the entries that a lane holds.
  std::span<std::uint8_t> protected_of(const EntryTable& table, std::size_t lane) noexcept {
    return std::span(protected_).subspan(lane * capacity_, table.size());
  }
  std::span<const std::uint8_t> protected_of(const EntryTable& table, std::size_t lane) const noexcept {
    return std::span(protected_).subspan(lane * capacity_, table.size());
  }
  std::span<std::uint8_t> marks_of(const EntryTable& table, std::size_t lane) noexcept {
    return std::span(marks_).subspan(lane * capacity_, table.size());
  }

  void protect(const EntryTable& table, std::size_t lane, const Protection& protection) noexcept {
    const auto flags = protected_of(table, lane);
    std::ranges::copy(table.pinned(lane), flags.begin());
    std::fill_n(flags.begin(), (std::min)(protection.sinks, flags.size()), std::uint8_t{1});
    std::fill_n(flags.rbegin(), (std::min)(protection.recent, flags.size()), std::uint8_t{1});
    std::copy(flags.begin(), flags.end(), marks_of(table, lane).begin());
    const auto taken = static_cast<std::size_t>(std::count(flags.begin(), flags.end(), 1));
    free_[lane] = left_[lane] = kept_.keep() - (std::min)(kept_.keep(), taken);
  }

  ScoreView view(const EntryTable& table, std::span<const float> attention, std::size_t lane,
                 std::size_t width, Scratch& scratch) const noexcept {
    ScoreView view;
    view.table_ = &table;
    view.first_lane_ = lane;
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

  /// Finds the entries that all lanes of a scope still hold. Positions ascend in each, so one walk suffices.
  void align(ScoreView& view, std::size_t width, Scratch& scratch) const noexcept {
    const EntryTable& table = *view.table_;
    std::vector<Index>&aligned = scratch.aligned, &cursors = scratch.cursors;
    std::fill(cursors.begin(), cursors.end(), Index{0});
    std::size_t found = 0;
    for (const std::uint64_t position : table.positions(view.first_lane_)) {
      bool everywhere = true, somewhere_protected = false;
      for (std::size_t lane = 0; lane < width; ++lane) {
        const auto positions = table.positions(view.first_lane_ + lane);
        Index& cursor = cursors[lane];
        while (cursor < positions.size() && positions[cursor] < position) ++cursor;
        const bool here = cursor < positions.size() && positions[cursor] == position;
        everywhere = everywhere && here;
        somewhere_protected =
            somewhere_protected || (here && protected_of(table, view.first_lane_ + lane)[cursor] != 0);
      }
      if (!everywhere) continue;
      for (std::size_t lane = 0; lane < width; ++lane) aligned[lane * capacity_ + found] = cursors[lane];
      scratch.scope_protected[found++] = somewhere_protected ? 1 : 0;
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
    const std::size_t wanted = (std::min)(left, budget(rule, view.first_lane_, width));
    if (wanted == 0) return;

    const auto scores = std::span(scratch.scores).first(view.size_);
    score(policy, rule, view, scores);
    for (std::size_t t = 0; t < scores.size(); ++t)
      if (!view.is_protected(t) && detail::magnitude_bits(scores[t]) > detail::infinity_bits<float>)
        ++scratch.nans;
    auto ranked = scores, spare = std::span(scratch.smoothed).first(view.size_);
    for (const Smoothing& smoothing : {rules_[rule].smoothing, rules_[rule].then}) {
      if (smoothing.kernel == 1) continue;
      smooth(ranked, view.protected_, smoothing, spare);
      std::swap(ranked, spare);
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
    const auto taken = std::span(scratch.scope_taken).first(view.size_);
    const auto marks = std::span(scratch.scope_marks).first(view.size_);
    const auto mark_at = [&](std::size_t lane, std::size_t t) -> std::uint8_t& {
      return marks_of(*view.table_, view.first_lane_ + lane)[scratch.aligned[lane * capacity_ + t]];
    };
    // What one lane has taken for itself is no candidate: the others must not follow.
    std::fill(taken.begin(), taken.end(), std::uint8_t{0});
    for (std::size_t lane = 0; lane < width; ++lane)
      for (std::size_t t = 0; t < view.size_; ++t) taken[t] |= mark_at(lane, t);
    std::copy(taken.begin(), taken.end(), marks.begin());
    scratch.top_k.mark(scores, wanted, marks);
    for (std::size_t lane = 0; lane < width; ++lane)
      for (std::size_t t = 0; t < view.size_; ++t)
        if (marks[t] != taken[t]) {
          mark_at(lane, t) = 1;
          --left_[view.first_lane_ + lane];
        }
  }

  void collect(const EntryTable& table, std::size_t lane) noexcept {
    const auto marks = marks_of(table, lane);
    // A scope whose lanes share too few entries leaves a gap: the newest entries fill it.
    for (std::size_t t = marks.size(); t-- > 0 && left_[lane] > 0;) {
      if (marks[t] != 0) continue;
      marks[t] = 1;
      --left_[lane];
    }
    marked_indices(marks, kept_.lane(lane));
  }

  Shape shape_;
  Granularity granularity_;
  std::size_t capacity_;
  std::vector<Rule> rules_;
  std::vector<std::uint8_t> protected_;  // (lanes, capacity)
  std::vector<std::uint8_t> marks_;      // (lanes, capacity): protected or chosen
  std::vector<std::size_t> free_;        // (lanes): what protected entries leave of the budget
  std::vector<std::size_t> left_;        // (lanes): what is still to be chosen
  std::vector<Scratch> scratch_;         // (workers)
  Selection kept_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
