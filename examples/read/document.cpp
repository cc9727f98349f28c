#include "document.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "interrupt.hpp"

namespace reading {

Document::Document(std::string path) : path_(std::move(path)), buffer_(std::size_t{1} << 12, '\0') {
  if (path_ == "-") {
    path_ = "standard input";
    file_.reset(stdin);
    return;
  }
  std::error_code error;
  if (std::filesystem::is_directory(path_, error))
    throw UsageError("--document: " + path_ + " is a directory");
  file_.reset(std::fopen(path_.c_str(), "rb"));
  if (!file_) throw UsageError("--document: cannot open " + path_ + ": " + std::strerror(errno));
  if (!std::filesystem::is_regular_file(path_, error)) return;
  const std::uintmax_t size = std::filesystem::file_size(path_, error);
  if (!error) size_ = size;
}

std::string_view Document::next() {
  check_interrupt();
  const std::size_t count = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  check_interrupt();  // which ends waiting
  if (std::ferror(file_.get()) != 0)
    throw UsageError("--document: cannot read " + path_ + ": " + std::strerror(errno));
  read_ += count;
  return std::string_view(buffer_).substr(0, count);
}

std::optional<double> Document::progress() const {
  if (size_ == 0) return std::nullopt;
  return std::min(1.0, static_cast<double>(read_) / static_cast<double>(size_));
}

std::vector<Document> open_documents(const Options& options) {
  std::vector<Document> documents;
  for (const Turn& turn : options.turns)
    if (!turn.document.empty()) documents.emplace_back(turn.document);
  return documents;
}

}  // namespace reading
