// Texts that nobody may steer a model with: what a vocabulary's chat markers are, and the vocabulary without
// them.
#pragma once

#include <llama-cpp.h>
#include <llama.h>

#include <string>
#include <vector>

namespace llama_cpp {

/// Which tokens a document must not contain, by their number:
///  - control tokens, and all that end an answer (llama_vocab_is_eog), unless they are white space or a
///  single byte;
///  - user-defined (and unknown) tokens in brackets that are made for chats: <|...|>, <｜...｜>, and any
///  <...> or [...] that the
///    model's chat template mentions.
/// Other user-defined tokens are text: runs of spaces or line breaks, digits, <table>.
std::vector<bool> chat_markers(const llama_model& model);

/// The vocabulary of the model in a GGUF file where none of these tokens is spelled by any text. The rest is
/// as it was, and so are all numbers. Throws std::runtime_error with llama.cpp's reason if it cannot be
/// loaded.
llama_model_ptr load_plain_vocabulary(const std::string& path, const std::vector<bool>& markers);

}  // namespace llama_cpp
