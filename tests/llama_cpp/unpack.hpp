// The real model with its weights as floats, with which llama.cpp computes in floats throughout: by packed
// weights it multiplies activations that are rounded to 8 bits.
#pragma once

#include <llama.h>

#include <stdexcept>
#include <string>

#include "model.hpp"

namespace llama_cpp::test {

/// Writes a model again, with the same weights in F32. Throws std::runtime_error.
inline void unpack(const std::string& model, const std::string& out) {
  keep_quiet();
  llama_model_quantize_params parameters = llama_model_quantize_default_params();
  parameters.ftype = LLAMA_FTYPE_ALL_F32;
  parameters.output_tensor_type = parameters.token_embedding_type = GGML_TYPE_F32;
  parameters.allow_requantize = parameters.pure = true;
  parameters.nthread = 2;
  if (llama_model_quantize(model.c_str(), out.c_str(), &parameters) != 0)
    throw std::runtime_error("llama.cpp cannot unpack " + model);
}

}  // namespace llama_cpp::test
