#include "gguf_error.hpp"

#include <algorithm>
#include <cstddef>

namespace smollm2 {

std::string quoted(std::string_view text) {
  constexpr std::size_t longest = 64;
  std::string shown(text.substr(0, longest));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return "'" + shown + (text.size() > longest ? "...'" : "'");
}

}  // namespace smollm2
