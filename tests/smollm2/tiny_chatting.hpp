// A tiny model that can be talked to, though it makes no sense.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "chat.hpp"
#include "gguf_writer.hpp"
#include "tiny_llama.hpp"
#include "tiny_vocabulary.hpp"

namespace smollm2::test {

enum class Answers { end, never_end };

/// It reads and writes ASCII, most of it one letter a token, in SmolLM2's chat template. Both reading
/// programs can load it.
inline GgufWriter tiny_chatting_writer(Answers answers = Answers::end) {
  TinyVocabulary vocabulary;
  for (char letter = '!'; letter <= '~'; ++letter)
    if (const std::string token(1, letter); std::ranges::count(vocabulary.tokens, token) == 0) {
      vocabulary.tokens.push_back(token);
      vocabulary.types.push_back(1);
    }
  TinyLlama model;
  model.rotary_dim = model.head_dim();  // llama.cpp insists on it
  model.vocab_size = vocabulary.tokens.size();
  model.tensors.erase("token_embd.weight");
  model.add("token_embd.weight", model.vocab_size, model.embedding);
  if (answers == Answers::never_end)  // logits of control tokens are 0, and of 120 others some are above that
    std::fill_n(model.tensors.at("token_embd.weight").begin(), 3 * model.embedding, 0.0F);
  auto writer = model.file({{"vocab_size", static_cast<std::uint32_t>(model.vocab_size)}});
  writer.string("tokenizer.ggml.model", vocabulary.model).string("tokenizer.ggml.pre", vocabulary.pre);
  writer.strings("tokenizer.ggml.tokens", vocabulary.tokens)
      .ints("tokenizer.ggml.token_type", vocabulary.types);
  writer.strings("tokenizer.ggml.merges", vocabulary.merges);
  writer.u32("tokenizer.ggml.bos_token_id", vocabulary.bos)
      .u32("tokenizer.ggml.eos_token_id", vocabulary.eos);
  writer.value("tokenizer.ggml.add_bos_token", GgufType::boolean, Bytes().put(std::uint8_t{0}));
  writer.string("tokenizer.chat_template", "{{ '<|im_start|>system\\n" + std::string(default_system_message) +
                                               "<|im_end|>\\n' }}{{ messages }}");
  return writer;
}

inline std::vector<std::byte> tiny_chatting_file(Answers answers = Answers::end) {
  return tiny_chatting_writer(answers).build();
}

}  // namespace smollm2::test
