#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace smollm2 {
namespace {

void require(bool valid, const char* setting, double value, const char* range) {
  if (valid) return;
  throw std::invalid_argument(std::string(setting) + " is " + std::to_string(value) + ", but must be " +
                              range);
}

// The first of the largest, whose comparison also passes over NaN.
std::size_t index_of_largest(std::span<const float> logits) {
  std::size_t best = logits.size();
  float largest = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > largest) {
      largest = logits[i];
      best = i;
    }
  }
  if (best == logits.size()) {
    throw std::invalid_argument("no token can be chosen from " + std::to_string(logits.size()) +
                                " logits: none is a number above -infinity");
  }
  return best;
}

}  // namespace

Sampler::Sampler(Settings settings) : settings_(settings), random_(settings.seed) {
  require(std::isfinite(settings.temperature) && settings.temperature >= 0, "temperature",
          settings.temperature, "finite and >= 0");
  require(settings.top_p > 0 && settings.top_p <= 1, "top_p", settings.top_p, "in (0, 1]");
}

std::int32_t Sampler::operator()(std::span<const float> logits) {
  const std::size_t best = index_of_largest(logits);
  if (settings_.temperature == 0) return static_cast<std::int32_t>(best);
  collect(logits, logits[best]);
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  if (settings_.top_p < 1) total = keep_nucleus(total);
  return draw(total);
}

void Sampler::collect(std::span<const float> logits, float largest) {
  candidates_.clear();
  candidates_.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double below = static_cast<double>(logits[i]) - static_cast<double>(largest);
    // Infinity minus itself is NaN, yet such an entry is as probable as the largest.
    const double weight = logits[i] == largest ? 1.0 : std::exp(below / settings_.temperature);
    if (weight > 0) candidates_.push_back({static_cast<std::int32_t>(i), logits[i], weight});
  }
}

bool Sampler::less_probable(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
}

// A heap yields the nucleus, usually few tokens, without sorting the whole vocabulary. Popping moves
// each most probable candidate past the heap's end, so the nucleus ends up at the back.
double Sampler::keep_nucleus(double total) {
  const double wanted = settings_.top_p * total;
  double kept = 0;
  auto heap_end = candidates_.end();
  std::make_heap(candidates_.begin(), heap_end, less_probable);
  while (heap_end != candidates_.begin() && kept < wanted) {
    std::pop_heap(candidates_.begin(), heap_end, less_probable);
    --heap_end;
    kept += heap_end->weight;
  }
  candidates_.erase(candidates_.begin(), heap_end);
  return kept;
}

std::int32_t Sampler::draw(double total) {
  // 53 random bits make a double in [0, 1); standard distributions differ between libraries.
  const double target = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  double passed = 0;
  for (const Candidate& candidate : candidates_) {
    passed += candidate.weight;
    if (target < passed) return candidate.id;
  }
  return candidates_.back().id;  // rounding left the target at the very end
}

}  // namespace smollm2
