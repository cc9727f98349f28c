// --check: whether model, pot and engine fit together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

#include "backend.hpp"
#include "infinipot/check_adapter.hpp"
#include "options.hpp"
#include "text_model.hpp"

namespace reading {

/// How keys of a cache type are rounded.
inline infinipot::Rounding rounding_of_cache(const std::string& type) {
  if (type == "f32") return infinipot::rounding_of<infinipot::f32>();
  if (type == "f16") return infinipot::rounding_of<infinipot::f16>();
  if (type == "bf16") return infinipot::rounding_of<infinipot::bf16>();
  if (type == "int4") return infinipot::rounding_of<infinipot::int4>();
  return infinipot::rounding_of<infinipot::int8>();  // q8_0 too
}

/// Prints what is wrong, or that nothing is. Returns the program's exit status. Throws what the engine
/// throws.
template <Backend B>
int check(B& backend, const Options& options) {
  std::vector<Token> tokens;
  backend.text().encode(
      "The quick brown fox jumps over the lazy dog, and 17 other animals watch it from behind the trees.",
      tokens);
  infinipot::CheckOptions how{.rounding = rounding_of_cache(options.cache_type)};
  how.chunk = std::clamp<std::size_t>(options.chunk, 16, how.chunk);
  auto memory = backend.memory(options, how.chunk, false);
  const infinipot::AdapterReport report =
      infinipot::check_adapter(memory.engine(), memory.store(), tokens, how);
  std::cout << report << std::endl;
  return report ? 0 : 1;
}

}  // namespace reading
