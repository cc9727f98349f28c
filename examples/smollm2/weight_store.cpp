#include "weight_store.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace smollm2 {
namespace {

infinipot::f16 half(std::uint16_t bits) { return std::bit_cast<infinipot::f16>(bits); }

std::uint16_t bits_of(infinipot::f16 half) { return std::bit_cast<std::uint16_t>(half); }

}  // namespace

void FloatStore::set_row(std::size_t output, GgmlType type, std::span<const std::byte> row) {
  std::array<float, 8 * CodedBlock::size> some;  // whole blocks of any type
  const std::size_t first = output / panel_width * inputs_;
  for (std::size_t i = 0; i < inputs_; i += some.size()) {
    const std::size_t count = std::min(some.size(), inputs_ - i);
    const std::size_t begin = row.size() * i / inputs_, end = row.size() * (i + count) / inputs_;
    dequantize(type, row.subspan(begin, end - begin), std::span(some).first(count));
    for (std::size_t j = 0; j < count; ++j) weights_.row(first + i + j)[output % panel_width] = some[j];
  }
}

void FloatStore::get_row(std::size_t output, std::span<float> weights) const noexcept {
  const std::size_t first = output / panel_width * inputs_;
  for (std::size_t i = 0; i < inputs_; ++i) weights[i] = weights_.view().row(first + i)[output % panel_width];
}

template <unsigned Bits>
void PackedStore<Bits>::set_row(std::size_t output, GgmlType type, std::span<const std::byte> row) {
  const std::size_t column = output % panel_width, bytes = block_layout(type)->bytes;
  for (std::size_t b = 0; b < blocks_per_panel(); ++b) {
    const CodedBlock coded = read_block(type, row.subspan(b * bytes, bytes));
    Block& block = blocks_[block_index(output, b)];
    block.scales[column] = half(coded.scale);
    block.offsets[column] = half(coded.offset);
    for (std::size_t word = 0; word < Block::words; ++word) {
      std::uint32_t bits = 0;
      for (std::size_t j = 0; j < Block::codes_per_word; ++j)
        bits |= static_cast<std::uint32_t>(coded.codes[word * Block::codes_per_word + j] + bias_)
                << (j * Bits);
      block.codes[word][column] = static_cast<std::int32_t>(bits);
    }
  }
}

template <unsigned Bits>
void PackedStore<Bits>::get_row(std::size_t output, std::span<float> weights) const noexcept {
  const std::size_t column = output % panel_width;
  for (std::size_t b = 0; b < blocks_per_panel(); ++b) {
    const Block& block = blocks_[block_index(output, b)];
    const float scale = half_to_float(bits_of(block.scales[column]));
    const float offset = half_to_float(bits_of(block.offsets[column]));
    for (std::size_t i = 0; i < CodedBlock::size; ++i) {
      const auto word = static_cast<std::uint32_t>(block.codes[i / Block::codes_per_word][column]);
      const std::uint32_t biased = (word >> (i % Block::codes_per_word * Bits)) & ((1U << Bits) - 1);
      const auto code = static_cast<std::int8_t>(static_cast<int>(biased) - bias_);
      weights[b * CodedBlock::size + i] = CodedBlock::number(scale, code, offset);
    }
  }
}

template class PackedStore<8>;
template class PackedStore<4>;

}  // namespace smollm2
