#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace smollm2 {

/// A whole file mapped read-only into memory for as long as the object lives.
/// Bytes stay where they are when the object is moved. The file must not be cut short meanwhile: the
/// operating system answers a read beyond a shortened file with a signal, not an error.
class MappedFile {
 public:
  /// Throws GgufError naming the file when it cannot be opened, is not a regular file, or cannot be
  /// mapped.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace smollm2
