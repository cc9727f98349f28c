// RoPE as an engine has it, in double precision, and from a config of transformers.
#pragma once

#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "block.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/rope/rope_scaling.hpp"
#include "matrix.hpp"

namespace models {

/// Turns a key or query by an angle for each pair.
inline void turn(std::span<double> x, const infinipot::Rope& rope, std::span<const double> angles) {
  const bool halves = rope.pairing == infinipot::Pairing::half_split;
  for (std::size_t i = 0; i < angles.size(); ++i) {
    double& a = x[rope.first_channel + (halves ? i : 2 * i)];
    double& b = x[rope.first_channel + (halves ? i + angles.size() : 2 * i + 1)];
    const double cos = rope.attention_factor * std::cos(angles[i]);
    const double sin = rope.attention_factor * std::sin(angles[i]);
    const double turned = a * cos - b * sin;
    b = a * sin + b * cos;
    a = turned;
  }
}

/// How the keys and queries of a layer are turned.
class Rotation {
 public:
  explicit Rotation(infinipot::Rope rope) : rope_(std::move(rope)) {}
  Rotation(const Rotation&) = delete;
  Rotation& operator=(const Rotation&) = delete;
  virtual ~Rotation() = default;

  const infinipot::Rope& rope() const { return rope_; }

  /// Turns a key or query for what is a token's own, wherever it stands (M-RoPE of pictures). Comes before
  /// the turn for its position.
  virtual void prepare(const Pass& /*pass*/, std::size_t /*token*/, std::span<double> /*head*/) const {}

  /// For a position: the token's index in the pot, or in the stream where the layer goes on with that.
  Vector angles(double position) const {
    Vector angles = rope_.frequencies;
    for (double& angle : angles) angle *= position;
    return angles;
  }

 private:
  infinipot::Rope rope_;
};

/// The Rope of `rope_parameters`. Long texts only: LongRoPE takes its long factors.
inline infinipot::Rope rope_of(const nlohmann::json& parameters, std::size_t rotary_dim,
                               infinipot::Pairing pairing = infinipot::Pairing::half_split) {
  const std::string kind = parameters.at("rope_type");
  const double theta = parameters.at("rope_theta");
  const auto number = [&](const char* key) { return parameters.at(key).get<double>(); };
  const auto context = [&] { return parameters.at("original_max_position_embeddings").get<std::size_t>(); };
  if (kind == "default") return infinipot::plain_rope(rotary_dim, theta, pairing);
  if (kind == "linear") return infinipot::linear_rope(rotary_dim, theta, {number("factor")}, pairing);
  if (kind == "llama3") {
    const infinipot::Llama3Scaling scaling{number("factor"), number("low_freq_factor"),
                                           number("high_freq_factor"), context()};
    return infinipot::llama3_rope(rotary_dim, theta, scaling, pairing);
  }
  if (kind == "longrope") {
    const infinipot::LongRopeScaling scaling{
        .factors = parameters.at("long_factor"), .factor = number("factor"), .original_context = context()};
    return infinipot::long_rope(rotary_dim, theta, scaling, pairing);
  }
  if (kind != "yarn") throw std::logic_error("no RoPE of type " + kind);
  infinipot::YarnScaling scaling{.factor = number("factor"), .original_context = context()};
  scaling.beta_fast = parameters.value("beta_fast", scaling.beta_fast);
  scaling.beta_slow = parameters.value("beta_slow", scaling.beta_slow);
  scaling.mscale = parameters.value("mscale", scaling.mscale);
  scaling.mscale_all_dim = parameters.value("mscale_all_dim", scaling.mscale_all_dim);
  scaling.truncate = parameters.value("truncate", scaling.truncate);
  return infinipot::yarn_rope(rotary_dim, theta, scaling, pairing);
}

}  // namespace models
