#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gguf_writer.hpp"

namespace smollm2::test {

/// A tokenizer of a few tokens for tests without the real model; its parts can be changed before
/// build(). "Ġ" stands for a space, "Ċ" for a line break.
struct TinyVocabulary {
  std::string model = "gpt2";
  std::string pre = "smollm";
  std::vector<std::string> tokens{
      "<|endoftext|>", "<|im_start|>", "<|im_end|>", "a",           "b", "c", "Ġ", "Ċ", "1", "2", "ab", "Ġa",
      "abc",           "Ġab",          "aa",         "aaaa",        "<", "|", ">", "i", "m", "ï", "¿",  "½",
      "ï¿½",           "ï¿",           "'",          "\xE4\xB8\xAD"};
  std::vector<std::int32_t> types = control_first(3, 28);
  std::vector<std::string> merges{"a b", "Ġ a", "ab c", "Ġ ab", "a a", "aa aa", "ï ¿", "ï¿ ½"};
  std::uint32_t bos = 1;
  std::uint32_t eos = 2;
  std::string chat = "<|im_start|>{{ role }}<|im_end|>";

  GgufWriter build() const {
    GgufWriter writer;
    writer.string("tokenizer.ggml.model", model).string("tokenizer.ggml.pre", pre);
    writer.strings("tokenizer.ggml.tokens", tokens).ints("tokenizer.ggml.token_type", types);
    writer.strings("tokenizer.ggml.merges", merges);
    writer.u32("tokenizer.ggml.bos_token_id", bos).u32("tokenizer.ggml.eos_token_id", eos);
    return writer.string("tokenizer.chat_template", chat);
  }

 private:
  static std::vector<std::int32_t> control_first(std::size_t controls, std::size_t count) {
    std::vector<std::int32_t> types(count, 1);
    std::fill_n(types.begin(), controls, 3);
    return types;
  }
};

}  // namespace smollm2::test
