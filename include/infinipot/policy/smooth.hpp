// Smoothing of scores over neighbouring tokens: what matters is rarely one token (SnapKV's pooling).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

enum class Pooling : std::uint8_t {
  max,   ///< the best of the neighbourhood
  mean,  ///< its sum / kernel, also where the neighbourhood is cut off
};

/// A neighbourhood of `kernel` entries around each, or `lag` before that; a kernel of 1 leaves scores as they
/// are. With max pooling a kernel of 49 and a lag of 16 keep 8 entries before a peak and 40 after it: a
/// question names what stands first, and asks for what follows.
struct Smoothing {
  Pooling pooling = Pooling::max;
  std::size_t kernel = 1;  ///< odd
  std::size_t lag = 0;     ///< at most kernel / 2

  /// Throws std::invalid_argument if the kernel is even (0 included) or the lag longer than half of it.
  void validate() const {
    if (kernel % 2 == 0) detail::invalid("smoothing kernel ", kernel, " must be odd (1 is none)");
    if (lag > kernel / 2)
      detail::invalid("smoothing lag ", lag, " must be at most half the kernel, which is ", kernel / 2);
  }
};

/// out[t] = the pooled scores of t - lag - kernel/2 .. t - lag + kernel/2. Entries that are marked
/// (protected) or out of range do not count, so that an attention sink does not lift its neighbours; out[t]
/// of a marked entry is its own score. Max pooling ignores NaN unless there is nothing else. `out` may not be
/// `scores`.
inline void smooth(std::span<const float> scores, std::span<const std::uint8_t> marks,
                   const Smoothing& smoothing, std::span<float> out) noexcept {
  const std::size_t reach = smoothing.kernel / 2;
  for (std::size_t t = 0; t < scores.size(); ++t) {
    out[t] = scores[t];
    if (marks[t] != 0) continue;
    const std::size_t from = t - (std::min)(t, reach + smoothing.lag),
                      to = (std::min)(scores.size(), t + reach - smoothing.lag + 1);
    float total = 0, best = 0;
    bool found = false;
    for (std::size_t i = from; i < to; ++i) {
      if (marks[i] != 0) continue;
      total += scores[i];
      const bool is_nan = detail::magnitude_bits(scores[i]) > detail::infinity_bits<float>;
      if (is_nan || (found && scores[i] <= best)) continue;
      best = scores[i];
      found = true;
    }
    if (smoothing.pooling == Pooling::mean)
      out[t] = total / static_cast<float>(smoothing.kernel);
    else if (found)
      out[t] = best;
  }
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
