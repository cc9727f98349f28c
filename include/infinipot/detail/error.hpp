// Cold paths that throw, kept out of line so that hot callers stay small.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>

#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws std::invalid_argument with the parts streamed into one message. Without exceptions, prints it and
/// aborts.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void invalid(const Parts&... parts) {
#ifdef __cpp_exceptions
  throw std::invalid_argument(text("infinipot: ", parts...));
#else
  std::fprintf(stderr, "%s\n", text("infinipot: ", parts...).c_str());
  std::abort();
#endif
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
