#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace smollm2 {

/// Chooses the next token from a model's logits: the largest (temperature 0) or a random draw from the
/// most probable ones. A seed gives the same draws on every platform.
class Sampler {
 public:
  struct Settings {
    double temperature = 0;  ///< finite, >= 0; logits are divided by it before the softmax; 0 is greedy
    double top_p = 1;        ///< in (0, 1]: draw from the fewest tokens whose probabilities reach this
    std::uint64_t seed = 0;  ///< of the random draws; greedy sampling makes none
  };

  /// Throws std::invalid_argument naming a setting out of its range.
  explicit Sampler(Settings settings);

  /// Index of the chosen logit; of equal ones the lowest counts as the more probable. NaN and -infinity
  /// are never chosen; where there is +infinity, only such entries are. Throws std::invalid_argument
  /// when nothing can be chosen (empty, or all NaN or -infinity). Memory is kept from call to call.
  std::int32_t operator()(std::span<const float> logits);

 private:
  struct Candidate {
    std::int32_t id;
    float logit;
    double weight;  // relative to the most probable token's
  };

  static bool less_probable(const Candidate& a, const Candidate& b);
  void collect(std::span<const float> logits, float largest);
  double keep_nucleus(double total);
  std::int32_t draw(double total);

  Settings settings_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
};

}  // namespace smollm2
