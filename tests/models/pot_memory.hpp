// Any of the library's pots as an engine's memory.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "block.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/queries.hpp"
#include "matrix.hpp"

namespace models {

template <class Pot>
class PotMemory final : public Memory {
 public:
  explicit PotMemory(Pot& pot) : pot_(pot) {}

  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, std::span<const double> projected,
             std::span<const double> turned, std::span<const double> value) override {
    const bool rotated = pot_.key_storage() == infinipot::KeyStorage::rotated;
    const std::vector<float> key = rounded(rotated ? turned : projected), row = rounded(value);
    pot_.write(layer, kv_head, entry, key.data(), row.data());
  }

  Matrix keys(std::size_t layer, std::size_t kv_head, std::size_t count) const override {
    const std::size_t channels = pot_.shape().head_dim;
    std::vector<float> tile(count * channels);
    return rows(pot_.key_rows(layer, kv_head, 0, count, tile.data()), count, channels);
  }

  Matrix values(std::size_t layer, std::size_t kv_head, std::size_t count) const override {
    const std::size_t channels = pot_.shape().value_channels();
    std::vector<float> tile(count * channels);
    return rows(pot_.value_rows(layer, kv_head, 0, count, tile.data()), count, channels);
  }

 private:
  static std::vector<float> rounded(std::span<const double> row) {
    std::vector<float> numbers;
    for (const double number : row) numbers.push_back(static_cast<float>(number));
    return numbers;
  }

  static Matrix rows(const infinipot::FloatRows& from, std::size_t count, std::size_t channels) {
    Matrix to(count, channels);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t k = 0; k < channels; ++k)
        to.row(i)[k] =
            from.data[static_cast<std::ptrdiff_t>(i) * from.stride + static_cast<std::ptrdiff_t>(k)];
    return to;
  }

  Pot& pot_;
};

}  // namespace models
