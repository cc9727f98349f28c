// Cold paths that throw, kept out of line so that hot callers stay small.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace infinipot::detail {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws std::invalid_argument with the parts streamed into one message.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void invalid(const Parts&... parts) {
  throw std::invalid_argument(text("infinipot: ", parts...));
}

}  // namespace infinipot::detail
