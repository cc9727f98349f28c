// A file of a test's own, which goes with it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace reading::test {

class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view content = {}) {
    static std::size_t number = 0;
    path_ = std::filesystem::path(testing::TempDir()) /
            ("infinipot_" + std::to_string(getpid()) + "_" + std::to_string(number++));
    std::ofstream file(path_, std::ios::binary);
    file << content;
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code error;
    std::filesystem::remove(path_, error);
  }

  std::string path() const { return path_.string(); }

  std::string content() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::filesystem::path path_;
};

}  // namespace reading::test
