// Vocabularies without models, for tests: those that come with llama.cpp, and tiny ones.
#pragma once

#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model.hpp"
#include "smollm2/byte_alphabet.hpp"
#include "smollm2/gguf_writer.hpp"
#include "text_model.hpp"

namespace llama_cpp::test {

/// Why a test that needs something of llama.cpp's is skipped.
inline constexpr const char* no_llama_cpp =
    "INFINIPOT_LLAMA_CPP does not name the folder where llama.cpp is installed, with what this test needs";

/// A file of llama.cpp's installation, if the environment names that and it has it.
inline std::optional<std::string> installed(const std::string& file) {
  const char* folder = std::getenv("INFINIPOT_LLAMA_CPP");
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  const std::filesystem::path path = std::filesystem::path(folder) / file;
  if (!std::filesystem::is_regular_file(path)) return std::nullopt;
  return path.string();
}

inline std::optional<std::string> installed_vocabulary(const std::string& name) {
  return installed("share/vocabularies/ggml-vocab-" + name + ".gguf");
}

/// What a file says of texts, without its weights; null if it cannot be loaded.
inline llama_model_ptr load_vocabulary(const std::string& path) {
  keep_quiet();
  llama_model_params parameters = llama_model_default_params();
  parameters.vocab_only = true;
  return llama_model_ptr(llama_model_load_from_file(path.c_str(), parameters));
}

/// A vocabulary of a file's metadata alone; a model of any kind.
struct TinyVocabulary {
  std::string model = "gpt2", pre = "smollm", chat, name;
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::vector<float> scores;  // of SentencePiece
  std::uint32_t bos = 1, eos = 2;
  bool add_bos = false;

  TinyVocabulary& add(const std::string& token, std::int32_t type = LLAMA_TOKEN_TYPE_NORMAL,
                      float score = 0) {
    tokens.push_back(token);
    types.push_back(type);
    scores.push_back(score);
    return *this;
  }

  reading::Token id(const std::string& token) const {
    return static_cast<reading::Token>(std::ranges::find(tokens, token) - tokens.begin());
  }
  std::int32_t& type_of(const std::string& token) { return types.at(static_cast<std::size_t>(id(token))); }

  std::vector<std::byte> build() const {
    smollm2::test::GgufWriter writer;
    writer.string("general.architecture", "llama").string("general.name", name);
    for (const char* number :
         {"context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"})
      writer.u32(std::string("llama.") + number, 8);
    writer.f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    writer.string("tokenizer.ggml.model", model).string("tokenizer.ggml.pre", pre);
    writer.strings("tokenizer.ggml.tokens", tokens).ints("tokenizer.ggml.token_type", types);
    smollm2::test::Bytes encoded =
        smollm2::test::GgufWriter::array_header(smollm2::GgufType::f32, scores.size());
    for (const float score : scores) encoded.put(score);
    writer.value("tokenizer.ggml.scores", smollm2::GgufType::array, encoded);
    if (model == "gpt2") writer.strings("tokenizer.ggml.merges", merges);
    writer.u32("tokenizer.ggml.bos_token_id", bos).u32("tokenizer.ggml.eos_token_id", eos);
    writer.value("tokenizer.ggml.add_bos_token", smollm2::GgufType::boolean,
                 smollm2::test::Bytes().put(std::uint8_t{add_bos}));
    if (!chat.empty()) writer.string("tokenizer.chat_template", chat);
    return writer.build();
  }
};

/// Byte-level, with ChatML's control tokens first and a few merges.
inline TinyVocabulary tiny_bpe() {
  TinyVocabulary vocabulary;
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"})
    vocabulary.add(control, LLAMA_TOKEN_TYPE_CONTROL);
  for (int byte = 0; byte < 256; ++byte)
    vocabulary.add(smollm2::character_of_byte(static_cast<std::uint8_t>(byte)));
  for (const char* merge : {"a a", "aa aa", "i m", "e n", "en d", "< |", "| >", "1 1", "Ġ Ġ"}) {
    vocabulary.merges.emplace_back(merge);
    std::string merged = merge;
    vocabulary.add(merged.erase(merged.find(' '), 1));
  }
  vocabulary.chat = "{{ '<|im_start|>' }}";
  return vocabulary;
}

/// SentencePiece, with Llama 2's control tokens first, all bytes and ASCII's characters.
inline TinyVocabulary tiny_spm() {
  TinyVocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  vocabulary.add("<unk>", LLAMA_TOKEN_TYPE_UNKNOWN)
      .add("<s>", LLAMA_TOKEN_TYPE_CONTROL)
      .add("</s>", LLAMA_TOKEN_TYPE_CONTROL);
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    const auto high = static_cast<std::size_t>(byte / 16), low = static_cast<std::size_t>(byte % 16);
    vocabulary.add(std::string("<0x") + digits[high] + digits[low] + ">", LLAMA_TOKEN_TYPE_BYTE);
  }
  vocabulary.add("\xE2\x96\x81", LLAMA_TOKEN_TYPE_NORMAL, -50);
  for (char letter = '!'; letter <= '~'; ++letter)
    vocabulary.add(std::string(1, letter), LLAMA_TOKEN_TYPE_NORMAL, -100.0F - static_cast<float>(letter));
  return vocabulary;
}

/// What llama.cpp itself makes of a whole text.
inline std::vector<reading::Token> tokenized(const llama_vocab& vocabulary, const std::string& words,
                                             bool parse_special = false) {
  std::vector<reading::Token> tokens(words.size() + 2);
  const std::int32_t count =
      llama_tokenize(&vocabulary, words.data(), static_cast<std::int32_t>(words.size()), tokens.data(),
                     static_cast<std::int32_t>(tokens.size()), false, parse_special);
  EXPECT_GE(count, 0);
  tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
  return tokens;
}

inline std::vector<reading::Token> encoded(const reading::TextModel& text, const std::string& words) {
  std::vector<reading::Token> tokens;
  text.encode(words, tokens);
  return tokens;
}

inline std::string decoded(const reading::TextModel& text, const std::vector<reading::Token>& tokens) {
  std::string words;
  for (const reading::Token token : tokens) words += text.decode(token);
  return words;
}

}  // namespace llama_cpp::test
