// A folder of a test's own for archives, and their files as bytes.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace archives {

class Folder {
 public:
  Folder() {
    static std::size_t number = 0;
    path_ = std::filesystem::path(testing::TempDir()) /
            ("infinipot_archives_" + std::to_string(getpid()) + "_" + std::to_string(number++));
    std::filesystem::create_directory(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }

  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A new file, since some file systems wait for the disk when an old one is replaced.
inline void write(const std::string& path, std::string_view bytes) {
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary);
  file << bytes;
}

}  // namespace archives
