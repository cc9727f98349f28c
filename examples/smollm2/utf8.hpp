#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace smollm2 {

/// Length in bytes of the well-formed UTF-8 that `text` begins with (all of it when it is valid).
std::size_t valid_utf8_prefix(std::string_view text);

/// `text` with every maximal ill-formed part replaced by U+FFFD, as the Unicode standard recommends and
/// as Rust's from_utf8_lossy and Python's errors="replace" do. The result is valid UTF-8.
std::string to_valid_utf8(std::string_view text);

/// How many bytes at the end of `text` (0 to 3) begin a character that more bytes could complete.
std::size_t incomplete_utf8_suffix(std::string_view text);

/// True when valid UTF-8 `text` ends with a character that has Unicode's White_Space property.
bool ends_with_white_space(std::string_view text);

}  // namespace smollm2
