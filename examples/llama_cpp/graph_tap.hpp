// What the outside gets to see of llama.cpp's forward pass: nodes of its graphs, through cb_eval.
#pragma once

#include <ggml.h>
#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tensor_bytes.hpp"

namespace llama_cpp {

/// What a context shows of its attention. With flash attention, which never writes probabilities down, it
/// is queries and keys.
enum class Shows : std::uint8_t { probabilities, queries };

/// Hears what one forward pass does. Calls come from the thread that called llama_decode().
class Listener {
 public:
  /// The cells that the tokens of a micro-batch (n_ubatch) get, one per token, in their order.
  virtual void cells(std::span<const std::int64_t> cells) noexcept = 0;

  /// Whether to show attention. What is not wanted costs next to nothing.
  virtual bool wants_attention() const noexcept = 0;

  /// Whether to show keys as they are written to the cache.
  virtual bool wants_keys() const noexcept { return false; }

  /// One layer's keys of a micro-batch have been written: `node` is a GGML_OP_SET_ROWS whose src[0] holds
  /// them as floats (all heads of a token, tokens) and whose view_src is the cache (all heads of a cell,
  /// cells).
  virtual void keys(std::size_t /*layer*/, const ggml_tensor& /*node*/) noexcept {}

  /// One layer's attention over a micro-batch has been computed: `node` is its softmax (GGML_OP_SOFT_MAX)
  /// or all of it (GGML_OP_FLASH_ATTN_EXT). Returns whether the rest of the graph is to be computed.
  virtual bool attention(std::size_t layer, const ggml_tensor& node) noexcept = 0;

 protected:
  Listener() = default;
  Listener(const Listener&) = default;
  Listener& operator=(const Listener&) = default;
  ~Listener() = default;
};

/// The one callback of a context, which all pots of the context share. It must outlive the context. Between
/// listens, and for all that no listener wants, nodes pass by uncopied and unsplit.
class GraphTap {
 public:
  GraphTap() = default;
  GraphTap(const GraphTap&) = delete;
  GraphTap& operator=(const GraphTap&) = delete;
  ~GraphTap() = default;

  /// Contexts that are made with these parameters show themselves to this tap.
  void install(llama_context_params& parameters) noexcept {
    parameters.cb_eval = on_node;
    parameters.cb_eval_user_data = this;
  }

  /// Known after the first forward pass.
  std::optional<Shows> shows() const noexcept { return shows_; }

  /// Whether the context has been tried out, so that its engines need not.
  bool trusted() const noexcept { return trusted_; }
  void trust() noexcept { trusted_ = true; }

  /// Who hears the next forward passes; null for nobody.
  void listen(Listener* listener) noexcept { listener_ = listener; }

 private:
  static bool on_node(ggml_tensor* node, bool ask, void* tap) {
    auto& self = *static_cast<GraphTap*>(tap);
    return ask ? self.wants(*node) : self.take(*node);
  }

  bool wants(const ggml_tensor& node) noexcept;
  bool take(const ggml_tensor& node) noexcept;

  Listener* listener_ = nullptr;
  std::optional<Shows> shows_;
  bool trusted_ = false;
  TensorBytes bytes_;
};

}  // namespace llama_cpp
