#include "dequantize.hpp"

#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>

#include "byte_reader.hpp"
#include "gguf_error.hpp"

namespace smollm2 {
namespace {

constexpr std::size_t quants_per_block = 32;

using Decoder = void (*)(std::span<const std::byte> block, std::span<float> out);

float half_at(std::span<const std::byte> block, std::size_t offset) {
  return half_to_float(load<std::uint16_t>(block.subspan(offset)));
}

void decode_f32(std::span<const std::byte> block, std::span<float> out) { out[0] = load<float>(block); }

void decode_f16(std::span<const std::byte> block, std::span<float> out) { out[0] = half_at(block, 0); }

void decode_bf16(std::span<const std::byte> block, std::span<float> out) {
  out[0] = bfloat16_to_float(load<std::uint16_t>(block));
}

void decode_q8_0(std::span<const std::byte> block, std::span<float> out) {
  const float scale = half_at(block, 0);
  const auto quants = block.subspan<2, quants_per_block>();
  for (std::size_t i = 0; i < quants_per_block; ++i) {
    out[i] = scale * static_cast<float>(static_cast<std::int8_t>(quants[i]));
  }
}

// A half's 11 significant bits times a 4-bit quant are exact in a float, so `scale * quant + offset`
// rounds once and a compiler that fuses it into one instruction changes no bit.
void decode_nibbles(std::span<const std::byte, quants_per_block / 2> quants, float scale, int bias,
                    float offset, std::span<float> out) {
  for (std::size_t i = 0; i < quants.size(); ++i) {
    const int byte = std::to_integer<int>(quants[i]);
    out[i] = scale * static_cast<float>((byte & 0xf) - bias) + offset;
    out[i + quants.size()] = scale * static_cast<float>((byte >> 4) - bias) + offset;
  }
}

void decode_q4_0(std::span<const std::byte> block, std::span<float> out) {
  const float scale = half_at(block, 0);
  // Minus zero as the offset keeps the sign of a zero product.
  decode_nibbles(block.subspan<2, quants_per_block / 2>(), scale, 8, -0.0F, out);
}

void decode_q4_1(std::span<const std::byte> block, std::span<float> out) {
  decode_nibbles(block.subspan<4, quants_per_block / 2>(), half_at(block, 0), 0, half_at(block, 2), out);
}

Decoder decoder_of(GgmlType type) {
  switch (type) {
    case GgmlType::f32:
      return decode_f32;
    case GgmlType::f16:
      return decode_f16;
    case GgmlType::bf16:
      return decode_bf16;
    case GgmlType::q8_0:
      return decode_q8_0;
    case GgmlType::q4_0:
      return decode_q4_0;
    case GgmlType::q4_1:
      return decode_q4_1;
  }
  const auto layout = block_layout(type);
  const std::string name =
      layout ? std::string(layout->name) : "number " + std::to_string(static_cast<std::uint32_t>(type));
  throw GgufError("tensor type " + name +
                  " cannot be dequantized; supported are F32, F16, BF16, Q8_0, Q4_0 and Q4_1");
}

}  // namespace

float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t rebiased = exponent == 0x1fU ? 0xffU : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (rebiased << 23) | (fraction << 13));
}

float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out) {
  const Decoder decode = decoder_of(type);
  const BlockLayout layout = *block_layout(type);
  const std::size_t count = out.size() / layout.values;
  if (out.size() % layout.values != 0 || blocks.size() % layout.bytes != 0 ||
      blocks.size() / layout.bytes != count) {
    throw std::invalid_argument("dequantize: " + std::to_string(blocks.size()) + " bytes of " +
                                std::string(layout.name) + " do not make " + std::to_string(out.size()) +
                                " numbers");
  }
  for (std::size_t i = 0; i < count; ++i) {
    decode(blocks.subspan(i * layout.bytes, layout.bytes), out.subspan(i * layout.values, layout.values));
  }
}

}  // namespace smollm2
