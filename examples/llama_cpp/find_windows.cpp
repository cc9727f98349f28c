#include "find_windows.hpp"

#include <ggml-backend.h>

#include <cstdint>
#include <stdexcept>

namespace llama_cpp {
namespace {

constexpr llama_state_seq_flags windows_alone = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;

/// Of the sequence's first cell, in each layer.
std::vector<std::vector<std::byte>> first_keys(const SequenceBatch& batch,
                                               std::span<const SeenLayer> layers) {
  std::vector<std::vector<std::byte>> rows;
  for (const SeenLayer& layer : layers) {
    const ggml_tensor& keys = *layer.keys.tensor;
    const std::size_t stream = keys.ne[2] > 1 ? static_cast<std::size_t>(batch.sequence()) : 0;
    rows.emplace_back(ggml_row_size(keys.type, keys.ne[0]));
    ggml_backend_tensor_get(&keys, rows.back().data(), stream * keys.nb[2], rows.back().size());
  }
  return rows;
}

}  // namespace

std::vector<std::size_t> find_windows(SequenceBatch& batch, std::span<const SeenLayer> layers) {
  llama_context& context = batch.context();
  const llama_model& model = *llama_get_model(&context);
  if (llama_model_n_swa(&model) <= 0) return {};
  const llama_seq_id sequence = batch.sequence();
  const auto empty = [&] { llama_memory_seq_rm(llama_get_memory(&context), sequence, -1, -1); };
  const llama_token tokens = llama_vocab_n_tokens(llama_model_get_vocab(&model));
  const llama_token first = tokens / 3, second = tokens / 7;

  batch.decode(std::span(&first, 1), 0, 1);
  std::vector<std::uint8_t> state(llama_state_seq_get_size_ext(&context, sequence, windows_alone));
  // A cache without windows is never saved in part.
  const bool in_part = state.size() < llama_state_seq_get_size(&context, sequence);
  if (in_part) llama_state_seq_get_data_ext(&context, state.data(), state.size(), sequence, windows_alone);
  empty();
  if (!in_part) return {};
  batch.decode(std::span(&second, 1), 0, 1);
  const auto before = first_keys(batch, layers);
  const bool done =
      llama_state_seq_set_data_ext(&context, state.data(), state.size(), sequence, windows_alone) != 0;
  const auto after = first_keys(batch, layers);
  empty();
  if (!done) throw std::runtime_error("llama.cpp cannot put back what it saved of layers with windows");
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (before[i] != after[i]) found.push_back(layers[i].model_layer);
  return found;
}

}  // namespace llama_cpp
