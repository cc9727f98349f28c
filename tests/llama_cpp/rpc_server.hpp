// llama.cpp's RPC server, another process of this machine.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace llama_cpp::test {

/// Asks `done` every few milliseconds, for two minutes at most. Returns whether it said yes.
template <class Done>
bool wait_until(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

/// A server that computes with one thread on a free port of the loopback interface. It ends with this object,
/// and with the process.
class RpcServer {
 public:
  /// Throws std::runtime_error if it does not start.
  explicit RpcServer(const std::string& binary) : port_(free_port()), process_(start(binary, port_)) {
    if (wait_until([&] { return accepts() || has_ended(); }) && process_ != 0) return;
    stop();
    throw std::runtime_error(binary + " does not start");
  }
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;
  ~RpcServer() { stop(); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  /// Ends it at once.
  void stop() noexcept {
    if (process_ == 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = 0;
  }

  /// Processor time that it has used, without the system's.
  double seconds_of_work() const {
    std::ifstream file("/proc/" + std::to_string(process_) + "/stat");
    std::string word;
    while (file >> word && word.back() != ')') continue;  // of the program's name
    for (int i = 0; i < 12; ++i) file >> word;            // to the 14th, utime
    return file ? std::stod(word) / static_cast<double>(sysconf(_SC_CLK_TCK)) : 0;
  }

 private:
  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  static std::uint16_t free_port() {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    const bool bound = bind(socket, any, size) == 0 && getsockname(socket, any, &size) == 0;
    close(socket);
    if (!bound) throw std::runtime_error("there is no free port");
    return ntohs(address.sin_port);
  }

  static pid_t start(const std::string& binary, std::uint16_t port) {
    const std::string text = std::to_string(port);
    const pid_t parent = getpid(), process = fork();
    if (process < 0) throw std::runtime_error("no process can be started");
    if (process > 0) return process;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const int null = open("/dev/null", O_RDWR);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, stream);
    execl(binary.c_str(), binary.c_str(), "-H", "127.0.0.1", "-p", text.c_str(), "-t", "1", nullptr);
    _exit(1);
  }

  bool accepts() const {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in address = loopback(port_);
    const bool accepted = connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    close(socket);
    return accepted;
  }

  bool has_ended() {
    if (waitpid(process_, nullptr, WNOHANG) == 0) return false;
    process_ = 0;
    return true;
  }

  std::uint16_t port_;
  pid_t process_;
};

}  // namespace llama_cpp::test
