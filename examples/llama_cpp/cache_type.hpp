// Which element types a pot's keys can have in llama.cpp's cache.
#pragma once

#include <ggml.h>
#include <llama.h>

namespace llama_cpp {

/// Throws std::invalid_argument for keys that llama.cpp cannot move from position to position (K-shift), with
/// the reason; where it does not refuse them itself, it aborts, crashes or computes NaN. It moves
///  - f32 and f16, but no bf16;
///  - quantised types of whole heads that are whole blocks and multiples of 64 numbers, all of which RoPE
///    turns: it turns them by a Hadamard matrix of that size first, and back before it moves them.
void check_key_type(const llama_model& model, ggml_type type);

}  // namespace llama_cpp
