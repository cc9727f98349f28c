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
  Rope rope;                   ///< without pairs behind the last one that turns, if interleaved
  std::vector<PairFit> pairs;  ///< all that were measured
  double unexplained = 0;      ///< root mean square of what is left, relative to the vectors' lengths

  bool turns() const noexcept { return !rope.frequencies.empty(); }

  /// What may be left over: 4 % of engines that round activations to 8 bits (llama.cpp with SmolLM2 in Q4_1
  /// leaves 1.0 %; with 32-bit products 4e-6 was seen), and twice the rounding of what is stored. Keys that
  /// are no rotations leave tens of percent.
  static double allowed(const Traces& traces) {
    double rounding = 0;
    for (const HeadTrace& head : traces.heads)
      rounding = (std::max)(
          rounding, traces.rounding.relative +
                        head.rounding * head.weight * std::sqrt(static_cast<double>(traces.head_dim)));
    return 0.04 + 2 * rounding;
  }
};

/// Squares that channels from `first` on leave if they stay where they are, of vectors of length 1.
inline double left_by_rest(const Traces& traces, std::size_t first) {
  double noise = 0;
  for (std::size_t k = first; k < traces.head_dim; ++k)
    for (const HeadTrace& head : traces.heads) {
      double sum = 0, squares = 0;
      for (std::size_t p = 0; p < traces.positions; ++p) {
        const double x = head.weight * static_cast<double>(head.rows[p * traces.head_dim + k]);
        sum += x;
        squares += x * x;
      }
      const auto n = static_cast<double>(traces.positions);
      noise += (std::max)(0.0, squares / n - sum * sum / n / n) / static_cast<double>(traces.heads.size());
    }
  return noise;
}

/// The channels of pair i.
inline std::pair<std::size_t, std::size_t> channels_of(Pairing pairing, std::size_t pairs, std::size_t i) {
  return pairing == Pairing::half_split ? std::pair{i, i + pairs} : std::pair{2 * i, 2 * i + 1};
}

/// Root mean square of what a given rotation leaves, relative to the vectors' lengths.
inline double unexplained_by(const Rope& rope, const Traces& traces) {
  PairMeter meter(traces);
  const std::size_t pairs = rope.frequencies.size();
  double noise = left_by_rest(traces, 2 * pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    const auto [first, second] = channels_of(rope.pairing, pairs, i);
    noise += meter.left_by(first, second, rope.frequencies[i]);
  }
  return std::sqrt(noise);
}

/// The pairs that a pairing of so many pairs has, measured.
inline RopeFit fit_pairs(const Traces& traces, Pairing pairing, std::size_t pairs) {
  RopeFit fit;
  fit.rope.pairing = pairing;
  PairMeter meter(traces);
  // Channels without a partner stay where they are.
  double noise = left_by_rest(traces, 2 * pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    const auto [first, second] = channels_of(pairing, pairs, i);
    fit.pairs.push_back(meter.measure(first, second));
    noise += fit.pairs.back().noise;
  }
  fit.unexplained = std::sqrt(noise);
  // That anything turns must be beyond doubt. How far the slow end goes then is a matter of statistics, down
  // to what float arithmetic in an engine may do.
  bool any = false;
  std::size_t turning = 0;
  for (std::size_t i = 0; i < pairs; ++i) {
    const double frequency = std::abs(fit.pairs[i].frequency);
    const bool clearly = fit.pairs[i].turns_clearly();
    any = any || frequency > fit.pairs[i].bound || clearly;
    const double seen = (std::max)(5 * fit.pairs[i].sigma, 1e-6 / static_cast<double>(traces.positions));
    if (frequency > seen && (fit.pairs[i].bound < 1 || clearly)) turning = i + 1;
  }
  if (!any) turning = 0;
  const std::size_t used = turning == 0 ? 0 : pairing == Pairing::half_split ? pairs : turning;
  for (std::size_t i = 0; i < used; ++i) fit.rope.frequencies.push_back(fit.pairs[i].frequency);
  return fit;
}

/// Whether one explanation leaves so much less than another (both as RopeFit::unexplained) that noise is not
/// why. A right one and another differ by far more where they can be told apart at all.
inline bool clearly_better(double left, double other) noexcept { return 2 * left + 1e-5 < other; }

/// Pairs that a Rope has in a fit: interleaved, those behind its own do not turn.
inline std::size_t fitted_pairs(const Rope& rope, std::size_t head_dim) noexcept {
  return rope.pairing == Pairing::half_split ? rope.frequencies.size() : head_dim / 2;
}

/// The best fit. `expected` is taken where it explains as much as any other. Lengths of pairs choose, and
/// where an engine's noise hides them, since hardly anything turns, what a rotation leaves.
inline RopeFit fit_rope(const Traces& traces, const Rope& expected) {
  const std::size_t d = traces.head_dim;
  const PairLengths lengths(traces);
  std::size_t pairs = fitted_pairs(expected, d);
  Pairing pairing = expected.pairing;
  double least = lengths.of(pairing, pairs);
  const auto consider = [&](Pairing other, std::size_t count) {
    const double left = lengths.of(other, count);
    if (left >= 0.9 * least) return;
    least = left;
    pairing = other;
    pairs = count;
  };
  consider(Pairing::interleaved, d / 2);
  for (std::size_t count = d / 2; count > 0; --count) consider(Pairing::half_split, count);
  RopeFit best = fit_pairs(traces, pairing, pairs);
  for (const Pairing other : {Pairing::interleaved, Pairing::half_split}) {
    if ((other == pairing && pairs == d / 2) || lengths.of(other, d / 2) > 2 * least + lengths.floor())
      continue;
    const RopeFit fit = fit_pairs(traces, other, d / 2);
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
  const std::size_t pairs = fitted_pairs(rope, traces.head_dim);
  if (best.rope.pairing != rope.pairing || best.pairs.size() != pairs) {
    const PairLengths lengths(traces);
    if (lengths.of(rope.pairing, pairs) >
        2 * lengths.of(best.rope.pairing, best.pairs.size()) + lengths.floor())
      return false;
    const RopeFit fit = fit_pairs(traces, rope.pairing, pairs);
    return fit.unexplained <= 2 * best.unexplained + RopeFit::allowed(traces) &&
           explains(rope, traces, fit, source);
  }
  for (std::size_t i = 0; i < pairs; ++i) {
    const double frequency = i < rope.frequencies.size() ? rope.frequencies[i] : 0;
    const double more = source != nullptr && i < source->pairs.size() ? source->pairs[i].bound : 0;
    if (!may_have(best.pairs[i], frequency, more)) return false;
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
      if (explained != (group.fit.unexplained <= RopeFit::allowed(group.traces))) return false;
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
  }
  for (LayerGroup& group : groups)
    if (group.layers.size() > 1) group.fit = fit_rope(group.traces, group.fit.rope);
  return groups;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
