// What tiny models of today's families are made of, and what is to be known of one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "infinipot/rope.hpp"
#include "tiny_models.hpp"

namespace llama_cpp::test {

/// A model's file and what is to be known of it.
struct TinyFamily {
  std::string name;
  std::vector<std::byte> file;
  /// A letter for each layer: w sees a window, r is recurrent, the others keep the whole context, n without
  /// RoPE and g with it.
  std::string layers = "gggg";
  std::size_t kv_heads = 2, head_dim = 6, value_dim = 6;  ///< of a cached row; value_dim 0: part of the key
  infinipot::Pairing pairing = infinipot::Pairing::half_split;
  std::size_t first_channel = 0, turned = 6;  ///< which channels of a key RoPE turns
  std::size_t window = 0;                     ///< how many tokens layers with windows see, the last included
  std::size_t vocab_size = 53;
  bool experts = false;  ///< whether tokens go through some of several feed-forward parts
  /// What floats that are added in another order may change of logits, ||a - b|| / ||b||.
  double float_error = 2e-5;

  friend std::ostream& operator<<(std::ostream& out, const TinyFamily& family) { return out << family.name; }

  std::size_t count(char kind) const { return static_cast<std::size_t>(std::ranges::count(layers, kind)); }
};

/// Sizes that all families share; four layers, so that each kind of layer comes twice.
struct TinySizes {
  std::size_t layers = 4, query_heads = 4, kv_heads = 2, head_dim = 6;
  std::size_t width() const noexcept { return query_heads * head_dim; }
};

namespace tiny {

using smollm2::test::GgufWriter;
using smollm2::test::TinyLlama;

inline TinyLlama llama(const TinySizes& sizes) {
  return tiny_llama_of(sizes.layers, sizes.query_heads, sizes.kv_heads, sizes.head_dim);
}

/// `more` with the name of a block in front, for each of them.
inline void for_blocks(TinyLlama& model, const std::function<void(const std::string& block)>& more) {
  for (std::size_t layer = 0; layer < model.layers; ++layer) more(model.prefix(layer));
}

/// One matrix (outputs, inputs) for each of `count`.
inline void add_stack(TinyLlama& model, const std::string& name, std::size_t count, std::size_t outputs,
                      std::size_t inputs) {
  model.add(name, count * outputs, inputs);
  model.dims[name] = {inputs, outputs, count};
}

/// A vector of numbers around 0, not 1 as norms have them.
inline void add_bias(TinyLlama& model, const std::string& name, std::size_t size) {
  model.add(name, size, 1);
  model.dims[name] = {size};
}

inline void remove(TinyLlama& model, const std::vector<std::string>& names) {
  for_blocks(model, [&](const std::string& block) {
    for (const std::string& name : names) {
      model.tensors.erase(block + name);
      model.dims.erase(block + name);
    }
  });
}

/// All but the file, for keys that turn whole.
inline TinyFamily family(const std::string& name, const TinySizes& sizes, const std::string& layers,
                         infinipot::Pairing pairing) {
  TinyFamily family;
  family.name = name;
  family.layers = layers;
  family.kv_heads = sizes.kv_heads;
  family.head_dim = family.value_dim = family.turned = sizes.head_dim;
  family.pairing = pairing;
  return family;
}

inline std::vector<std::byte> scaled_llama(const TinySizes& sizes, const std::string& type,
                                           const std::function<void(GgufWriter&)>& more) {
  GgufWriter writer = tiny_writer(llama(sizes));
  writer.string("llama.rope.scaling.type", type);
  more(writer);
  return writer.build();
}

}  // namespace tiny

}  // namespace llama_cpp::test
