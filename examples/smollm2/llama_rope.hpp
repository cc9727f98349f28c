// The rotation that a model's file asks for.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "infinipot/rope.hpp"
#include "llama_metadata.hpp"

namespace smollm2 {

/// RoPE as llama.cpp reads it from a GGUF file: rope.dimension_count, rope.freq_base, rope.scaling.type
/// (none, linear, yarn, longrope; linear if there is but a factor), rope.scaling.factor or the older
/// rope.scale_linear, rope.scaling.original_context_length, rope.scaling.attn_factor, and the tensors with a
/// divisor for each frequency: rope_freqs (Llama 3), rope_factors_short and rope_factors_long (LongRoPE).
class LlamaRope {
 public:
  /// The tensors that from() reads, or refuses where the scaling has no use for them.
  static constexpr std::array<std::string_view, 3> tensors{"rope_freqs.weight", "rope_factors_short.weight",
                                                           "rope_factors_long.weight"};

  LlamaRope() = default;

  /// Throws GgufError that names the key or tensor, and what would be valid.
  static LlamaRope from(LlamaMetadata& read, std::size_t head_dim, std::size_t context_length,
                        infinipot::Pairing pairing);

  /// The rotation in a memory of `context` entries. LongRoPE has one for up to as many as it was first
  /// trained on and one for more; as in llama.cpp the room decides, not how much of it is in use.
  const infinipot::Rope& in_context(std::size_t context) const noexcept {
    return context > original_context_ ? long_ : short_;
  }

 private:
  std::size_t original_context_ = 0;
  infinipot::Rope short_;
  infinipot::Rope long_;  // the same, but for LongRoPE
};

}  // namespace smollm2
