// What the programs that measure llama.cpp share.
#pragma once

#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace llama_cpp::benchmark {

/// Markers of chats are text.
inline std::vector<infinipot::Token> tokens_of(const llama_model& model, const std::string& text) {
  std::vector<infinipot::Token> tokens(text.size() + 2);
  const std::int32_t count =
      llama_tokenize(llama_model_get_vocab(&model), text.data(), static_cast<std::int32_t>(text.size()),
                     tokens.data(), static_cast<std::int32_t>(tokens.size()), false, false);
  tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
  return tokens;
}

/// The first `wanted` of a file, of which a token may take 8 bytes on average. Throws std::runtime_error if
/// there are fewer.
inline std::vector<infinipot::Token> first_tokens(const llama_model& model, const std::string& path,
                                                  std::size_t wanted) {
  std::ifstream file(path);
  std::string text(wanted * 8, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  std::vector<infinipot::Token> tokens = tokens_of(model, text);
  if (tokens.size() < wanted)
    throw std::runtime_error(path + " has " + std::to_string(tokens.size()) + " tokens, but " +
                             std::to_string(wanted) + " are wanted");
  tokens.resize(wanted);
  return tokens;
}

/// Of at least one value.
inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

}  // namespace llama_cpp::benchmark
