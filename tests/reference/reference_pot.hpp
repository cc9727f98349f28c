// A pot that keeps every raw key in double precision and every record in a struct, and copies to distil.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/pot/entries.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"

namespace reference {

struct Item {
  std::vector<double> raw_key;  // before RoPE
  std::vector<float> value;
  infinipot::Entry entry;
  std::uint32_t survived = 0;
};

class Pot {
 public:
  Pot(const infinipot::Shape& shape, infinipot::Granularity granularity)
      : shape_(shape), granularity_(granularity), heads_(shape.layers * shape.kv_heads) {}

  std::vector<Item>& head(std::size_t layer, std::size_t kv_head) {
    return heads_[layer * shape_.kv_heads + kv_head];
  }

  std::size_t size() const { return heads_.front().size(); }

  void truncate(std::size_t size) {
    for (auto& head : heads_)
      if (head.size() > size) head.resize(size);
  }

  void keep(const infinipot::Selection& kept) {
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
        std::vector<Item> next;
        for (const infinipot::Index i : kept.lane(lane(layer, h))) {
          next.push_back(head(layer, h).at(i));
          ++next.back().survived;
        }
        head(layer, h) = next;
      }
  }

  /// Spelled out instead of asking the library.
  std::size_t lane(std::size_t layer, std::size_t kv_head) const {
    if (granularity_ == infinipot::Granularity::head) return layer * shape_.kv_heads + kv_head;
    return granularity_ == infinipot::Granularity::layer ? layer : 0;
  }

 private:
  infinipot::Shape shape_;
  infinipot::Granularity granularity_;
  std::vector<std::vector<Item>> heads_;
};

}  // namespace reference
