// Which rotation explains the keys of a token that was repeated.
//
// The same token at positions 0, 1, 2, ...: no attention can tell the places apart, so in every layer and
// head the key before RoPE is the same vector everywhere, and each stored key is its rotation by the
// position.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/check/pair_fit.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The rotation that explains traces best.
struct RopeFit {
  Rope rope;          ///< if interleaved, without pairs before the first and behind the last one that turn
  PairLayout layout;  ///< what was measured
  std::vector<PairFit> pairs;  ///< (layout.count)
  double unexplained = 0;      ///< root mean square of what is left, relative to the vectors' lengths

  bool turns() const noexcept { return !rope.frequencies.empty(); }

  /// The measurement of the Rope's pair i.
  const PairFit& pair(std::size_t i) const noexcept {
    return pairs[layout.pairing == Pairing::half_split ? i : i + (rope.first_channel - layout.first) / 2];
  }

  /// What may be left over, whatever is stored.
  static constexpr double certain = 0.04;

  /// What may be left over: 4 % of engines that round activations to 8 bits (llama.cpp with SmolLM2 in Q4_1
  /// leaves 1.0 %; with 32-bit products 4e-6 was seen), and twice the rounding of what is stored. Keys that
  /// are no rotations leave tens of percent.
  static double allowed(const Traces& traces) {
    double rounding = 0;
    for (const HeadTrace& head : traces.heads)
      rounding = (std::max)(
          rounding, traces.rounding.relative +
                        head.rounding * head.weight * std::sqrt(static_cast<double>(traces.head_dim)));
    return certain + 2 * rounding;
  }
};

/// Squares that channels below `first` and from `end` on leave if they stay where they are, of vectors of
/// length 1.
inline double left_by_rest(const Traces& traces, std::size_t first, std::size_t end) {
  double noise = 0;
  for (std::size_t k = 0; k < traces.head_dim; ++k) {
    if (k >= first && k < end) continue;
    for (const HeadTrace& head : traces.heads) {
      Spread spread;
      for (std::size_t p = 0; p < traces.positions; ++p)
        spread.add(p, head.weight * static_cast<double>(head.rows[p * traces.head_dim + k]));
      noise += spread.left(traces.drift > 0) / static_cast<double>(traces.heads.size());
    }
  }
  return noise;
}

/// The pairs of a Rope itself.
inline PairLayout layout_of(const Rope& rope) noexcept {
  return {rope.pairing, rope.first_channel, rope.frequencies.size()};
}

/// Root mean square of what a given rotation leaves, relative to the vectors' lengths.
inline double unexplained_by(const Rope& rope, const Traces& traces) {
  PairMeter meter(traces);
  const PairLayout layout = layout_of(rope);
  double noise = left_by_rest(traces, layout.first, layout.first + 2 * layout.count);
  for (std::size_t i = 0; i < layout.count; ++i) {
    const auto [first, second] = layout.channels(i);
    noise += meter.left_by(first, second, rope.frequencies[i]);
  }
  return std::sqrt(noise);
}

/// The pairs of a layout, measured.
inline RopeFit fit_pairs(const Traces& traces, const PairLayout& layout) {
  RopeFit fit;
  fit.layout = layout;
  fit.rope.pairing = layout.pairing;
  PairMeter meter(traces);
  // Channels without a partner stay where they are.
  double noise = left_by_rest(traces, layout.first, layout.first + 2 * layout.count);
  for (std::size_t i = 0; i < layout.count; ++i) {
    const auto [first, second] = layout.channels(i);
    fit.pairs.push_back(meter.measure(first, second));
    noise += fit.pairs.back().noise;
  }
  fit.unexplained = std::sqrt(noise);
  // That anything turns must be beyond doubt. How far the slow end goes then is a matter of statistics, down
  // to what float arithmetic in an engine may do.
  bool any = false;
  std::size_t from = layout.count, to = 0;  // those that turn
  for (std::size_t i = 0; i < layout.count; ++i) {
    const double frequency = std::abs(fit.pairs[i].frequency);
    const bool clearly = fit.pairs[i].turns_clearly(), surely = frequency > fit.pairs[i].bound || clearly;
    any = any || surely;
    if (surely) from = (std::min)(from, i);
    const double seen = (std::max)(5 * fit.pairs[i].sigma, 1e-6 / static_cast<double>(traces.positions));
    if (frequency > seen && (fit.pairs[i].bound < 1 || clearly)) to = i + 1;
  }
  if (!any) return fit;
  if (layout.pairing == Pairing::half_split) {
    from = 0;
    to = layout.count;
  }
  fit.rope.first_channel = layout.first + (layout.pairing == Pairing::half_split ? 0 : 2 * from);
  for (std::size_t i = from; i < to; ++i) fit.rope.frequencies.push_back(fit.pairs[i].frequency);
  return fit;
}

/// Whether one explanation leaves so much less than another (both as RopeFit::unexplained) that noise is not
/// why. A right one and another differ by far more where they can be told apart at all.
inline bool clearly_better(double left, double other) noexcept { return 2 * left + 1e-5 < other; }

/// What must be measured to see a Rope: interleaved, pairs before and behind its own do not turn.
inline PairLayout measured_layout(const Rope& rope, std::size_t head_dim) noexcept {
  if (rope.pairing == Pairing::half_split) return layout_of(rope);
  const std::size_t first = rope.first_channel % 2;
  return {rope.pairing, first, (head_dim - first) / 2};
}

/// The best fit. `expected` is taken where it explains as much as any other, and pairs from channel 0 on
/// where others explain hardly more. Lengths of pairs choose, and where an engine's noise hides them, since
/// hardly anything turns, what a rotation leaves.
inline RopeFit fit_rope(const Traces& traces, const Rope& expected) {
  const std::size_t d = traces.head_dim;
  const PairLengths lengths(traces);
  PairLayout layout = measured_layout(expected, d);
  double least = lengths.of(layout);
  const auto consider = [&](const PairLayout& other, double share) {
    const double left = lengths.of(other);
    if (left >= share * least) return;
    least = left;
    layout = other;
  };
  constexpr double better = 0.9, much_better = 0.8;
  consider({Pairing::interleaved, 0, d / 2}, better);
  for (std::size_t count = d / 2; count > 0; --count) consider({Pairing::half_split, 0, count}, better);
  if (d > 2) consider({Pairing::interleaved, 1, (d - 1) / 2}, much_better);
  for (std::size_t count = d / 2; count > 0; --count)
    for (std::size_t first = 1; first + 2 * count <= d; ++first)
      consider({Pairing::half_split, first, count}, much_better);
  RopeFit best = fit_pairs(traces, layout);
  for (const Pairing pairing : {Pairing::interleaved, Pairing::half_split}) {
    const PairLayout other{pairing, 0, d / 2};
    if (other == layout || lengths.of(other) > 2 * least + lengths.floor()) continue;
    const RopeFit fit = fit_pairs(traces, other);
    if (fit.turns() && clearly_better(fit.unexplained, best.unexplained)) best = fit;
  }
  return best;
}

/// Whether a measured pair may have this frequency, itself known up to `more`. Engines that compute angles in
/// float are a little off.
inline bool may_have(const PairFit& pair, double frequency, double more = 0) noexcept {
  const double off = std::remainder(pair.frequency - frequency, 2 * std::numbers::pi);
  return std::abs(off) <= pair.bound + more + 1e-5 * std::abs(frequency);
}

/// Whether a Rope explains traces whose best fit is `best`: lengths, frequencies and all that is left.
/// `source` is the fit that the Rope comes from, if it was measured.
inline bool explains(const Rope& rope, const Traces& traces, const RopeFit& best,
                     const RopeFit* source = nullptr) {
  if (rope.frequencies.empty() && !best.turns()) return true;
  const PairLayout layout = measured_layout(rope, traces.head_dim);
  if (!(best.layout == layout)) {
    const PairLengths lengths(traces);
    if (lengths.of(layout) > 2 * lengths.of(best.layout) + lengths.floor()) return false;
    const RopeFit fit = fit_pairs(traces, layout);
    return fit.unexplained <= 2 * best.unexplained + RopeFit::allowed(traces) &&
           explains(rope, traces, fit, source);
  }
  const std::size_t before = layout.pairing == Pairing::half_split ? 0 : rope.first_channel / 2;
  for (std::size_t i = 0; i < layout.count; ++i) {
    const bool turns = i >= before && i - before < rope.frequencies.size();
    const double more = source != nullptr && source->layout == layout ? source->pairs[i].bound : 0;
    if (!may_have(best.pairs[i], turns ? rope.frequencies[i - before] : 0, more)) return false;
  }
  return true;
}

/// Layers that turn alike, and how.
struct LayerGroup {
  std::vector<std::size_t> layers;
  Traces traces;
  RopeFit fit;
};

/// Puts layers together that one Rope explains. `expected` is tried first.
inline std::vector<LayerGroup> group_layers(std::span<const Traces> layers,
                                            std::span<const std::size_t> which, const Rope& expected) {
  std::vector<LayerGroup> groups;
  for (const std::size_t layer : which) {
    const Traces& traces = layers[layer];
    const RopeFit own = fit_rope(traces, groups.empty() ? expected : groups.front().fit.rope);
    const bool explained = own.unexplained <= RopeFit::allowed(traces);
    const auto same = [&](const LayerGroup& group) {
      if (group.traces.positions != traces.positions || (group.traces.drift > 0) != (traces.drift > 0) ||
          explained != (group.fit.unexplained <= RopeFit::allowed(group.traces)))
        return false;
      return !explained ||
             (group.fit.turns() == own.turns() && explains(group.fit.rope, traces, own, &group.fit));
    };
    const auto group = std::ranges::find_if(groups, same);
    if (group == groups.end()) {
      groups.push_back({{layer}, traces, own});
      continue;
    }
    group->layers.push_back(layer);
    group->traces.add(traces);
    group->traces.drift = (std::max)(group->traces.drift, traces.drift);
  }
  for (LayerGroup& group : groups)
    if (group.layers.size() > 1) group.fit = fit_rope(group.traces, group.fit.rope);
  return groups;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
