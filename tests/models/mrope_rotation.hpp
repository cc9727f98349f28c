// M-RoPE as an engine has it: Qwen2.5-VL, Qwen3-VL.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "block.hpp"
#include "infinipot/rope/mrope.hpp"
#include "matrix.hpp"
#include "rotation.hpp"

namespace models {

/// A token's three positions differ from its index in the pot as they differed from that in the stream, when
/// nothing had been dropped yet. A probe goes on as the last text did.
class MropeRotation final : public Rotation {
 public:
  /// The positions of the stream's first tokens; later ones go on as the last text did.
  MropeRotation(infinipot::Mrope mrope, std::vector<std::array<std::int64_t, 3>> positions)
      : Rotation(mrope.rope), axes_(std::move(mrope.axes)) {
    infinipot::MropePosition text;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const auto& [t, h, w] = positions[i];
      offsets_.push_back({t - at, h - at, w - at});
      if (t == h && t == w) text = offsets_.back();
      after_.push_back(text);
    }
  }

  void prepare(const Pass& pass, std::size_t token, std::span<double> head) const override {
    const infinipot::MropePosition offset = offset_of(pass, token);
    Vector angles = rope().frequencies;
    for (std::size_t i = 0; i < angles.size(); ++i) angles[i] *= static_cast<double>(offset[axes_[i]]);
    turn(head, {rope().pairing, rope().frequencies}, angles);
  }

 private:
  infinipot::MropePosition offset_of(const Pass& pass, std::size_t token) const {
    const auto at = static_cast<std::size_t>(pass.stream) + token;
    if (!pass.probe && at < offsets_.size()) return offsets_[at];
    const std::size_t end = std::min(pass.probe ? static_cast<std::size_t>(pass.stream) : at, after_.size());
    return end == 0 ? infinipot::MropePosition{} : after_[end - 1];
  }

  std::vector<infinipot::Axis> axes_;
  std::vector<infinipot::MropePosition> offsets_;  // of each token
  std::vector<infinipot::MropePosition> after_;    // of text that follows it
};

}  // namespace models
