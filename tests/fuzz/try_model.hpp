// What a program may do with the bytes of a model's file, whatever they are.
#pragma once

#include <cstddef>
#include <span>

#include "gguf.hpp"
#include "gguf_error.hpp"
#include "llama_weights.hpp"
#include "thread_pool.hpp"
#include "tokenizer.hpp"

namespace fuzz {

/// Returns whether the file was accepted. Anything but GgufError from a file that is not is a fault.
inline bool try_model(std::span<const std::byte> bytes) {
  try {
    const smollm2::GgufFile file(bytes, "model");
    bool accepted = true;
    try {
      const smollm2::Tokenizer tokenizer(file);
      tokenizer.decode(tokenizer.encode("ab <|im_end|> \xE4\xB8\xAD", smollm2::Specials::parse));
    } catch (const smollm2::GgufError&) {
      accepted = false;
    }
    smollm2::ThreadPool alone(1);
    const smollm2::LlamaWeights weights(file, alone);
    return accepted;
  } catch (const smollm2::GgufError&) {
    return false;
  }
}

}  // namespace fuzz
