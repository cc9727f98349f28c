// Finds the layers that see a window: the last tokens only.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cache_listener.hpp"
#include "sequence_batch.hpp"

namespace llama_cpp {

/// Which of the layers (those of the model, ascending) see a window. llama.cpp does not say so, but a state
/// of which only a part is saved (LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) holds the rows of these layers alone;
/// so a token's are saved, another token is decoded in its place, and the first one's are put back.
///
/// Decodes two tokens in the batch's sequence, which must be empty, and is in the end. Nobody may listen.
std::vector<std::size_t> find_windows(SequenceBatch& batch, std::span<const SeenLayer> layers);

}  // namespace llama_cpp
