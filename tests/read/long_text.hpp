// A document that is longer than the tests' pots.
#pragma once

#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

namespace reading::test {

/// Some 450 tokens.
inline std::string long_text() {
  std::ostringstream text;
  const std::vector<std::string> things{"river", "mountain", "harbour", "garden", "library", "bakery"};
  for (std::size_t i = 0; i < 30; ++i) {
    text << "On day " << i << " they saw the " << things[i % things.size()] << " and wrote home.\n";
    if (i == 12) text << "The password of the lighthouse is marigold.\n";
  }
  return text.str();
}

}  // namespace reading::test
