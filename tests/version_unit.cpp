// Compiled several times into one program, for different processors and with other flags (version_test.cpp).
#include "version_unit.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "infinipot/cap.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/nuc.hpp"

static_assert(INFINIPOT_PACKET == infinipot::detail::packet_size,
              "the namespace is named after Eigen's packets");

namespace {

using namespace infinipot;

/// Numbers of which no two are alike.
std::vector<float> numbers(std::size_t n, double spread) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i)
    x[i] = static_cast<float>(spread * std::sin(1.7 * static_cast<double>(i)));
  return x;
}

double exp_error() {
  double worst = 0;
  for (float x = -20; x < 0; x += 0.01F) {
    float result[detail::packet_size];
    detail::store(result, detail::exp_to_88(detail::broadcast(x)));
    worst = std::max(worst, std::fabs(static_cast<double>(result[0]) / std::exp(static_cast<double>(x)) - 1));
  }
  return worst;
}

double nuc_error() {
  const auto logits = numbers(5000, 9);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  const double truth = std::log(sum) - static_cast<double>(logits[7]);
  return std::fabs(static_cast<double>(nuc(logits, 7)) / truth - 1);
}

/// What one query of one head pays to each of 100 keys.
std::vector<float> cap(const std::vector<float>& query, const std::vector<float>& keys) {
  std::vector<float> scores(100);
  const auto rows = [&](std::size_t from, std::size_t, float*) {
    return FloatRows{keys.data() + from * 16, 16};
  };
  CapScorer({1, 1, 1, 16}, 100).accumulate({query.data(), 1, 16, 16}, 0, 99, rows, {}, Reduce::sum, scores);
  return scores;
}

double cap_error() {
  const auto query = numbers(16, 1), keys = numbers(1600, 2);
  std::vector<double> truth(100);
  double sum = 0, worst = 0;
  for (std::size_t t = 0; t < 100; ++t) {
    double dot = 0;
    for (std::size_t k = 0; k < 16; ++k)
      dot += static_cast<double>(query[k]) * static_cast<double>(keys[t * 16 + k]);
    sum += truth[t] = std::exp(dot / 4);
  }
  const auto scores = cap(query, keys);
  for (std::size_t t = 0; t < 100; ++t)
    worst = std::max(worst, std::fabs(static_cast<double>(scores[t]) * sum / truth[t] - 1));
  return worst;
}

bool sees_nan() {
  auto logits = numbers(5000, 9), keys = numbers(1600, 2);
  logits[3000] = keys[500] = detail::quiet_nan<float>();
  const auto scores = cap(numbers(16, 1), keys);
  return detail::is_nan(nuc(logits, 7)) && std::all_of(scores.begin(), scores.end(), detail::is_nan<float>);
}

}  // namespace

Unit VERSION_UNIT() {
  return {detail::packet_size, reinterpret_cast<void (*)()>(&infinipot::log_sum_exp),
          exp_error(),         cap_error(),
          nuc_error(),         sees_nan()};
}
