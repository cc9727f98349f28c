// Errors that a test expects, by their words.
#pragma once

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace trial {

/// What f throws as std::invalid_argument.
template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

/// f must throw std::invalid_argument with all the parts in its message.
template <class F>
void expect_invalid(const F& f, const std::vector<std::string>& parts) {
  const std::string message = message_of(f);
  for (const auto& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "no \"" << part << "\" in \"" << message << '"';
}

}  // namespace trial
