// What llama.cpp logs while it fails, for exceptions to carry.
#pragma once

#include <ggml.h>

#include <mutex>
#include <string>
#include <vector>

namespace llama_cpp {

/// Listens to llama.cpp's log while it lives, and passes everything on to whoever listened before. The log is
/// one for all threads: what others log in the meantime is heard as well.
class ErrorLog {
 public:
  ErrorLog();
  ErrorLog(const ErrorLog&) = delete;
  ErrorLog& operator=(const ErrorLog&) = delete;
  ~ErrorLog();

  /// All errors in their order, or the last warning if there were none, on one line, without the names of
  /// llama.cpp's functions and without what says no more than that it failed; empty if nothing is left.
  std::string cause() const;

 private:
  static void note(ggml_log_level level, const char* text, void* log);
  void add(ggml_log_level level, const char* text);

  ggml_log_callback before_ = nullptr;
  void* of_before_ = nullptr;
  mutable std::mutex mutex_;
  ggml_log_level level_ = GGML_LOG_LEVEL_NONE;  // of the line that is being logged
  std::vector<std::string> errors_;
  std::string warning_;
};

}  // namespace llama_cpp
