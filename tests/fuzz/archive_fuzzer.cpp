// libFuzzer's way into archives: archive_fuzzer CORPUS_FOLDER fuzz/seeds/archive
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "try_archive.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  fuzz::try_archive(bytes);
  std::vector<std::byte> repaired(bytes.begin(), bytes.end());
  fuzz::repair_archive(repaired);
  fuzz::try_archive(repaired);
  return 0;
}
