// Models of a few thousand random weights that llama.cpp can load.
#pragma once

#include <llama-cpp.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "model.hpp"
#include "smollm2/tiny_llama.hpp"

namespace llama_cpp::test {

/// A file that is gone when this is.
class TemporaryModel {
 public:
  explicit TemporaryModel(const std::vector<std::byte>& bytes, const std::string& name = "tiny")
      : path_(std::filesystem::temp_directory_path() /
              ("infinipot-" + name + "-" + std::to_string(::getpid()) + "-" + std::to_string(count()++) +
               ".gguf")) {
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  ~TemporaryModel() { std::filesystem::remove(path_); }

  std::string path() const { return path_.string(); }

 private:
  static int& count() {
    static int count = 0;
    return count;
  }

  std::filesystem::path path_;
};

/// llama.cpp insists that whole heads turn.
inline smollm2::test::TinyLlama tiny_llama() {
  smollm2::test::TinyLlama model;
  model.rotary_dim = model.head_dim();
  return model;
}

inline std::vector<std::byte> tiny_file(const smollm2::test::TinyLlama& model) {
  auto writer = model.file({{"vocab_size", static_cast<std::uint32_t>(model.vocab_size)}});
  writer.string("tokenizer.ggml.model", "no_vocab");
  return writer.build();
}

}  // namespace llama_cpp::test
