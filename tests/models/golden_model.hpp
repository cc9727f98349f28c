// A model of golden/models (see reference/models/frame.py): its config, its weights, and what came of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "matrix.hpp"
#include "reference/golden.hpp"

namespace models {

/// splitmix64 of FNV-1a of the name plus the index, as numbers in -0.5 .. 0.5, those of norms around 1.
inline Vector golden_weights(const std::string& name, std::size_t count) {
  std::uint64_t seed = 14695981039346656037U;
  for (const char letter : name) seed = (seed ^ static_cast<unsigned char>(letter)) * 1099511628211U;
  const double center = name.find("norm") == std::string::npos ? 0 : 1;
  Vector numbers(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t x = seed + i + 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
    x ^= x >> 31U;
    numbers[i] = static_cast<double>(x >> 40U) / 16777216 - 0.5 + center;
  }
  return numbers;
}

class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name) : file_(reference::golden("models/" + name + ".json")) {}

  /// A member of the file.
  const nlohmann::json& at(const std::string& key) const { return file_.at(key); }

  /// The file without a member.
  GoldenModel without(const std::string& key) && {
    file_.erase(key);
    return std::move(*this);
  }
  bool lacks(const std::string& key) const { return !file_.contains(key); }

  /// A member of the config, under transformers' name.
  const nlohmann::json& config(const std::string& key) const { return file_.at("config").at(key); }
  std::size_t size(const std::string& key) const { return config(key).get<std::size_t>(); }
  double number(const std::string& key) const { return config(key).get<double>(); }

  /// Logits after some tokens of the stream.
  std::map<std::size_t, std::vector<double>> logits() const {
    std::map<std::size_t, std::vector<double>> rows;
    for (const auto& [row, logits] : file_.at("logits").items())
      rows[std::stoul(row)] = logits.get<std::vector<double>>();
    return rows;
  }

  /// Where the config has none, heads share the width.
  std::size_t head_dim() const {
    if (file_.at("config").contains("head_dim")) return size("head_dim");
    return size("hidden_size") / size("num_attention_heads");
  }

  bool has(const std::string& weight) const { return file_.at("weights").contains(weight); }

  /// The numbers of a weight of any number of dimensions.
  Vector numbers(const std::string& name) const {
    std::size_t count = 1;
    for (const std::size_t size : shape(name)) count *= size;
    used_.insert(name);
    return golden_weights(name, count);
  }

  /// The weight of two dimensions, or of one as a row.
  Matrix matrix(const std::string& name) const {
    const std::vector<std::size_t> size = shape(name);
    if (size.size() > 2) throw std::logic_error(name + " is no matrix");
    return size.size() == 1 ? Matrix(1, size[0], numbers(name)) : Matrix(size[0], size[1], numbers(name));
  }

  /// The weights `name`.weight, and `name`.bias if there is one.
  Linear linear(const std::string& name) const {
    return {matrix(name + ".weight"), has(name + ".bias") ? numbers(name + ".bias") : Vector()};
  }

  /// Weights that nobody has asked for.
  std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (const auto& [name, size] : file_.at("weights").items())
      if (!used_.contains(name)) names.push_back(name);
    return names;
  }

 private:
  std::vector<std::size_t> shape(const std::string& name) const { return file_.at("weights").at(name); }

  nlohmann::json file_;
  mutable std::set<std::string> used_;
};

}  // namespace models
