// What llama_decode() returns, in words.
#pragma once

#include <cstdint>
#include <string>

namespace llama_cpp {

/// `status` is not 0.
inline std::string decode_error(std::int32_t status) {
  switch (status) {
    case 1:
      return "no free cells in the context (its n_ctx must hold all its pots)";
    case 2:
      return "aborted";
    case -1:
      return "invalid batch";
    default:
      return "error " + std::to_string(status);
  }
}

}  // namespace llama_cpp
