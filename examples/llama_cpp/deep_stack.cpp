#include "deep_stack.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

namespace llama_cpp {
namespace {

[[noreturn]] void fail(std::size_t bytes, int error) {
  throw std::runtime_error("there is no stack of " + std::to_string(bytes >> 20U) +
                           " MiB, which llama.cpp may need for a long text: " + std::strerror(error));
}

/// Address space that takes memory where it is written, above a page that nobody may touch.
class Stack {
 public:
  explicit Stack(std::size_t bytes) : guard_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    size_ = (bytes + 2 * guard_ - 1) / guard_ * guard_;
    start_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start_ == MAP_FAILED) fail(bytes, errno);
    mprotect(start_, guard_, PROT_NONE);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() { munmap(start_, size_); }

  void* start() const { return static_cast<char*>(start_) + guard_; }
  std::size_t size() const { return size_ - guard_; }

 private:
  std::size_t guard_, size_;
  void* start_;
};

struct Call {
  const std::function<void()>& function;
  std::exception_ptr thrown;
};

void* run(void* argument) {
  auto& call = *static_cast<Call*>(argument);
  try {
    call.function();
  } catch (...) {
    call.thrown = std::current_exception();
  }
  return nullptr;
}

}  // namespace

void on_deep_stack(std::size_t bytes, const std::function<void()>& function) {
  const Stack stack(bytes);
  Call call{function, nullptr};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, stack.start(), stack.size());
  pthread_t thread{};
  const int error = pthread_create(&thread, &attributes, run, &call);
  pthread_attr_destroy(&attributes);
  if (error != 0) fail(bytes, error);
  pthread_join(thread, nullptr);
  if (call.thrown) std::rethrow_exception(call.thrown);
}

}  // namespace llama_cpp
