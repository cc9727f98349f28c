// Loads models and makes contexts, with errors that say what went wrong.
#pragma once

#include <llama-cpp.h>
#include <llama.h>

#include <cstddef>
#include <string>
#include <vector>

#include "graph_tap.hpp"

namespace llama_cpp {

/// Keeps llama.cpp's messages off standard error from now on; the exceptions of what follows carry the
/// errors.
void keep_quiet();

/// Loads a GGUF file, onto the devices of these RPC servers (host:port), if any, which share the layers.
/// Throws std::runtime_error with llama.cpp's own reason (a file that is missing or no GGUF, cut off, of an
/// unknown architecture ...), or if a server cannot be reached.
llama_model_ptr load_model(const std::string& path, const std::vector<std::string>& servers = {});

struct ContextSettings {
  std::size_t cells = 0;        ///< of each sequence; llama.cpp rounds up to a multiple of 256
  std::size_t sequences = 1;    ///< each with cells of its own
  std::size_t batch = 512;      ///< most tokens per llama_decode()
  std::size_t micro_batch = 0;  ///< most that go through the layers together; 0 means all of them
  int threads = 1;
  ggml_type cache_type = GGML_TYPE_F16;
  bool flash_attention = true;

  ggml_type key_type() const noexcept { return cache_type; }
  /// Without flash attention llama.cpp keeps values transposed, which only unquantised types can be.
  ggml_type value_type() const noexcept {
    return flash_attention || !ggml_is_quantized(cache_type) ? cache_type : GGML_TYPE_F16;
  }
};

/// The same in llama.cpp's terms, without a tap.
llama_context_params context_parameters(const ContextSettings& settings) noexcept;

/// A context that shows itself to the tap. Throws std::invalid_argument for a quantised type whose blocks
/// heads do not fill, std::runtime_error with llama.cpp's own reason.
llama_context_ptr make_context(llama_model& model, GraphTap& tap, const ContextSettings& settings);

}  // namespace llama_cpp
