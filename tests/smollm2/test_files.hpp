#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace smollm2::test {

/// Why a test that needs the real model is skipped.
inline constexpr const char* no_model =
    "INFINIPOT_MODEL does not name a file; set it to SmolLM2-135M-Instruct's GGUF file to run this test";

/// The real model's file, if the environment names one.
inline std::optional<std::filesystem::path> model_path() {
  const char* path = std::getenv("INFINIPOT_MODEL");
  if (path == nullptr || !std::filesystem::is_regular_file(path)) return std::nullopt;
  return path;
}

/// A file of expected values that a script in tests/reference/ made.
inline nlohmann::json golden(const std::string& name) {
  const auto tests = std::filesystem::path(__FILE__).parent_path().parent_path();
  std::ifstream file(tests / "golden" / name);
  return nlohmann::json::parse(file);
}

/// One member of it.
inline nlohmann::json golden(const std::string& name, const std::string& key) { return golden(name).at(key); }

}  // namespace smollm2::test
