// A policy that keeps what a golden file says.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "golden_model.hpp"
#include "infinipot/policy.hpp"

namespace models {

/// Watches what its catalyst attends to, and chooses by the file alone.
class GoldenPolicy {
 public:
  explicit GoldenPolicy(const GoldenModel& golden)
      : catalyst_(golden.at("catalyst").get<std::vector<infinipot::Token>>()),
        limit_(golden.at("capacity").get<std::size_t>() - catalyst_.size()),
        read_between_(limit_ - golden.at("keep").get<std::size_t>()) {
    for (const auto& each : golden.at("distillations"))
      kept_.push_back(each.at("kept").get<std::vector<std::vector<std::size_t>>>());
  }

  std::string_view name() const noexcept { return "golden"; }
  bool uses_nuc() const noexcept { return true; }
  infinipot::Reduce reduce() const noexcept { return infinipot::Reduce::sum; }
  std::size_t longest_probe() const noexcept { return catalyst_.size(); }

  std::span<const infinipot::Token> probe(std::size_t i,
                                          const infinipot::ProbeContext& /*context*/) const noexcept {
    return i == 0 ? std::span(catalyst_) : std::span<const infinipot::Token>();
  }

  void score(std::size_t /*rule*/, const infinipot::ScoreView& view, std::span<float> scores) const noexcept {
    std::ranges::fill(scores, 0.0F);
    const std::size_t read = static_cast<std::size_t>(view.position(view.size() - 1)) + 1;
    for (const std::size_t t : kept_[(read - limit_) / read_between_][view.first_head()]) scores[t] = 1;
  }

 private:
  std::vector<infinipot::Token> catalyst_;
  std::size_t limit_, read_between_;
  std::vector<std::vector<std::vector<std::size_t>>> kept_;  // (distillations, lanes): indices
};

}  // namespace models
