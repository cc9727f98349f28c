// Scores and selection, slow and obvious, in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/cap/attention_form.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/selector.hpp"
#include "infinipot/policy/smooth.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/shape.hpp"
#include "reference/reference_element.hpp"

namespace reference {

using infinipot::detail::is_minus_infinity;
using infinipot::detail::is_nan;

/// Unit roundoff of float: one rounding changes x by at most |x| * unit.
inline constexpr double unit = 0x1p-24;
// Not constants of the compiler, which with -ffast-math takes them for impossible.
inline const double nan = infinipot::detail::quiet_nan<double>();
inline const double infinity =
    infinipot::detail::float_of_bits<double>(infinipot::detail::infinity_bits<double>);

// --- NuC ---------------------------------------------------------------------------------------------------

inline double log_sum_exp(std::span<const float> logits) {
  double top = -infinity;
  for (const float x : logits) {
    if (is_nan(x)) return nan;
    top = std::max(top, static_cast<double>(x));
  }
  if (!infinipot::detail::is_finite(top)) return nan;
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
  return top + std::log(sum);
}

inline double nuc(std::span<const float> logits, infinipot::Token token) {
  return log_sum_exp(logits) - static_cast<double>(logits[static_cast<std::size_t>(token)]);
}

// --- CaP ---------------------------------------------------------------------------------------------------

/// Attention scoring of one kv head, everything contiguous.
struct CapCase {
  infinipot::Shape shape;
  std::size_t kv_head = 0;
  std::size_t first = 0;       // position of the first query
  std::size_t count = 0;       // queries
  std::vector<float> queries;  // (count, query_heads, head_dim)
  std::vector<float> keys;     // (first + count, head_dim)
  double scale = 0;            // 0: 1 / sqrt(head_dim)
  double soft_cap = 0;
  std::vector<float> sinks = {};                                                   // (query_heads), or none
  std::function<double(std::size_t head, std::size_t query, std::size_t t)> bias;  // may be empty

  std::size_t entries() const { return first + count; }
};

struct Scored {
  std::vector<double> value;
  std::vector<double> tolerance;  // how far float arithmetic may be off, see attention()
};

/// What query i of one query head pays to every entry.
///
/// The tolerance: a logit is a dot product of d floats, off by at most (d + 4) * unit * sum |scale * q * k|
/// (d products and d additions, the rounding of scale and of scale * q); soft cap and bias add some roundings
/// of what they handle. A softmax forgives a common error, so that an error e of single logits is one of 2 e,
/// relative, in a probability. With x = logit - top: the subtraction is off by unit |x|, the exponential by
/// unit (3 + 1.5 |x|), once for the entry and once, on average (sum p |x| <= log n), for the sum; sums of 64
/// exponentials, the sum of those sums, division and product: 64 + n / 64 + 4 roundings. Below exp(-87) the
/// kernel has 0. A learned sink is an exact logit: one more addend of the sum.
inline Scored attention(const CapCase& c, std::size_t head, std::size_t i) {
  const std::size_t d = c.shape.head_dim, seen = c.first + i + 1;
  const double scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(d));
  std::vector<double> logits(seen);
  double error = 0;
  for (std::size_t t = 0; t < seen; ++t) {
    double dot = 0, magnitude = 0;
    for (std::size_t k = 0; k < d; ++k) {
      const double term = scale * static_cast<double>(c.queries[(i * c.shape.query_heads + head) * d + k]) *
                          static_cast<double>(c.keys[t * d + k]);
      dot += term;
      magnitude += std::abs(term);
    }
    const double bias = c.bias ? c.bias(head, c.first + i, t) : 0;
    logits[t] = -infinity;
    if (is_minus_infinity(bias)) continue;  // hidden, even if its key is NaN
    logits[t] = (c.soft_cap != 0 ? c.soft_cap * std::tanh(dot / c.soft_cap) : dot) + bias;
    error = std::max(error, unit * (static_cast<double>(d + 4) * magnitude + 8 * std::abs(c.soft_cap) +
                                    4 * std::abs(bias)));
  }
  double top = -infinity;
  bool bad = false;
  for (const double logit : logits) {
    bad = bad || is_nan(logit);
    top = std::max(top, logit);
  }
  Scored result{std::vector<double>(c.entries(), 0), std::vector<double>(c.entries(), 0)};
  if (!bad && is_minus_infinity(top)) return result;  // everything is hidden
  const double sink = c.sinks.empty() ? -infinity : static_cast<double>(c.sinks[head]);
  bad = bad || is_nan(sink) || sink == infinity;
  top = std::max(top, sink);
  double sum = std::exp(sink - top);
  for (const double logit : logits) sum += std::exp(logit - top);
  const auto n = static_cast<double>(seen + 1);
  const double common = std::expm1(2 * error) + unit * (64 + n / 64 + 4 + 6 + 2.5 * std::log(n));
  for (std::size_t t = 0; t < seen; ++t) {
    if (is_minus_infinity(logits[t])) continue;
    result.value[t] = bad ? nan : std::exp(logits[t] - top) / sum;
    result.tolerance[t] =
        (common + unit * 2.5 * std::abs(logits[t] - top)) * result.value[t] + std::exp(-86.9);
  }
  return result;
}

/// CaP of all entries, on top of `before`.
inline Scored cap(const CapCase& c, infinipot::Reduce reduce, std::span<const float> before) {
  Scored total{{before.begin(), before.end()}, std::vector<double>(before.size(), 0)};
  const std::size_t group = c.shape.query_heads / c.shape.kv_heads;
  for (std::size_t head = c.kv_head * group; head < (c.kv_head + 1) * group; ++head)
    for (std::size_t i = 0; i < c.count; ++i) {
      const Scored paid = attention(c, head, i);
      for (std::size_t t = 0; t < c.entries(); ++t) {
        double& value = total.value[t];
        double& tolerance = total.tolerance[t];
        if (reduce == infinipot::Reduce::sum) {
          value += paid.value[t];
          tolerance += paid.tolerance[t] + unit * std::abs(value);  // one addition each, at most
        } else {
          if (is_nan(paid.value[t]) || (!is_nan(value) && paid.value[t] > value)) value = paid.value[t];
          tolerance = std::max(tolerance, paid.tolerance[t]);
        }
      }
    }
  return total;
}

// --- Smoothing ---------------------------------------------------------------------------------------------

template <class Real>
std::vector<Real> smooth(const std::vector<Real>& scores, const std::vector<std::uint8_t>& marks,
                         const infinipot::Smoothing& smoothing) {
  const auto size = static_cast<long long>(scores.size());
  const auto reach = static_cast<long long>(smoothing.kernel / 2),
             lag = static_cast<long long>(smoothing.lag);
  std::vector<Real> out = scores;
  for (long long t = 0; t < size; ++t) {
    if (marks[static_cast<std::size_t>(t)] != 0) continue;
    std::vector<Real> near, numbers;
    for (long long i = std::max(0LL, t - lag - reach); i <= std::min(size - 1, t - lag + reach); ++i) {
      if (marks[static_cast<std::size_t>(i)] != 0) continue;
      near.push_back(scores[static_cast<std::size_t>(i)]);
      if (!is_nan(near.back())) numbers.push_back(near.back());
    }
    Real& pooled = out[static_cast<std::size_t>(t)];
    if (smoothing.pooling == infinipot::Pooling::max) {
      if (!numbers.empty()) pooled = *std::max_element(numbers.begin(), numbers.end());
    } else {
      Real sum = 0;
      for (const Real x : near) sum += x;
      pooled = sum / static_cast<Real>(smoothing.kernel);
    }
  }
  return out;
}

// --- Selection ---------------------------------------------------------------------------------------------

/// Indices of all scores, best first: NaN last, equal ones in order.
inline std::vector<std::size_t> ranking(const std::vector<float>& scores) {
  std::vector<std::size_t> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (is_nan(scores[a])) return false;
    return is_nan(scores[b]) || exact(scores[a]) > exact(scores[b]);
  });
  return order;
}

/// A scope during a selection: lanes that must agree, and the entries that all of them hold.
struct Scope {
  std::vector<std::size_t> lanes;
  std::vector<std::uint64_t> positions;     // ascending
  std::vector<std::uint8_t> protected_any;  // in one lane at least
};

struct Selected {
  std::vector<std::vector<infinipot::Index>> lanes;
  std::size_t nans = 0;
};

/// Protection and rules, in sets of text positions. `score(rule, scope)` gives one score per position of the
/// scope.
class Selection {
 public:
  using Score = std::function<std::vector<float>(std::size_t rule, const Scope& scope)>;

  Selection(const infinipot::Shape& shape, infinipot::Granularity granularity,
            const infinipot::EntryTable& table, std::size_t keep, const infinipot::Protection& protection)
      : shape_(shape), granularity_(granularity), table_(table), keep_(keep) {
    for (std::size_t lane = 0; lane < table.lanes(); ++lane) {
      std::set<std::uint64_t> safe;
      for (std::size_t t = 0; t < table.size(); ++t)
        if (t < protection.sinks || t + protection.recent >= table.size() || table.pinned(lane)[t] != 0)
          safe.insert(table.positions(lane)[t]);
      protected_.push_back(safe);
      taken_.push_back(safe);
    }
  }

  Selected run(std::span<const infinipot::Rule> rules, const Score& score) {
    Selected result;
    for (std::size_t rule = 0; rule < rules.size(); ++rule)
      for (const Scope& scope : scopes(rules[rule].scope)) {
        const std::size_t wanted = budget(scope, rules[rule].share, rule + 1 == rules.size());
        if (wanted == 0) continue;
        const auto scores = score(rule, scope);
        for (std::size_t i = 0; i < scores.size(); ++i)
          if (scope.protected_any[i] == 0 && is_nan(scores[i])) ++result.nans;
        take(scope,
             smooth(smooth(scores, scope.protected_any, rules[rule].smoothing), scope.protected_any,
                    rules[rule].then),
             wanted);
      }
    for (std::size_t lane = 0; lane < taken_.size(); ++lane) result.lanes.push_back(filled(lane));
    return result;
  }

 private:
  /// Spelled out instead of asking the library: the scope of a store's lane.
  std::size_t scope_of(std::size_t lane, infinipot::Granularity scope) const {
    using infinipot::Granularity;
    if (granularity_ == Granularity::shared || scope == Granularity::shared) return 0;
    if (granularity_ == Granularity::head && scope == Granularity::layer) return lane / shape_.kv_heads;
    return lane;
  }

  std::vector<Scope> scopes(infinipot::Granularity granularity) const {
    std::map<std::size_t, Scope> found;
    for (std::size_t lane = 0; lane < taken_.size(); ++lane)
      found[scope_of(lane, granularity)].lanes.push_back(lane);
    std::vector<Scope> result;
    for (auto& [key, scope] : found) {
      std::map<std::uint64_t, std::size_t> holders;
      for (const std::size_t lane : scope.lanes)
        for (const std::uint64_t position : table_.positions(lane)) ++holders[position];
      for (const auto& [position, lanes] : holders) {
        if (lanes < scope.lanes.size()) continue;
        scope.positions.push_back(position);
        scope.protected_any.push_back(in_any(protected_, scope, position) ? 1 : 0);
      }
      result.push_back(scope);
    }
    return result;
  }

  static bool in_any(const std::vector<std::set<std::uint64_t>>& sets, const Scope& scope,
                     std::uint64_t position) {
    return std::any_of(scope.lanes.begin(), scope.lanes.end(),
                       [&](std::size_t lane) { return sets[lane].contains(position); });
  }

  std::size_t budget(const Scope& scope, double share, bool last) const {
    std::size_t free = keep_, left = keep_;
    for (const std::size_t lane : scope.lanes) {
      free = std::min(free, keep_ - protected_[lane].size());
      left = std::min(left, keep_ - taken_[lane].size());
    }
    return last ? left : std::min(left, static_cast<std::size_t>(share * static_cast<double>(free)));
  }

  void take(const Scope& scope, const std::vector<float>& scores, std::size_t wanted) {
    std::vector<std::uint64_t> chosen;
    for (const std::size_t i : ranking(scores))
      if (chosen.size() < wanted && !in_any(taken_, scope, scope.positions[i]))
        chosen.push_back(scope.positions[i]);
    for (const std::size_t lane : scope.lanes) taken_[lane].insert(chosen.begin(), chosen.end());
  }

  std::vector<infinipot::Index> filled(std::size_t lane) {
    const auto positions = table_.positions(lane);
    for (std::size_t t = table_.size(); t-- > 0 && taken_[lane].size() < keep_;)
      taken_[lane].insert(positions[t]);
    std::vector<infinipot::Index> indices;
    for (std::size_t t = 0; t < table_.size(); ++t)
      if (taken_[lane].contains(positions[t])) indices.push_back(static_cast<infinipot::Index>(t));
    return indices;
  }

  infinipot::Shape shape_;
  infinipot::Granularity granularity_;
  const infinipot::EntryTable& table_;
  std::size_t keep_;
  std::vector<std::set<std::uint64_t>> protected_;  // by lane, positions in the text
  std::vector<std::set<std::uint64_t>> taken_;      // those and what was chosen
};

}  // namespace reference
