// A terminal whose screen a test reads.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>
#include <thread>

namespace reading::test {

class Terminal {
 public:
  Terminal() : master_(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    if (master_ < 0 || grantpt(master_) != 0 || unlockpt(master_) != 0) return;
    name_ = ptsname(master_);
    other_end_ =
        open(name_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);  // keeps what is written until it is read
    reader_ = std::thread([this] { read_all(); });
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    end();
    for (const int descriptor : {other_end_, master_})
      if (descriptor >= 0) close(descriptor);
  }

  /// A file to write to; empty if this system has no pseudo-terminals.
  const std::string& name() const { return name_; }

  /// As if someone typed it. More than a line's length must not wait to be read.
  void type(std::string_view text) const {
    if (write(master_, text.data(), text.size()) < 0) throw std::bad_alloc();
  }

  /// All that was written, once nobody writes any more.
  const std::string& shown() {
    end();
    return shown_;
  }

 private:
  void read_all() {
    std::array<char, 4096> buffer{};
    for (pollfd ready{master_, POLLIN, 0}; !ended_ || poll(&ready, 1, 20) > 0;)
      if (poll(&ready, 1, 20) > 0)
        if (const ssize_t got = read(master_, buffer.data(), buffer.size()); got > 0)
          shown_.append(buffer.data(), static_cast<std::size_t>(got));
  }
  void end() {
    ended_ = true;
    if (reader_.joinable()) reader_.join();
  }

  int master_, other_end_ = -1;
  std::string name_, shown_;
  std::atomic<bool> ended_{false};
  std::thread reader_;
};

}  // namespace reading::test
