#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace smollm2 {

/// A model file that cannot be used: damaged, of another format, or lacking what was asked for.
/// what() is one line naming the file (where there is one) and the field.
class GgufError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Where to turn with a sound model that is not supported here: the end of a message.
inline constexpr std::string_view elsewhere = "; infinipot-llama runs what llama.cpp can";

/// `text` in single quotes, fit for a one-line message whatever a file holds: anything but printable
/// ASCII becomes '?', and more than 64 bytes are cut short with "...".
std::string quoted(std::string_view text);

}  // namespace smollm2
