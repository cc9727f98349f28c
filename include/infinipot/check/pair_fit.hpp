// What one pair of channels does over positions, measured.
//
// Pairs of channels keep their length under the right pairing alone. The frequency of a pair is the slope of
// its angle over the positions: a first guess from neighbours, then least squares over twice as many
// positions each time, so that no turn is lost; all heads together, each with the weight of its energy there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/check/rounding.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The vectors of one head, (positions, head_dim).
struct HeadTrace {
  const float* rows = nullptr;
  double weight = 1;      ///< 1 / their root mean square length
  double rounding = 0;    ///< of_largest * the largest channel
  double square_sum = 0;  ///< of all channels
};

/// What one channel pair does.
struct PairFit {
  double frequency = 0;  ///< radians per position, -pi .. pi
  double bound = 0;      ///< how far it may be off by rounding and noise; pi if it cannot be measured
  double sigma = 0;      ///< its standard error, from the noise alone
  double noise = 0;      ///< squares that the rotation does not explain, of vectors of length 1
  double still = 0;      ///< squares that are left if the pair does not turn

  /// Whether a turning pair explains clearly more than one that stands still: by four times at least, as
  /// measured, however little the numbers' rounding promises.
  bool turns_clearly() const noexcept { return still > 16 * noise + 1e-10; }
};

/// All heads that turn alike, and how their numbers were rounded.
struct Traces {
  std::size_t positions = 0, head_dim = 0;
  Rounding rounding;
  std::vector<HeadTrace> heads;
  /// How far the vectors may move along a line besides, root mean square, relative to their lengths; what
  /// such a line explains then counts as explained.
  double drift = 0;

  /// False, and nothing is added, for numbers that are not finite.
  bool add(const float* rows) {
    HeadTrace head{.rows = rows};
    float largest = 0;
    for (std::size_t i = 0; i < positions * head_dim; ++i) {
      if (!is_finite(rows[i])) return false;
      largest = (std::max)(largest, std::abs(rows[i]));
      head.square_sum += static_cast<double>(rows[i]) * static_cast<double>(rows[i]);
    }
    if (head.square_sum > 0) head.weight = 1 / std::sqrt(head.square_sum / static_cast<double>(positions));
    head.rounding = rounding.of_largest * static_cast<double>(largest);
    heads.push_back(head);
    return true;
  }

  void add(const Traces& others) { heads.insert(heads.end(), others.heads.begin(), others.heads.end()); }
};

/// Squares of numbers at 0, 1, 2, ... that their mean does not explain, or a line through them.
class Spread {
 public:
  void add(std::size_t position, double x) noexcept {
    ++count_;
    sum_ += x;
    squares_ += x * x;
    along_ += static_cast<double>(position) * x;
  }

  /// The mean square.
  double left(bool by_a_line) const noexcept {
    const auto n = static_cast<double>(count_);
    const double mean = sum_ / n, covariance = along_ / n - mean * (n - 1) / 2;
    const double line = by_a_line ? covariance * covariance / ((n * n - 1) / 12) : 0;
    return (std::max)(0.0, squares_ / n - mean * mean - line);
  }

 private:
  std::size_t count_ = 0;
  double sum_ = 0, squares_ = 0, along_ = 0;
};

/// The slope of `values` over 0, 1, 2, ..., and the root mean square of what is left.
inline std::pair<double, double> slope_of(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0, along = 0, left = 0;
  for (const double value : values) mean += value / n;
  for (std::size_t p = 0; p < values.size(); ++p)
    along += (static_cast<double>(p) - (n - 1) / 2) * (values[p] - mean);
  const double slope = along / (n * (n * n - 1) / 12);
  for (std::size_t p = 0; p < values.size(); ++p) {
    const double rest = values[p] - mean - slope * (static_cast<double>(p) - (n - 1) / 2);
    left += rest * rest / n;
  }
  return {slope, std::sqrt(left)};
}

/// Measures the pairs of a set of traces, one at a time.
class PairMeter {
 public:
  explicit PairMeter(const Traces& traces)
      : traces_(traces),
        cos_(traces.positions),
        sin_(traces.positions),
        re_(traces.positions),
        im_(traces.positions),
        phase_(traces.positions),
        mean_(2 * traces.heads.size()) {}

  PairFit measure(std::size_t first, std::size_t second) {
    a_ = first;
    b_ = second;
    const std::size_t n = traces_.positions;
    PairFit fit{.frequency = first_guess(), .bound = std::numbers::pi, .sigma = 0, .noise = 0};
    double left = 0;
    for (std::size_t span = std::min<std::size_t>(4, n);; span = (std::min)(2 * span, n)) {
      for (int again = 0; again < 3; ++again) {
        const auto [slope, rest] = slope_of(phases(fit.frequency, span));
        fit.frequency = std::remainder(fit.frequency + slope, 2 * std::numbers::pi);
        left = rest;
      }
      if (span == n) break;
    }
    fit.still = left_by(first, second, 0);
    fit.noise = left_by(first, second, fit.frequency);
    const double count = static_cast<double>(n), rounding = angle_rounding();
    fit.sigma = left * std::sqrt(12 / (count * count * count));
    // A line through n angles, each wrong by at most e, is wrong by at most 3 e / n in its slope. An error
    // may be the stored numbers' rounding; noise of the engine, which is taken to go with the position as
    // much as it is seen beside the line; and what that does not show, since deep engines in float drift a
    // little.
    const double noise = 3 * left + std::sqrt(fit.noise / (std::max)(energy(), 1e-300));
    if (left < 0.5 && rounding < 0.5)
      fit.bound =
          (std::min)((3 * (noise + rounding + float_drift) + drift_angle()) / count, std::numbers::pi);
    return fit;
  }

  /// Squares that a pair leaves if it turns by this frequency, of vectors of length 1.
  double left_by(std::size_t first, std::size_t second, double frequency) {
    a_ = first;
    b_ = second;
    phases(frequency, traces_.positions);
    return unexplained();
  }

 private:
  std::pair<double, double> at(const HeadTrace& head, std::size_t position) const {
    const float* const row = head.rows + position * traces_.head_dim;
    return {head.weight * static_cast<double>(row[a_]), head.weight * static_cast<double>(row[b_])};
  }

  double first_guess() const {
    double re = 0, im = 0;
    for (const HeadTrace& head : traces_.heads)
      for (std::size_t p = 0; p + 1 < traces_.positions; ++p) {
        const auto [x, y] = at(head, p);
        const auto [u, v] = at(head, p + 1);
        re += u * x + v * y;
        im += v * x - u * y;
      }
    return re == 0 && im == 0 ? 0 : std::atan2(im, re);
  }

  /// Turns all back by the frequency; the angles of the sums over heads that are left, for `span` positions.
  std::span<const double> phases(double frequency, std::size_t span) {
    for (std::size_t p = 0; p < span; ++p) {
      cos_[p] = std::cos(frequency * static_cast<double>(p));
      sin_[p] = std::sin(frequency * static_cast<double>(p));
      re_[p] = im_[p] = 0;
    }
    for (std::size_t h = 0; h < traces_.heads.size(); ++h) {
      double& mean_re = mean_[2 * h];
      double& mean_im = mean_[2 * h + 1];
      mean_re = mean_im = 0;
      for (std::size_t p = 0; p < span; ++p) {
        const auto [x, y] = at(traces_.heads[h], p);
        mean_re += (x * cos_[p] + y * sin_[p]) / static_cast<double>(span);
        mean_im += (y * cos_[p] - x * sin_[p]) / static_cast<double>(span);
      }
      for (std::size_t p = 0; p < span; ++p) {
        const auto [x, y] = at(traces_.heads[h], p);
        const double back_re = x * cos_[p] + y * sin_[p], back_im = y * cos_[p] - x * sin_[p];
        re_[p] += back_re * mean_re + back_im * mean_im;
        im_[p] += back_im * mean_re - back_re * mean_im;
      }
    }
    for (std::size_t p = 0; p < span; ++p)
      phase_[p] = re_[p] == 0 && im_[p] == 0 ? 0 : std::atan2(im_[p], re_[p]);
    return std::span(phase_).first(span);
  }

  /// Of keys of SmolLM2's 30 layers 4e-6 was seen.
  static constexpr double float_drift = 1e-5;

  /// Mean square length of the pair, of vectors of length 1.
  double energy() const {
    double squares = 0;
    for (const double mean : mean_) squares += mean * mean;
    return squares / static_cast<double>(traces_.heads.size());
  }

  /// After phases() over all positions.
  double unexplained() const {
    double sum = 0;
    for (std::size_t h = 0; h < traces_.heads.size(); ++h) {
      Spread re, im;  // around the mean, for its precision's sake
      for (std::size_t p = 0; p < traces_.positions; ++p) {
        const auto [x, y] = at(traces_.heads[h], p);
        re.add(p, x * cos_[p] + y * sin_[p] - mean_[2 * h]);
        im.add(p, y * cos_[p] - x * sin_[p] - mean_[2 * h + 1]);
      }
      sum += re.left(traces_.drift > 0) + im.left(traces_.drift > 0);
    }
    return sum / static_cast<double>(traces_.heads.size());
  }

  /// How far a pair may turn in all as its vectors move along a line.
  double drift_angle() const {
    return traces_.drift == 0 ? 0 : std::sqrt(12) * traces_.drift / std::sqrt((std::max)(energy(), 1e-300));
  }

  /// The largest error of an angle by rounding, weighted as angles are. pi for pairs of length 0.
  double angle_rounding() const {
    double error = 0, squares = 0;
    for (std::size_t h = 0; h < traces_.heads.size(); ++h) {
      const double length = std::hypot(mean_[2 * h], mean_[2 * h + 1]);
      const double off =
          traces_.rounding.relative * length + traces_.heads[h].rounding * traces_.heads[h].weight;
      error += std::numbers::sqrt2 * off * length;
      squares += length * length;
    }
    return squares == 0 ? std::numbers::pi : (std::min)(error / squares, std::numbers::pi);
  }

  const Traces& traces_;
  std::size_t a_ = 0, b_ = 0;
  std::vector<double> cos_, sin_, re_, im_, phase_;  // (positions)
  std::vector<double> mean_;                         // (heads, 2)
};

/// Which channels pair: `count` pairs from channel `first` on.
struct PairLayout {
  Pairing pairing = Pairing::half_split;
  std::size_t first = 0, count = 0;

  friend bool operator==(const PairLayout&, const PairLayout&) = default;

  /// The channels of pair i.
  std::pair<std::size_t, std::size_t> channels(std::size_t i) const noexcept {
    return pairing == Pairing::half_split ? std::pair{first + i, first + i + count}
                                          : std::pair{first + 2 * i, first + 2 * i + 1};
  }
};

/// How lengths of pairs vary over positions, for any pairing: covariances of squared channels.
class PairLengths {
 public:
  explicit PairLengths(const Traces& traces) : d_(traces.head_dim), covariance_(d_ * d_) {
    const std::size_t n = traces.positions;
    std::vector<double> mean(d_), squares(d_ * n);
    for (const HeadTrace& head : traces.heads) {
      const double weight = head.weight * head.weight;
      for (std::size_t k = 0; k < d_; ++k) {
        mean[k] = 0;
        for (std::size_t p = 0; p < n; ++p) {
          const auto x = static_cast<double>(head.rows[p * d_ + k]);
          squares[k * n + p] = weight * x * x;
          mean[k] += weight * x * x / static_cast<double>(n);
        }
        for (std::size_t p = 0; p < n; ++p) squares[k * n + p] -= mean[k];
        if (traces.drift > 0) straighten(std::span(squares).subspan(k * n, n));
        const double off = (traces.rounding.relative + engine_noise + traces.drift) * std::sqrt(mean[k]) +
                           head.rounding * head.weight;
        floor_ += 4 * mean[k] * off * off;
      }
      for (std::size_t a = 0; a < d_; ++a)
        for (std::size_t b = 0; b <= a; ++b) {
          double sum = 0;
          for (std::size_t p = 0; p < n; ++p) sum += squares[a * n + p] * squares[b * n + p];
          covariance_[a * d_ + b] += sum / static_cast<double>(n);
        }
    }
    for (std::size_t k = 0; k < d_; ++k) unpaired_ += covariance_[k * d_ + k];
  }

  /// Variance that is left if channels pair like this.
  double of(const PairLayout& layout) const {
    double sum = unpaired_;
    for (std::size_t i = 0; i < layout.count; ++i) {
      const auto [b, a] = layout.channels(i);
      sum += 2 * covariance_[a * d_ + b];
    }
    return sum;
  }

  /// Variance that rounding alone may make.
  double floor() const noexcept { return floor_; }

 private:
  /// Takes away a line through 0 in the middle.
  static void straighten(std::span<double> values) {
    const double slope = slope_of(values).first, middle = (static_cast<double>(values.size()) - 1) / 2;
    for (std::size_t p = 0; p < values.size(); ++p) values[p] -= slope * (static_cast<double>(p) - middle);
  }

  /// Of engines that round their activations or sines; relative.
  static constexpr double engine_noise = 1e-3;

  std::size_t d_;
  std::vector<double> covariance_;  // (head_dim, head_dim), lower half
  double unpaired_ = 0;             // variance if no channels pair
  double floor_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
