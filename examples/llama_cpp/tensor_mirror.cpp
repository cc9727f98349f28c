#include "tensor_mirror.hpp"

#include <ggml-backend.h>

#include <algorithm>

#include "tensor_bytes.hpp"

namespace llama_cpp {

TensorMirror::TensorMirror(const Cache& cache, std::size_t stream, std::size_t capacity)
    : transposed_(cache.transposed()) {
  std::size_t copied = 0;
  for (const CacheLayer& layer : cache.layers())
    for (ggml_tensor* const tensor : {layer.keys, layer.values}) {
      Part& added = parts_.emplace_back();
      if (tensor == nullptr) continue;
      added.tensor = tensor;
      added.begin = stream * tensor->nb[2];
      if (cache.on_host()) added.bytes = static_cast<std::byte*>(tensor->data) + added.begin;
      copied += size_of(added, tensor == layer.keys ? Written::keys : Written::values, capacity);
    }
  if (cache.on_host()) return;
  copies_.resize(copied);
  std::byte* next = copies_.data();
  for (std::size_t layer = 0; layer < cache.layers().size(); ++layer)
    for (const Written what : {Written::keys, Written::values}) {
      Part& placed = part(what, layer);
      placed.bytes = next;
      next += size_of(placed, what, capacity);
    }
}

std::size_t TensorMirror::size_of(const Part& part, Written what, std::size_t capacity) const noexcept {
  return part.tensor == nullptr ? 0 : offset_of(part, what, capacity);
}

std::size_t TensorMirror::offset_of(const Part& part, Written what, std::size_t row) const noexcept {
  if (what == Written::values && transposed_) return row == 0 ? 0 : part.tensor->nb[2];
  return row * part.tensor->nb[1];
}

void TensorMirror::fetch(Part& part, Written what, std::size_t end) noexcept {
  if (part.tensor == nullptr || (part.known == now_ && part.end >= end)) return;
  if (end > 0) ggml_backend_tensor_get(part.tensor, part.bytes, part.begin, offset_of(part, what, end));
  part.known = now_;
  part.end = end;
}

std::byte* TensorMirror::read(Written what, std::size_t layer, std::size_t end) noexcept {
  Part& read = part(what, layer);
  if (in_place()) return read.bytes;
  const std::lock_guard lock(mutex_);
  flush_locked();
  fetch(read, what, end);
  return read.bytes;
}

std::byte* TensorMirror::write(Written what, std::size_t layer, std::size_t row) noexcept {
  Part& written = part(what, layer);
  if (in_place()) return written.bytes;
  const std::lock_guard lock(mutex_);
  // Columns are sent with what they hold beside this row.
  if (what == Written::values && transposed_) fetch(written, what, 1);
  first_written_ = first_written_ == end_written_ ? row : std::min(first_written_, row);
  end_written_ = std::max(end_written_, row + 1);
  return written.bytes;
}

void TensorMirror::send_rows(Written what, std::size_t layer, std::size_t first, std::size_t end) noexcept {
  const Part& sent = part(what, layer);
  if (first >= end || sent.tensor == nullptr) return;
  const std::size_t from = what == Written::values && transposed_ ? 0 : offset_of(sent, what, first);
  ggml_backend_tensor_set(sent.tensor, sent.bytes + from, sent.begin + from,
                          offset_of(sent, what, end) - from);
}

void TensorMirror::send(Written what, std::size_t layer, std::size_t end) noexcept {
  if (!in_place()) send_rows(what, layer, 0, end);
}

void TensorMirror::flush_locked() noexcept {
  for (std::size_t layer = 0; 2 * layer < parts_.size(); ++layer)
    for (const Written what : {Written::keys, Written::values})
      send_rows(what, layer, first_written_, end_written_);
  first_written_ = end_written_ = 0;
}

void TensorMirror::flush() noexcept {
  if (in_place()) return;
  const std::lock_guard lock(mutex_);
  flush_locked();
}

}  // namespace llama_cpp
