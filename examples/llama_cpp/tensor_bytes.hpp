// Reads a tensor wherever it is: in this machine's memory, on a device, or on another machine.
#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <vector>

namespace llama_cpp {

/// The bytes of one tensor at a time. Allocates only for tensors that are not in host memory, and then only
/// when one is larger than all before it.
class TensorBytes {
 public:
  /// All ggml_nbytes(tensor) of them, valid until the next call.
  const std::byte* read(const ggml_tensor& tensor) {
    const ggml_tensor& root = tensor.view_src != nullptr ? *tensor.view_src : tensor;
    if (ggml_backend_buffer_is_host(root.buffer)) return static_cast<const std::byte*>(tensor.data);
    if (copy_.size() < ggml_nbytes(&tensor)) copy_.resize(ggml_nbytes(&tensor));
    ggml_backend_tensor_get(&tensor, copy_.data(), 0, ggml_nbytes(&tensor));
    return copy_.data();
  }

 private:
  std::vector<std::byte> copy_;
};

}  // namespace llama_cpp
