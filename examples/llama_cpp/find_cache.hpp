// Finds a context's cache, and proves that it is what a pot needs, before any pot relies on it.
#pragma once

#include <llama.h>

#include <memory>

#include "cache.hpp"
#include "graph_tap.hpp"

namespace llama_cpp {

/// Decodes one token alone, at position 0 and then at 777, and watches what is written to the cache. A token
/// that is alone has the same keys but for their rotation, so in every layer
///  - the cache must hold what was computed, up to the rounding of its type, where this says that it is;
///  - the keys at 777 must be those at 0, turned by 777 as the model's RoPE says, or as they were.
///
/// Uses `sequence`, which must be empty, and leaves it so. `tap` must be the context's, and nobody may listen
/// to it. Other sequences are not touched.
///
/// Throws std::invalid_argument, with what was seen, for a context that no pot can lie over, and
/// std::runtime_error if llama.cpp cannot decode or does not show itself to the tap.
std::shared_ptr<const Cache> find_cache(GraphTap& tap, llama_context& context, llama_seq_id sequence);

}  // namespace llama_cpp
