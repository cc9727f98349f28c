#include "whole_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <ostream>
#include <streambuf>
#include <system_error>
#include <utility>

#include "options.hpp"
#include "write_all.hpp"

namespace reading {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& option, const std::string& path, const std::string& cause) {
  throw UsageError(option + ": cannot write " + path + ": " + cause);
}

void require(bool success) {
  if (!success) throw std::system_error(errno, std::generic_category());
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : "."; }

/// One of /proc/self/fd, whose text says what the descriptor has open, but not how to open it.
bool is_descriptor(const fs::path& link) {
  std::error_code error;
  return fs::canonical(folder_of(link), error).string().starts_with("/proc/");
}

/// A file that is open for writing.
class Descriptor {
 public:
  explicit Descriptor(int number) noexcept : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  int number() const noexcept { return number_; }
  void reset(int number) noexcept { number_ = number; }
  void close() { require(::close(std::exchange(number_, -1)) == 0 || errno == EINTR); }

 private:
  int number_;
};

/// Waits for a pipe's reader, as long as it takes.
int open_directly(const std::string& path) {
  int number = -1;
  do {
    number = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
  } while (number < 0 && errno == EINTR);
  require(number >= 0);
  return number;
}

/// What a stream of this writes goes to a descriptor at once. Throws std::system_error, through a stream
/// whose exceptions() has badbit.
class DescriptorBuffer : public std::streambuf {
 public:
  explicit DescriptorBuffer(int descriptor) : descriptor_(descriptor) {}

 protected:
  std::streamsize xsputn(const char* text, std::streamsize size) override {
    write_all(descriptor_, {text, static_cast<std::size_t>(size)});
    return size;
  }
  int_type overflow(int_type c) override {
    if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    const char letter = traits_type::to_char_type(c);
    write_all(descriptor_, {&letter, 1});
    return c;
  }

 private:
  int descriptor_;
};

using Write = std::function<void(std::ostream&)>;

void write_to(int descriptor, const Write& write) {
  DescriptorBuffer buffer(descriptor);
  std::ostream stream(&buffer);
  stream.exceptions(std::ios::badbit);
  write(stream);
}

void write_directly(const std::string& path, const Write& write) {
  Descriptor file(open_directly(path));
  write_to(file.number(), write);
  file.close();
}

/// A new file beside another, which takes its place in the end. Until then, it goes with this object.
class Replacement {
 public:
  explicit Replacement(fs::path target) : target_(std::move(target)) {
    if (fs::is_symlink(target_)) throw std::system_error(ELOOP, std::generic_category());
    const std::string start = (folder_of(target_) / ".infinipot-").string() + std::to_string(getpid()) + "-";
    constexpr int most = 1000;
    for (int i = 0; i < most && file_.number() < 0 && (i == 0 || errno == EEXIST); ++i) {
      name_ = start + std::to_string(i);
      file_.reset(open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    }
    require(file_.number() >= 0);
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;
  ~Replacement() {
    if (!name_.empty()) unlink(name_.c_str());
  }

  void write(const Write& write) {
    keep_permissions();
    write_to(file_.number(), write);
    // Some disks say only now that they are full; some file systems do not know the call.
    require(fsync(file_.number()) == 0 || errno == EINVAL || errno == ENOSYS);
    file_.close();
  }

  void take_place() {
    require(std::rename(name_.c_str(), target_.c_str()) == 0);
    name_.clear();
  }

 private:
  void keep_permissions() const {
    struct stat before {};
    if (stat(target_.c_str(), &before) != 0) return;
    const bool same_owner = fchown(file_.number(), before.st_uid, before.st_gid) == 0;
    // Without that, it must not run with the rights of another.
    require(fchmod(file_.number(), before.st_mode & (same_owner ? 07777U : 0777U)) == 0);
  }

  fs::path target_;
  std::string name_;
  Descriptor file_{-1};
};

}  // namespace

fs::path followed(fs::path path) {
  constexpr int most = 40;  // as Linux does
  std::error_code error;
  for (int i = 0; i < most && fs::is_symlink(fs::symlink_status(path, error)) && !is_descriptor(path); ++i)
    path = folder_of(path) / fs::read_symlink(path, error);
  return path;
}

bool is_written_directly(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return false;
  return !S_ISREG(found.st_mode) || is_descriptor(followed(path));
}

void check_path(const std::string& option, const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) refuse(option, path, "it is a directory");
  if (access(path.c_str(), W_OK) != 0) {
    if (errno != ENOENT) refuse(option, path, std::strerror(errno));
  } else if (is_written_directly(path)) {
    return;
  }
  if (const fs::path folder = folder_of(followed(path)); access(folder.c_str(), W_OK | X_OK) != 0)
    refuse(option, path, "no file can be made in " + folder.string() + ": " + std::strerror(errno));
}

void write_whole(const std::string& option, const std::string& path, std::string_view text) {
  write_whole(option, path, [text](std::ostream& out) {
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
  });
}

void write_whole(const std::string& option, const std::string& path, const Write& write) try {
  if (is_written_directly(path)) {
    write_directly(path, write);
  } else {
    Replacement file(followed(path));
    file.write(write);
    file.take_place();
  }
} catch (const std::system_error& error) {
  refuse(option, path, error.code().message());
}

}  // namespace reading
