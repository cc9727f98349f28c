// A file as a device of an archive. POSIX.
#pragma once

#if __has_include(<unistd.h>)

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "infinipot/detail/error.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// An open file, locked against writers, and if it is to be written, against everyone else.
class FileDevice {
 public:
  enum class Mode { create, append, read };

  /// Throws std::runtime_error if the file cannot be opened, or is in use.
  FileDevice(const std::string& path, Mode mode) {
    const int flags = mode == Mode::create   ? O_RDWR | O_CREAT | O_EXCL
                      : mode == Mode::append ? O_RDWR
                                             : O_RDONLY;
    fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (fd_ < 0) refuse(path, mode == Mode::create ? "created" : "opened", errno);
    FileDevice guard(std::exchange(fd_, -1));
    struct stat status {};
    if (::fstat(guard.fd_, &status) != 0) refuse(path, "opened", errno);
    if (!S_ISREG(status.st_mode)) fail("infinipot: ", path, " is not a file");
    if (::flock(guard.fd_, (mode == Mode::read ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK)
        fail("infinipot: ", path, mode == Mode::read ? " is being written" : " is in use",
             " by another program or archive");
      refuse(path, "locked", errno);
    }
    // What another wrote before it let go of the lock counts too.
    if (::fstat(guard.fd_, &status) != 0) refuse(path, "opened", errno);
    guard.size_ = static_cast<std::uint64_t>(status.st_size);
    swap(guard);
  }

  FileDevice(FileDevice&& other) noexcept { swap(other); }
  FileDevice& operator=(FileDevice&& other) noexcept {
    FileDevice old(std::move(*this));
    swap(other);
    return *this;
  }
  ~FileDevice() {
    if (fd_ >= 0) ::close(fd_);
  }

  bool is_open() const noexcept { return fd_ >= 0; }
  std::uint64_t size() const noexcept { return size_; }

  bool read(std::uint64_t at, std::span<std::byte> bytes) const noexcept {
    while (!bytes.empty()) {
      if (!reaches(at, bytes.size())) return false;
      const ssize_t done = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return false;
      at += static_cast<std::uint64_t>(done);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
    return true;
  }

  /// In one call if the system takes all. What could not be written whole is taken back.
  bool write(std::uint64_t at, std::span<const std::byte> bytes) noexcept {
    const std::uint64_t start = at;
    while (!bytes.empty()) {
      if (!reaches(at, bytes.size())) {
        errno_ = EFBIG;
        break;
      }
      const ssize_t done = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) {
        errno_ = done < 0 ? errno : EIO;
        break;
      }
      at += static_cast<std::uint64_t>(done);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
    if (bytes.empty()) {
      size_ = (std::max)(size_, at);
      return true;
    }
    if (at > size_) cut(size_);
    if (start < size_ && at > start) erase_header(start);
    return false;
  }

  /// Makes the file shorter.
  bool cut(std::uint64_t size) noexcept {
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) {
      errno_ = errno;
      return false;
    }
    size_ = size;
    return true;
  }

  /// Makes the header of a block invalid.
  bool erase_header(std::uint64_t at) noexcept {
    constexpr std::size_t header_bytes = 64;
    const std::byte zeros[header_bytes]{};
    const auto size = static_cast<std::size_t>((std::min)(std::uint64_t{header_bytes}, size_ - at));
    return ::pwrite(fd_, zeros, size, static_cast<off_t>(at)) == static_cast<ssize_t>(size);
  }

  /// Until the device says that everything written is on it.
  bool sync() noexcept {
#if defined(__APPLE__)
    const bool done = ::fsync(fd_) == 0;
#else
    const bool done = ::fdatasync(fd_) == 0;
#endif
    if (!done) errno_ = errno;
    return done;
  }

  /// What went wrong with the last call that failed.
  const char* error() const noexcept { return std::strerror(errno_); }

 private:
  explicit FileDevice(int fd) noexcept : fd_(fd) {}

  void swap(FileDevice& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    std::swap(errno_, other.errno_);
  }

  static bool reaches(std::uint64_t at, std::size_t bytes) noexcept {
    const auto most = static_cast<std::uint64_t>((std::numeric_limits<off_t>::max)());
    return at <= most && bytes <= most - at;
  }

  [[noreturn]] static void refuse(const std::string& path, const char* what, int error) {
    fail("infinipot: ", path, " cannot be ", what, ": ", std::strerror(error));
  }

  int fd_ = -1;
  std::uint64_t size_ = 0;
  int errno_ = 0;
};

/// Makes a new file's name survive a loss of power. Some file systems cannot.
inline void sync_folder(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail

#endif
