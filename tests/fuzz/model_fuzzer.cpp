// libFuzzer's way into the example engine's loader: model_fuzzer CORPUS_FOLDER fuzz/seeds/model
#include <cstddef>
#include <cstdint>
#include <span>

#include "try_model.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::try_model(std::as_bytes(std::span(data, size)));
  return 0;
}
