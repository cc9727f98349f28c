#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace smollm2 {

/// GPT-2's way to write arbitrary bytes as printable text, which its vocabulary files use: printable
/// Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards (space is U+0120, 'Ġ').

/// The character (one or two bytes of UTF-8) that stands for `byte`.
std::string character_of_byte(std::uint8_t byte);

/// The bytes that `written` stands for; empty when a character in it stands for none.
std::optional<std::string> bytes_of_characters(std::string_view written);

}  // namespace smollm2
