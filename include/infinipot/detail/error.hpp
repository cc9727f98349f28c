// Cold paths that throw, kept out of line so that hot callers stay small.
#pragma once

#include <cstdio>
#include <cstdlib>
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

/// Throws std::invalid_argument with the parts streamed into one message. Where the engine is built without
/// exceptions, prints it and aborts.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void invalid(const Parts&... parts) {
#ifdef __cpp_exceptions
  throw std::invalid_argument(text("infinipot: ", parts...));
#else
  std::fprintf(stderr, "%s\n", text("infinipot: ", parts...).c_str());
  std::abort();
#endif
}

}  // namespace infinipot::detail
