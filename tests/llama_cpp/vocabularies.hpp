// Vocabularies without models, for tests; they come with llama.cpp.
#pragma once

#include <llama-cpp.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model.hpp"
#include "text_model.hpp"

namespace llama_cpp::test {

/// Why a test that needs something of llama.cpp's is skipped.
inline constexpr const char* no_llama_cpp =
    "INFINIPOT_LLAMA_CPP does not name the folder where llama.cpp is installed, with what this test needs";

/// A file of llama.cpp's installation, if the environment names that and it has it.
inline std::optional<std::string> installed(const std::string& file) {
  const char* folder = std::getenv("INFINIPOT_LLAMA_CPP");
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  const std::filesystem::path path = std::filesystem::path(folder) / file;
  if (!std::filesystem::is_regular_file(path)) return std::nullopt;
  return path.string();
}

inline std::optional<std::string> installed_vocabulary(const std::string& name) {
  return installed("share/vocabularies/ggml-vocab-" + name + ".gguf");
}

/// What a file says of texts, without its weights; null if it cannot be loaded.
inline llama_model_ptr load_vocabulary(const std::string& path) {
  keep_quiet();
  llama_model_params parameters = llama_model_default_params();
  parameters.vocab_only = true;
  return llama_model_ptr(llama_model_load_from_file(path.c_str(), parameters));
}

inline std::vector<reading::Token> encoded(const reading::TextModel& text, const std::string& words) {
  std::vector<reading::Token> tokens;
  text.encode(words, tokens);
  return tokens;
}

inline std::string decoded(const reading::TextModel& text, const std::vector<reading::Token>& tokens) {
  std::string words;
  for (const reading::Token token : tokens) words += text.decode(token);
  return words;
}

}  // namespace llama_cpp::test
