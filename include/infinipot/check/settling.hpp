// Which entries of a repeated token tell its RoPE.
//
// Learned sinks take less and less as entries become more, and recurrent states come to rest: both change
// what a repeated token becomes in the layers above them, more and more slowly. Such layers are judged by the
// second half of the entries, whose vectors may move along a line besides. What does not settle even then,
// above a layer that does, is not judged: sinks may win for long, and experts may change from one entry to
// the next.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rope_fit.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

class Settling {
 public:
  /// `expected` (layers) are tried first.
  Settling(const RepeatedToken& seen, std::span<const Rope> expected, Rounding rounding)
      : drifts_(expected.size()), restless_(expected.size()) {
    const EntryNumbers& numbers = seen.keys.numbers.empty() ? seen.queries : seen.keys;
    bool moves_below = false;
    for (std::size_t layer = 0; layer < numbers.layers; ++layer) {
      const auto drift = drift_of(seen, numbers, layer, expected[layer], rounding);
      drifts_[layer] = drift.value_or(0);
      restless_[layer] = moves_below && !drift;
      moves_below = moves_below || settles(layer);
    }
  }

  bool settles(std::size_t layer) const noexcept { return drifts_[layer] > 0; }

  /// Whether it does not settle, which may be because layers below do.
  bool restless(std::size_t layer) const noexcept { return restless_[layer]; }

  std::vector<std::size_t> layers() const {
    return where([&](std::size_t layer) { return settles(layer); });
  }
  std::vector<std::size_t> restless_layers() const {
    return where([&](std::size_t layer) { return restless(layer); });
  }

  /// The vectors of a layer to judge it by. Returns false if a number is not finite.
  bool take(const EntryNumbers& numbers, std::size_t layer, Rounding rounding, Traces& traces) const {
    const std::size_t first = settles(layer) ? numbers.entries / 2 : 0;
    if (!RepeatedToken::layer(numbers, layer, rounding, traces, first)) return false;
    traces.drift = drifts_[layer];
    return true;
  }

 private:
  template <class Is>
  std::vector<std::size_t> where(const Is& is) const {
    std::vector<std::size_t> some;
    for (std::size_t layer = 0; layer < drifts_.size(); ++layer)
      if (is(layer)) some.push_back(layer);
    return some;
  }

  /// Traces::drift of a layer that settles, 0 of one that rests or has a mistake of its own; nothing if it
  /// does neither.
  static std::optional<double> drift_of(const RepeatedToken& seen, const EntryNumbers& numbers,
                                        std::size_t layer, const Rope& expected, Rounding rounding) {
    Traces all, late;
    if (!RepeatedToken::layer(numbers, layer, rounding, all)) return 0.0;
    const double unexplained = fit_rope(all, expected).unexplained, allowed = RopeFit::allowed(all);
    const double values = moved(seen.values, layer, rounding);
    if (unexplained <= allowed && values <= allowed) return 0.0;
    // A mistake in what is done to keys alone leaves values as they are.
    if (!seen.values.numbers.empty() && values < unexplained / 8) return 0.0;
    RepeatedToken::layer(numbers, layer, rounding, late, numbers.entries / 2);
    // Twice that, as the worst entry moves further than they do in the mean.
    late.drift = 2 * fit_rope(late, expected).unexplained + 1e-6;
    if (fit_rope(late, expected).unexplained > allowed) return std::nullopt;
    return late.drift;
  }

  /// What of vectors that do not turn is left around their mean.
  static double moved(const EntryNumbers& numbers, std::size_t layer, Rounding rounding) {
    Traces traces;
    if (numbers.numbers.empty() || !RepeatedToken::layer(numbers, layer, rounding, traces)) return 0;
    return fit_pairs(traces, {}).unexplained;
  }

  std::vector<double> drifts_;  // (layers)
  std::vector<bool> restless_;  // (layers)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
