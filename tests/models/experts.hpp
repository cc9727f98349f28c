// Mixtures of experts, each a gated feed-forward network.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "feed_forward.hpp"
#include "golden_model.hpp"
#include "matrix.hpp"

namespace models {

/// An expert and the weight of what it says.
struct Chosen {
  std::size_t expert;
  double weight;
};

/// Which experts a token goes to, from the router's logits.
using Router = std::function<std::vector<Chosen>(std::span<const double>)>;

/// The chosen experts' outputs, weighted, and that of the shared one, if `shared_gate` has rows times the
/// sigmoid of what that makes of the token.
class Experts final : public Block {
 public:
  Experts(const GoldenModel& model, const std::string& name, Router router,
          std::unique_ptr<GatedFeedForward> shared, Linear shared_gate = {})
      : gate_(model.linear(name + ".gate")),
        router_(std::move(router)),
        experts_(experts(model, name + ".experts")),
        shared_(std::move(shared)),
        shared_gate_(std::move(shared_gate)) {}

  Matrix run(const Pass& /*pass*/, const Matrix& x) override {
    Matrix y = (*shared_)(x);
    const Matrix logits = gate_(x), open = shared_gate_(x);
    for (std::size_t i = 0; i < x.rows; ++i) {
      for (double& number : y.row(i)) number *= open.columns == 0 ? 1 : sigmoid(open.row(i)[0]);
      const Matrix token(1, x.columns, Vector(x.row(i).begin(), x.row(i).end()));
      for (const Chosen& chosen : router_(logits.row(i))) {
        const Matrix out = (*experts_[chosen.expert])(token);
        for (std::size_t k = 0; k < x.columns; ++k) y.row(i)[k] += chosen.weight * out.values[k];
      }
    }
    return y;
  }

 private:
  /// gate_up_proj is (experts, 2 * inner, width), gates first; down_proj (experts, width, inner).
  static std::vector<std::unique_ptr<GatedFeedForward>> experts(const GoldenModel& model,
                                                                const std::string& name) {
    const std::vector<Matrix> both = parts(model, name + ".gate_up_proj"),
                              down = parts(model, name + ".down_proj");
    std::vector<std::unique_ptr<GatedFeedForward>> all;
    for (std::size_t i = 0; i < both.size(); ++i) {
      const Linear rows{both[i]};
      const std::size_t inner = both[i].rows / 2;
      all.push_back(std::make_unique<GatedFeedForward>(rows.part(0, inner), rows.part(inner, inner),
                                                       Linear{down[i]}, silu));
    }
    return all;
  }

  static std::vector<Matrix> parts(const GoldenModel& model, const std::string& name) {
    const std::vector<std::size_t> size = model.at("weights").at(name);
    const Vector numbers = model.numbers(name);
    std::vector<Matrix> all;
    for (auto part = numbers.begin(); part != numbers.end();) {
      const auto end = part + static_cast<std::ptrdiff_t>(size[1] * size[2]);
      all.emplace_back(size[1], size[2], Vector(part, end));
      part = end;
    }
    return all;
  }

  Linear gate_;
  Router router_;
  std::vector<std::unique_ptr<GatedFeedForward>> experts_;
  std::unique_ptr<GatedFeedForward> shared_;
  Linear shared_gate_;
};

/// Qwen3-Next: the likeliest by softmax.
inline Router softmax_router(const GoldenModel& model) {
  return [count = model.size("num_experts_per_tok"),
          normed = model.config("norm_topk_prob").get<bool>()](std::span<const double> logits) {
    std::vector<Chosen> chosen;
    double all = 0, sum = 0;
    for (const double logit : logits) all += std::exp(logit);
    for (const std::size_t expert : largest(logits, count)) {
      chosen.push_back({expert, std::exp(logits[expert]) / all});
      sum += chosen.back().weight;
    }
    for (Chosen& each : chosen) each.weight /= normed ? sum : 1;
    return chosen;
  };
}

/// DeepSeek V3: from the best groups, a group's merit being that of its two best experts. What balances the
/// experts has a say in which are chosen, not in their weights.
class GroupedRouter {
 public:
  GroupedRouter(const GoldenModel& model, const std::string& name)
      : balance_(model.numbers(name + ".gate.e_score_correction_bias")),
        groups_(model.size("n_group")),
        groups_used_(model.size("topk_group")),
        count_(model.size("num_experts_per_tok")),
        normed_(model.config("norm_topk_prob").get<bool>()),
        factor_(model.number("routed_scaling_factor")) {}

  std::vector<Chosen> operator()(std::span<const double> logits) const {
    Vector merits = balance_;
    for (std::size_t i = 0; i < merits.size(); ++i) merits[i] += sigmoid(logits[i]);
    const std::size_t size = merits.size() / groups_;
    Vector of_groups;
    for (std::size_t group = 0; group < groups_; ++group) {
      const auto members = std::span(merits).subspan(group * size, size);
      const auto best = largest(members, 2);
      of_groups.push_back(members[best[0]] + members[best[1]]);
    }
    Vector open(merits.size(), -std::numeric_limits<double>::infinity());
    for (const std::size_t group : largest(of_groups, groups_used_))
      std::copy_n(merits.begin() + static_cast<std::ptrdiff_t>(group * size), size,
                  open.begin() + static_cast<std::ptrdiff_t>(group * size));
    std::vector<Chosen> chosen;
    double sum = 0;
    for (const std::size_t expert : largest(open, count_)) {
      chosen.push_back({expert, sigmoid(logits[expert])});
      sum += chosen.back().weight;
    }
    for (Chosen& each : chosen) each.weight *= factor_ / (normed_ ? sum : 1);
    return chosen;
  }

 private:
  Vector balance_;
  std::size_t groups_, groups_used_, count_;
  bool normed_;
  double factor_;
};

}  // namespace models
