// Norms.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "golden_model.hpp"
#include "matrix.hpp"

namespace models {

/// What a norm does besides dividing by the root of the mean square.
struct NormKind {
  bool centers = false;    ///< subtracts the mean first (Cohere)
  double weight_from = 0;  ///< what is added to the weights (Gemma: 1)
};

class Norm {
 public:
  Norm() = default;
  Norm(const GoldenModel& model, const std::string& name, double epsilon, NormKind kind = {})
      : weight_(model.numbers(name + ".weight")), epsilon_(epsilon), kind_(kind) {}

  void apply(std::span<double> x) const {
    const auto n = static_cast<double>(x.size());
    double mean = 0, square = 0;
    if (kind_.centers)
      for (const double number : x) mean += number / n;
    for (double& number : x) number -= mean;
    for (const double number : x) square += number * number / n;
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] *= (kind_.weight_from + weight_[i]) / std::sqrt(square + epsilon_);
  }

  Matrix operator()(Matrix x) const {
    for (std::size_t i = 0; i < x.rows; ++i) apply(x.row(i));
    return x;
  }

 private:
  Vector weight_;
  double epsilon_ = 0;
  NormKind kind_;
};

}  // namespace models
