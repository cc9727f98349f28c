#include "plain_vocabulary.hpp"

#include <ggml.h>
#include <gguf.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "error_log.hpp"

namespace llama_cpp {
namespace {

constexpr const char* texts_key = "tokenizer.ggml.tokens";
constexpr const char* types_key = "tokenizer.ggml.token_type";
constexpr const char* name_key = "general.name";
constexpr std::string_view spaces[] = {" ", "\t", "\r", "\n", "▁", "Ġ", "Ċ"};  // as vocabularies write them

bool is_white_space(std::string_view text) {
  while (!text.empty()) {
    std::size_t length = 0;
    for (const std::string_view space : spaces)
      if (text.starts_with(space)) length = space.size();
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

bool is_between(std::string_view text, std::string_view open, std::string_view close) {
  return text.size() > open.size() + close.size() && text.starts_with(open) && text.ends_with(close);
}

bool is_chat_marker(std::string_view text, std::string_view chat_template) {
  if (is_between(text, "<|", "|>") || is_between(text, "<｜", "｜>")) return true;
  return (is_between(text, "<", ">") || is_between(text, "[", "]")) &&
         chat_template.find(text) != std::string_view::npos;
}

bool is_marker(const llama_vocab& vocabulary, llama_token token, std::string_view chat_template) {
  const std::string_view text = llama_vocab_get_text(&vocabulary, token);
  if (text.size() < 2 || is_white_space(text)) return false;
  if (llama_vocab_is_control(&vocabulary, token) || llama_vocab_is_eog(&vocabulary, token)) return true;
  constexpr int special = LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN;
  return (llama_vocab_get_attr(&vocabulary, token) & special) != 0 && is_chat_marker(text, chat_template);
}

using Metadata = std::unique_ptr<gguf_context, decltype(&gguf_free)>;

/// Renames the markers to what no text spells, and makes control tokens of them, which no text becomes.
void hide(gguf_context& file, const std::vector<bool>& markers) {
  const std::int64_t texts_at = gguf_find_key(&file, texts_key), types_at = gguf_find_key(&file, types_key);
  if (texts_at < 0 || gguf_get_arr_n(&file, texts_at) < markers.size())
    throw std::runtime_error("the file is no longer the one that the model was loaded from");
  const std::size_t count = gguf_get_arr_n(&file, texts_at);
  std::vector<std::int32_t> types(count, LLAMA_TOKEN_TYPE_NORMAL);
  if (types_at >= 0 && gguf_get_arr_n(&file, types_at) == count) {
    const auto* const before = static_cast<const std::int32_t*>(gguf_get_arr_data(&file, types_at));
    types.assign(before, before + count);
  }
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < count; ++i) {
    texts.emplace_back(gguf_get_arr_str(&file, texts_at, i));
    if (i >= markers.size() || !markers[i]) continue;
    texts.back() = "\xEF\xBF\xBFhidden" + std::to_string(i);  // U+FFFF is no character
    types[i] = LLAMA_TOKEN_TYPE_CONTROL;
  }
  std::vector<const char*> pointers;
  pointers.reserve(texts.size());
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  gguf_set_arr_str(&file, texts_key, pointers.data(), count);
  gguf_set_arr_data(&file, types_key, GGUF_TYPE_INT32, types.data(), count);
  // For some names llama.cpp insists on the texts of some markers.
  gguf_set_val_str(&file, name_key, "");
}

}  // namespace

std::vector<bool> chat_markers(const llama_model& model) {
  const llama_vocab& vocabulary = *llama_model_get_vocab(&model);
  const char* const chat_template = llama_model_chat_template(&model, nullptr);
  const std::string_view mentioned = chat_template == nullptr ? "" : chat_template;
  std::vector<bool> markers(static_cast<std::size_t>(llama_vocab_n_tokens(&vocabulary)));
  for (std::size_t i = 0; i < markers.size(); ++i)
    markers[i] = is_marker(vocabulary, static_cast<llama_token>(i), mentioned);
  return markers;
}

llama_model_ptr load_plain_vocabulary(const std::string& path, const std::vector<bool>& markers) {
  const std::string what = "cannot read the vocabulary of " + path + " again, to tell text from chat markers";
  const ErrorLog log;
  const Metadata file(gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}), gguf_free);
  if (file == nullptr) throw std::runtime_error(what + ": " + log.cause());
  hide(*file, markers);
  llama_model_params parameters = llama_model_default_params();
  parameters.vocab_only = true;
  llama_model_ptr model(llama_model_init_from_user(
      file.get(), [](ggml_tensor*, void*) {}, nullptr, parameters));
  if (model == nullptr) throw std::runtime_error(what + ": " + log.cause());
  return model;
}

}  // namespace llama_cpp
