#include "error_log.hpp"

#include <llama.h>

#include <algorithm>
#include <cctype>
#include <string_view>

namespace llama_cpp {
namespace {

/// "function_name: what it says": what it says.
std::string_view without_function(std::string_view line) {
  const std::size_t colon = line.find(": ");
  if (colon == std::string_view::npos) return line;
  const std::string_view name = line.substr(0, colon);
  const bool is_name = name.find('_') != std::string_view::npos && std::ranges::all_of(name, [](char c) {
                         return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == ':';
                       });
  return is_name ? line.substr(colon + 2) : line;
}

/// What a line tells; empty if it tells nothing.
std::string_view telling(std::string_view line) {
  while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) line.remove_suffix(1);
  line = without_function(line);
  constexpr std::string_view loading = "error loading model: ";
  if (line.starts_with(loading)) line = without_function(line.substr(loading.size()));
  return line.starts_with("failed to load model") ? std::string_view() : line;
}

}  // namespace

ErrorLog::ErrorLog() {
  llama_log_get(&before_, &of_before_);
  llama_log_set(note, this);
}

ErrorLog::~ErrorLog() { llama_log_set(before_, of_before_); }

void ErrorLog::note(ggml_log_level level, const char* text, void* log) {
  auto& self = *static_cast<ErrorLog*>(log);
  self.add(level, text);
  if (self.before_ != nullptr) self.before_(level, text, self.of_before_);
}

void ErrorLog::add(ggml_log_level level, const char* text) {
  const std::lock_guard lock(mutex_);
  if (level == GGML_LOG_LEVEL_CONT) {
    if (level_ == GGML_LOG_LEVEL_ERROR) errors_.back() += text;
    if (level_ == GGML_LOG_LEVEL_WARN) warning_ += text;
    return;
  }
  level_ = level;
  if (level == GGML_LOG_LEVEL_ERROR) errors_.emplace_back(text);
  if (level == GGML_LOG_LEVEL_WARN) warning_ = text;
}

std::string ErrorLog::cause() const {
  const std::lock_guard lock(mutex_);
  std::string all;
  for (const std::string& error : errors_)
    if (const std::string_view told = telling(error); !told.empty())
      all.append(all.empty() ? "" : "; ").append(told);
  if (all.empty()) all = telling(warning_);
  std::ranges::replace(all, '\n', ' ');
  return all;
}

}  // namespace llama_cpp
