#include "byte_alphabet.hpp"

#include <array>
#include <cstddef>

namespace smollm2 {
namespace {

constexpr std::uint16_t first_substitute = 0x100;
constexpr std::size_t code_points = first_substitute + 68;

constexpr bool stands_for_itself(std::uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::uint16_t, 256> code_point{};
  std::array<std::int16_t, code_points> byte{};  // -1: stands for none
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.byte) byte = -1;
  std::uint16_t next = first_substitute;
  for (std::uint16_t byte = 0; byte < 256; ++byte) {
    const std::uint16_t code_point = stands_for_itself(byte) ? byte : next++;
    alphabet.code_point[byte] = code_point;
    alphabet.byte[code_point] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet alphabet = make_alphabet();

}  // namespace

std::string character_of_byte(std::uint8_t byte) {
  const std::uint16_t code_point = alphabet.code_point[byte];
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3F))};
}

std::optional<std::string> bytes_of_characters(std::string_view written) {
  std::string bytes;
  for (std::size_t i = 0; i < written.size(); ++i) {
    std::uint32_t code_point = static_cast<std::uint8_t>(written[i]);
    if (code_point >= 0x80) {
      // No character of the alphabet takes more than two bytes, so anything else is foreign to it.
      if ((code_point & 0xE0U) != 0xC0 || ++i == written.size()) return std::nullopt;
      const std::uint32_t second = static_cast<std::uint8_t>(written[i]);
      if ((second & 0xC0U) != 0x80) return std::nullopt;
      code_point = ((code_point & 0x1FU) << 6) | (second & 0x3FU);
    }
    if (code_point >= alphabet.byte.size() || alphabet.byte[code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet.byte[code_point]));
  }
  return bytes;
}

}  // namespace smollm2
