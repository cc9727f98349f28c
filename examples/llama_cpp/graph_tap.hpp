// What the outside gets to see of llama.cpp's forward pass: nodes of its graphs, through cb_eval.
#pragma once

#include <ggml.h>
#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tensor_bytes.hpp"

namespace llama_cpp {

class Cache;

/// What a context shows of its attention. With flash attention, which never writes probabilities down, it
/// is queries and keys.
enum class Shows : std::uint8_t { probabilities, queries };

/// A cell of the cache: of the part that belongs to one sequence (stream), or of all of it if sequences share
/// their cells, which then is stream 0.
struct CacheRow {
  std::uint32_t stream;
  std::uint32_t cell;
};

enum class Written : std::uint8_t { keys, values };

/// Hears what one forward pass does. Calls come from the thread that called llama_decode().
class Listener {
 public:
  /// The cells that the tokens of a micro-batch (n_ubatch) get, one per token, in their order. llama.cpp
  /// splits a batch of several sequences into micro-batches that have equally many tokens of each; those of
  /// one sequence are neighbours. Only once the cache is known (GraphTap::cache()).
  virtual void rows(std::span<const CacheRow> /*rows*/) noexcept {}

  /// The same of layers with windows, which have cells of their own.
  virtual void window_rows(std::span<const CacheRow> /*rows*/) noexcept {}

  /// Whether to show attention. What is not wanted costs next to nothing.
  virtual bool wants_attention() const noexcept { return false; }

  /// One layer's attention over a micro-batch has been computed: `node` is its softmax (GGML_OP_SOFT_MAX)
  /// or all of it (GGML_OP_FLASH_ATTN_EXT). `layer` is the model's that wrote the keys; those that share its
  /// keys are shown as this layer too. Returns whether the rest of the graph is to be computed.
  virtual bool attention(std::size_t /*layer*/, const ggml_tensor& /*node*/) noexcept { return true; }

  /// Whether to show keys and values as they are written to the cache.
  virtual bool wants_written() const noexcept { return false; }

  /// One layer's keys or values of a micro-batch have been written: `node` is a GGML_OP_SET_ROWS.
  virtual void written(Written /*what*/, std::size_t /*layer*/, const ggml_tensor& /*node*/) noexcept {}

  /// Something is written to a cache that holds neither keys nor values of a layer.
  virtual void written_elsewhere(const ggml_tensor& /*cache*/) noexcept {}

  /// Whether nothing at all is to be computed: a micro-batch is to take its cells and no more.
  virtual bool takes_cells_alone() const noexcept { return false; }

 protected:
  Listener() = default;
  Listener(const Listener&) = default;
  Listener& operator=(const Listener&) = default;
  ~Listener() = default;
};

/// The one callback of a context, which all pots of the context share; another context needs another. It must
/// outlive the context. Between listens, and for all that no listener wants, nodes pass by uncopied and
/// unsplit.
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

  /// Known after the first forward pass with a listener.
  std::optional<Shows> shows() const noexcept { return shows_; }

  /// What was found out about the context's cache; null until its first pot is made.
  const std::shared_ptr<const Cache>& cache() const noexcept { return cache_; }

  /// The same, found out now (find_cache()) if it was not before, in a sequence that is empty. Throws what
  /// find_cache() throws, and std::invalid_argument if the tap knows another context's.
  const std::shared_ptr<const Cache>& cache_of(llama_context& context, llama_seq_id sequence);

  /// Who hears the next forward passes; null for nobody.
  void listen(Listener* listener) noexcept { listener_ = listener; }

 private:
  static bool on_node(ggml_tensor* node, bool ask, void* tap) {
    auto& self = *static_cast<GraphTap*>(tap);
    return ask ? self.wants(*node) : self.take(*node);
  }

  bool wants(const ggml_tensor& node) noexcept;
  bool take(const ggml_tensor& node) noexcept;
  std::span<const CacheRow> rows_of(const ggml_tensor& node) noexcept;

  Listener* listener_ = nullptr;
  std::optional<Shows> shows_;
  std::shared_ptr<const Cache> cache_;
  const llama_context* context_ = nullptr;  // whose cache it is
  TensorBytes bytes_;
  std::vector<CacheRow> rows_;  // of a micro-batch; grows to the largest
};

/// Hears what is decoded while it lives.
class Listening {
 public:
  Listening(GraphTap& tap, Listener& listener) noexcept : tap_(tap) { tap_.listen(&listener); }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;
  ~Listening() { tap_.listen(nullptr); }

 private:
  GraphTap& tap_;
};

}  // namespace llama_cpp
