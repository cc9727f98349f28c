// What exceptions carry of llama.cpp's log.
#include "error_log.hpp"

#include <gtest/gtest.h>
#include <llama.h>

#include <string>

#include "model.hpp"

namespace llama_cpp {
namespace {

void log(ggml_log_level level, const char* text) {
  ggml_log_callback callback = nullptr;
  void* data = nullptr;
  llama_log_get(&callback, &data);
  callback(level, text, data);
}

TEST(ErrorLog, TellsErrorsWithoutNoise) {
  keep_quiet();
  const ErrorLog errors;
  EXPECT_EQ(errors.cause(), "");
  log(GGML_LOG_LEVEL_WARN, "load: one warning\n");
  log(GGML_LOG_LEVEL_INFO, "load: something\n");
  log(GGML_LOG_LEVEL_CONT, " more of it\n");
  EXPECT_EQ(errors.cause(), "load: one warning");
  log(GGML_LOG_LEVEL_ERROR, "gguf_init_from_file: failed to open");
  log(GGML_LOG_LEVEL_CONT, " 'x: y'\n");
  log(GGML_LOG_LEVEL_ERROR, "llama_model_load: error loading model: a::b_c: two\nlines\n");
  log(GGML_LOG_LEVEL_ERROR, "llama_model_load_from_file_impl: failed to load model\n");
  EXPECT_EQ(errors.cause(), "failed to open 'x: y'; two lines");
}

TEST(ErrorLog, PassesEverythingOnAndEnds) {
  static std::string heard;
  heard.clear();
  llama_log_set([](ggml_log_level, const char* text, void*) { heard += text; }, nullptr);
  {
    const ErrorLog errors;
    log(GGML_LOG_LEVEL_ERROR, "one ");
    log(GGML_LOG_LEVEL_DEBUG, "two ");
    EXPECT_EQ(errors.cause(), "one");
  }
  log(GGML_LOG_LEVEL_ERROR, "three");
  EXPECT_EQ(heard, "one two three");
  keep_quiet();
}

}  // namespace
}  // namespace llama_cpp
