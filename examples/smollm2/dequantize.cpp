#include "dequantize.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "byte_reader.hpp"
#include "gguf_error.hpp"

namespace smollm2 {
namespace {

using Decoder = void (*)(std::span<const std::byte> block, std::span<float> out);

float half_at(std::span<const std::byte> block, std::size_t offset) {
  return half_to_float(load<std::uint16_t>(block.subspan(offset)));
}

void decode_f32(std::span<const std::byte> block, std::span<float> out) { out[0] = load<float>(block); }

void decode_f16(std::span<const std::byte> block, std::span<float> out) { out[0] = half_at(block, 0); }

void decode_bf16(std::span<const std::byte> block, std::span<float> out) {
  out[0] = bfloat16_to_float(load<std::uint16_t>(block));
}

constexpr std::uint16_t minus_zero = 0x8000;

CodedBlock q8_0(std::span<const std::byte> block) {
  CodedBlock out{load<std::uint16_t>(block), minus_zero, {}};
  std::memcpy(out.codes.data(), block.data() + 2, CodedBlock::size);
  return out;
}

/// The low halves of the bytes are the first codes. `bias` is what the file has added to them.
void read_nibbles(std::span<const std::byte, CodedBlock::size / 2> bytes, int bias, CodedBlock& out) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const int byte = std::to_integer<int>(bytes[i]);
    out.codes[i] = static_cast<std::int8_t>((byte & 0xf) - bias);
    out.codes[i + bytes.size()] = static_cast<std::int8_t>((byte >> 4) - bias);
  }
}

CodedBlock q4_0(std::span<const std::byte> block) {
  CodedBlock out{load<std::uint16_t>(block), minus_zero, {}};
  read_nibbles(block.subspan<2, CodedBlock::size / 2>(), 8, out);
  return out;
}

CodedBlock q4_1(std::span<const std::byte> block) {
  CodedBlock out{load<std::uint16_t>(block), load<std::uint16_t>(block.subspan(2)), {}};
  read_nibbles(block.subspan<4, CodedBlock::size / 2>(), 0, out);
  return out;
}

template <CodedBlock (*Read)(std::span<const std::byte>)>
void decode_block(std::span<const std::byte> bytes, std::span<float> out) {
  const CodedBlock block = Read(bytes);
  const float scale = half_to_float(block.scale), offset = half_to_float(block.offset);
  for (std::size_t i = 0; i < CodedBlock::size; ++i)
    out[i] = CodedBlock::number(scale, block.codes[i], offset);
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
      return decode_block<q8_0>;
    case GgmlType::q4_0:
      return decode_block<q4_0>;
    case GgmlType::q4_1:
      return decode_block<q4_1>;
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

bool is_coded(GgmlType type) {
  return type == GgmlType::q8_0 || type == GgmlType::q4_0 || type == GgmlType::q4_1;
}

CodedBlock read_block(GgmlType type, std::span<const std::byte> bytes) {
  if (type == GgmlType::q8_0) return q8_0(bytes);
  return type == GgmlType::q4_0 ? q4_0(bytes) : q4_1(bytes);
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
