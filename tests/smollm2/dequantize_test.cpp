#include "dequantize.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "test_files.hpp"

namespace smollm2 {
namespace {

using Bits = std::vector<std::uint32_t>;

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

Bits bits_of(std::span<const float> numbers) {
  Bits bits;
  for (const float number : numbers) bits.push_back(std::bit_cast<std::uint32_t>(number));
  return bits;
}

TEST(HalfToFloat, IsExactForEveryValue) {
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 0x1f);
    const int fraction = static_cast<int>(bits & 0x3ff);
    const float found = half_to_float(static_cast<std::uint16_t>(bits));
    EXPECT_EQ(std::signbit(found), (bits & 0x8000U) != 0) << bits;
    if (exponent == 31) {
      EXPECT_EQ(std::isinf(found), fraction == 0) << bits;
      EXPECT_EQ(std::isnan(found), fraction != 0) << bits;
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      EXPECT_EQ(std::fabs(found), expected) << bits;
    }
  }
}

TEST(Bfloat16ToFloat, IsTheUpperHalfOfAFloat) {
  EXPECT_EQ(bfloat16_to_float(0x3f80), 1.0F);
  EXPECT_EQ(bfloat16_to_float(0xc040), -3.0F);
  EXPECT_EQ(bfloat16_to_float(0x0001), std::ldexp(1.0F, -133));
  EXPECT_EQ(bfloat16_to_float(0x7f80), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(bfloat16_to_float(0x7fc0)));
}

// Quants 0..31 in ascending order; half the numbers of a 4-bit block sit in the low nibbles.
TEST(Dequantize, OrdersTheNumbersOfABlock) {
  std::vector<std::byte> block = from_hex("0038003c");  // scale 0.5, offset 1
  for (int i = 0; i < 16; ++i) block.push_back(static_cast<std::byte>(i | ((15 - i) << 4)));
  std::array<float, 32> out{};
  dequantize(GgmlType::q4_1, block, out);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 0.5F * static_cast<float>(i) + 1.0F);
    EXPECT_EQ(out[16 + i], 0.5F * static_cast<float>(15 - i) + 1.0F);
  }
  block.erase(block.begin() + 2, block.begin() + 4);
  dequantize(GgmlType::q4_0, block, out);
  EXPECT_EQ(out[0], -4.0F);
  EXPECT_EQ(out[16], 3.5F);

  block = from_hex("00b8");  // scale -0.5
  for (int i = 0; i < 32; ++i)
    block.push_back(static_cast<std::byte>(static_cast<std::uint8_t>(8 * i - 128)));
  dequantize(GgmlType::q8_0, block, out);
  for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 64.0F - 4.0F * static_cast<float>(i));
}

TEST(Dequantize, EqualsTheReferenceOnRandomBlocks) {
  for (const auto& sample : test::golden("dequantize.json", "blocks")) {
    const auto expected = sample.at("bits").get<Bits>();
    std::vector<float> out(expected.size());
    dequantize(static_cast<GgmlType>(sample.at("type").get<std::uint32_t>()),
               from_hex(sample.at("data").get<std::string>()), out);
    EXPECT_EQ(bits_of(out), expected) << sample.at("type");
  }
}

TEST(Dequantize, ReadsUnalignedBlocks) {
  const std::vector<std::byte> bytes = from_hex("ff0000803f");
  std::array<float, 1> out{};
  dequantize(GgmlType::f32, std::span(bytes).subspan(1), out);
  EXPECT_EQ(out[0], 1.0F);
}

TEST(Dequantize, RefusesUnsupportedTypes) {
  const auto error_of = [](std::uint32_t type) -> std::string {
    try {
      dequantize(static_cast<GgmlType>(type), {}, {});
    } catch (const GgufError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of(12),
            "tensor type Q4_K cannot be dequantized; supported are F32, F16, BF16, Q8_0, Q4_0 and Q4_1");
  EXPECT_NE(error_of(99).find("number 99"), std::string::npos);
}

TEST(Dequantize, RefusesSizesThatDoNotMatch) {
  std::array<float, 40> out{};
  const std::vector<std::byte> bytes(100);
  const auto decode = [&](std::size_t blocks, std::size_t numbers) {
    dequantize(GgmlType::q8_0, std::span(bytes).first(blocks), std::span(out).first(numbers));
  };
  EXPECT_NO_THROW(decode(34, 32));
  EXPECT_NO_THROW(decode(0, 0));
  EXPECT_THROW(decode(34, 31), std::invalid_argument);
  EXPECT_THROW(decode(33, 32), std::invalid_argument);
  EXPECT_THROW(decode(35, 32), std::invalid_argument);
  EXPECT_THROW(decode(68, 32), std::invalid_argument);
}

TEST(Dequantize, EqualsTheReferenceOnTheModel) {
  const auto path = test::model_path();
  if (!path) GTEST_SKIP() << test::no_model;
  const GgufFile file(*path);
  for (const auto& sample : test::golden("dequantize.json", "tensors")) {
    const GgufTensor& tensor = file.tensor(sample.at("name").get<std::string>());
    std::vector<float> out(tensor.rows() * tensor.columns());
    dequantize(tensor.type, tensor.data, out);
    const auto first = sample.at("first").get<Bits>();
    EXPECT_EQ(bits_of(std::span(out).first(first.size())), first) << tensor.name;
    EXPECT_EQ(bits_of(std::span(out).last(first.size())), sample.at("last").get<Bits>()) << tensor.name;
  }
}

}  // namespace
}  // namespace smollm2
