// Reads a tensor wherever it is: in this machine's memory, on a device, or on another machine.
#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <vector>

namespace llama_cpp {

/// The tensor that a view is one of, however many views lie between.
inline const ggml_tensor& root_of(const ggml_tensor& tensor) noexcept {
  const ggml_tensor* root = &tensor;
  while (root->view_src != nullptr) root = root->view_src;
  return *root;
}

inline bool is_on_host(const ggml_tensor& tensor) noexcept {
  return ggml_backend_buffer_is_host(root_of(tensor).buffer);
}

/// The bytes of one tensor at a time. Allocates only for tensors that are not in host memory, and then only
/// when one is larger than all before it.
class TensorBytes {
 public:
  /// All ggml_nbytes(tensor) of them, valid until the next call.
  const std::byte* read(const ggml_tensor& tensor) {
    if (is_on_host(tensor)) return static_cast<const std::byte*>(tensor.data);
    if (copy_.size() < ggml_nbytes(&tensor)) copy_.resize(ggml_nbytes(&tensor));
    ggml_backend_tensor_get(&tensor, copy_.data(), 0, ggml_nbytes(&tensor));
    return copy_.data();
  }

 private:
  std::vector<std::byte> copy_;
};

}  // namespace llama_cpp
