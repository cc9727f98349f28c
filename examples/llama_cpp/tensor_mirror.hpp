// The cache's rows of one sequence as bytes in this machine's memory: in place, or copied there and back.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "cache.hpp"
#include "graph_tap.hpp"

namespace llama_cpp {

/// Keys and values of all layers of a pot, for one stream. In host memory they are where llama.cpp has them.
/// Of what is elsewhere (RPC, devices) this holds a copy, which is fetched, a layer at a time, when it is
/// read and may be old, and sent back when it was changed.
class TensorMirror {
 public:
  TensorMirror(const Cache& cache, std::size_t stream, std::size_t capacity);

  /// The bytes of a layer's stream, with rows 0 .. end - 1 as they are now. From several threads at once.
  std::byte* read(Written what, std::size_t layer, std::size_t end) noexcept;

  /// Those bytes, to write one row to, which flush() sends. From several threads at once.
  std::byte* write(Written what, std::size_t layer, std::size_t row) noexcept;
  void flush() noexcept;

  /// Sends rows 0 .. end - 1 of a layer, which were changed where read() gave them.
  void send(Written what, std::size_t layer, std::size_t end) noexcept;

  /// llama.cpp has written rows, so that copies are old.
  void outdate() noexcept { ++now_; }

  bool in_place() const noexcept { return copies_.empty(); }

 private:
  struct Part {
    ggml_tensor* tensor = nullptr;  // null for values that there are not (MLA)
    std::byte* bytes = nullptr;     // where rows are read and written
    std::size_t begin = 0;          // of the stream in the tensor
    std::uint64_t known = 0;        // when rows were fetched
    std::size_t end = 0;            // and how many
  };

  Part& part(Written what, std::size_t layer) noexcept {
    return parts_[2 * layer + (what == Written::values ? 1 : 0)];
  }
  void fetch(Part& part, Written what, std::size_t end) noexcept;
  void send_rows(Written what, std::size_t layer, std::size_t first, std::size_t end) noexcept;
  void flush_locked() noexcept;
  /// How many bytes of a part are copied.
  std::size_t size_of(const Part& part, Written what, std::size_t capacity) const noexcept;
  /// Where a row begins in a stream; where numbers of a token lie in columns, all of these is one row.
  std::size_t offset_of(const Part& part, Written what, std::size_t row) const noexcept;

  bool transposed_;
  std::vector<Part> parts_;  // (layers, 2)
  std::vector<std::byte> copies_;
  std::uint64_t now_ = 1;
  std::size_t first_written_ = 0, end_written_ = 0;  // rows that are not sent yet
  std::mutex mutex_;
};

}  // namespace llama_cpp
