// libFuzzer's way into the loader: pot_file_fuzzer CORPUS_FOLDER fuzz/seeds/pot_file
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "try_pot_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  fuzz::try_pot_file(bytes);
  std::vector<std::byte> repaired(bytes.begin(), bytes.end());
  fuzz::repair_checksums(repaired);
  fuzz::try_pot_file(repaired);
  return 0;
}
