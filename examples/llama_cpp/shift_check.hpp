// Whether llama.cpp's K-shift is right for a model: it is asked once, before a pot relies on it.
#pragma once

#include <llama.h>

#include "graph_tap.hpp"

namespace llama_cpp {

/// Moves one token in 8 steps from position 128 to 0 and compares its keys in all layers with those that the
/// model computes at position 0. A token that is alone has the same keys but for their rotation, so what
/// differs is llama.cpp's: for some models it multiplies keys by a factor, or turns keys that it should not,
/// whenever it moves any, and it does so to all sequences of the context.
///
/// Uses `sequence`, and leaves it empty. `tap` must be the context's, and nobody may listen to it.
///
/// Throws std::invalid_argument
///  - if the keys differ by more than their rounding explains, with what was seen;
///  - if the keys are of a type that llama.cpp cannot move, or in blocks that heads do not fill;
///  - if any sequence of the context holds tokens, since the attempt could damage them.
/// Throws std::runtime_error if llama.cpp cannot decode or does not show its keys to the tap.
void check_shift(GraphTap& tap, llama_context& context, llama_seq_id sequence);

}  // namespace llama_cpp
