// What a store says about the RoPE of its keys.
#pragma once

#include <cstddef>
#include <vector>

#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

struct RopeClaim {
  std::vector<Rope> ropes;  ///< (layers), without frequencies where keys have no position
  KeyStorage storage = KeyStorage::rotated;
  bool stated = false;  ///< whether it says anything about RoPE
  Rounding rounding;    ///< of its keys

  /// Whether other layers than this one have RoPE.
  bool leaves_out(std::size_t layer) const noexcept {
    if (!ropes[layer].frequencies.empty()) return false;
    for (const Rope& rope : ropes)
      if (!rope.frequencies.empty()) return true;
    return false;
  }
};

template <class S>
RopeClaim claim_of(const S& store, Rounding rounding) {
  RopeClaim claim{.ropes = {}, .storage = claimed_storage(store), .rounding = rounding};
  if constexpr (requires { store.rope(); }) claim.stated = true;
  for (std::size_t layer = 0; layer < Shape(store.shape()).layers; ++layer)
    claim.ropes.push_back(claimed_rope(store, layer));
  return claim;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
