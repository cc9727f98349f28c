// The RoPE that a node of llama.cpp's graph applies.
#pragma once

#include <ggml.h>

#include "infinipot/rope.hpp"

namespace llama_cpp {

/// What a GGML_OP_ROPE node does to text, from its parameters: every scaling that llama.cpp knows (linear,
/// YaRN, Llama 3, LongRoPE), partial rotation and M-RoPE, of which text has three equal positions. Its
/// channels count from the first that the node sees. Throws std::invalid_argument for RoPE of images.
infinipot::Rope rope_of(const ggml_tensor& node);

}  // namespace llama_cpp
