// A batch of llama.cpp's with tokens of one sequence.
#pragma once

#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode_error.hpp"

namespace llama_cpp {

/// Decodes tokens of a sequence, at most n_batch at once.
class SequenceBatch {
 public:
  SequenceBatch(llama_context& context, llama_seq_id sequence)
      : context_(context),
        sequence_(sequence),
        positions_(llama_n_batch(&context)),
        counts_(positions_.size(), 1),
        sequences_(positions_.size()),
        wanted_(positions_.size()) {}

  llama_context& context() const noexcept { return context_; }
  llama_seq_id sequence() const noexcept { return sequence_; }
  std::size_t most() const noexcept { return positions_.size(); }

  /// Tokens at position, position + 1, ..., with the logits of those from `first_row` on. Throws
  /// std::runtime_error, with the cause.
  void decode(std::span<const llama_token> tokens, std::size_t position, std::size_t first_row) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      positions_[i] = static_cast<llama_pos>(position + i);
      sequences_[i] = &sequence_;
      wanted_[i] = i >= first_row ? 1 : 0;
    }
    const llama_batch batch{
        .n_tokens = static_cast<std::int32_t>(tokens.size()),
        .token = const_cast<llama_token*>(tokens.data()),  // the C interface lacks the const
        .embd = nullptr,
        .pos = positions_.data(),
        .n_seq_id = counts_.data(),
        .seq_id = sequences_.data(),
        .logits = wanted_.data(),
    };
    if (const std::int32_t status = llama_decode(&context_, batch); status != 0)
      throw std::runtime_error("llama.cpp cannot decode " + std::to_string(tokens.size()) +
                               " tokens at position " + std::to_string(position) + ": " +
                               decode_error(status));
  }

 private:
  llama_context& context_;
  llama_seq_id sequence_;
  std::vector<llama_pos> positions_;  // (n_batch), and so are the others
  std::vector<std::int32_t> counts_;  // of sequences per token: 1
  std::vector<llama_seq_id*> sequences_;
  std::vector<std::int8_t> wanted_;  // whether logits of a token are
};

}  // namespace llama_cpp
