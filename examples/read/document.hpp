// A text that is read piece by piece: a file or standard input.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "options.hpp"

namespace reading {

class Document {
 public:
  /// `path` may be - for standard input. Throws UsageError if it cannot be opened or is a directory.
  explicit Document(std::string path);

  /// The next piece, valid until the next call; empty at the end. Throws UsageError if reading fails, and
  /// Interrupted.
  std::string_view next();

  /// Share of the file that was read, 0 .. 1; nothing if its size is unknown.
  std::optional<double> progress() const;

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept {
      if (file != stdin) std::fclose(file);
    }
  };

  std::string path_;  // as messages name it
  std::unique_ptr<std::FILE, Close> file_;
  std::string buffer_;
  std::uint64_t read_ = 0;
  std::uint64_t size_ = 0;  // 0 if unknown
};

/// The documents of the turns; the first turns have one each. Throws UsageError.
std::vector<Document> open_documents(const Options& options);

}  // namespace reading
