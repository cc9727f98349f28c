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

/// Throws an Error with the parts streamed into one message. Without exceptions, prints it and aborts.
template <class Error = std::runtime_error, class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
#ifdef __cpp_exceptions
  throw Error(text(parts...));
#else
  std::fprintf(stderr, "%s\n", text(parts...).c_str());
  std::abort();
#endif
}

/// The same for bad arguments: std::invalid_argument.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void invalid(const Parts&... parts) {
  fail<std::invalid_argument>("infinipot: ", parts...);
}

/// Calls f() where nothing may throw, and says whether it returned.
template <class F>
bool returns(const F& f) noexcept {
#ifdef __cpp_exceptions
  try {
    f();
  } catch (...) {
    return false;
  }
#else
  f();
#endif
  return true;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
