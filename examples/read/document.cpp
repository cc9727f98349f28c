#include "document.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "options.hpp"

namespace reading {

Document::Document(const std::string& path) : path_(path), buffer_(std::size_t{1} << 14, '\0') {
  if (path == "-") {
    file_.reset(stdin);
    return;
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) throw UsageError("--document: " + path + " is a directory");
  file_.reset(std::fopen(path.c_str(), "rb"));
  if (!file_) throw UsageError("--document: cannot open " + path + ": " + std::strerror(errno));
  if (std::filesystem::is_regular_file(path, error)) size_ = std::filesystem::file_size(path, error);
}

std::string_view Document::next() {
  const std::size_t count = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  if (std::ferror(file_.get()) != 0)
    throw UsageError("--document: cannot read " + path_ + ": " + std::strerror(errno));
  read_ += count;
  return std::string_view(buffer_).substr(0, count);
}

std::optional<double> Document::progress() const {
  if (size_ == 0) return std::nullopt;
  return static_cast<double>(read_) / static_cast<double>(size_);
}

}  // namespace reading
