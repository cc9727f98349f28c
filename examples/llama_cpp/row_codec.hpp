// Rows of numbers in any of ggml's types, with or without llama.cpp's rotation.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstring>

#include "hadamard.hpp"

namespace llama_cpp {

/// Converts one head's row from and to floats.
struct RowCodec {
  ggml_type type = GGML_TYPE_F16;
  std::size_t width = 0;     ///< numbers
  std::size_t hadamard = 0;  ///< block of the rotation that stored rows have; 0 for none

  bool operator==(const RowCodec&) const = default;

  std::size_t bytes() const noexcept { return ggml_row_size(type, static_cast<std::int64_t>(width)); }

  void decode(const std::byte* row, float* out) const noexcept {
    if (type == GGML_TYPE_F32)
      std::memcpy(out, row, width * sizeof(float));
    else
      ggml_get_type_traits(type)->to_float(row, out, static_cast<std::int64_t>(width));
    llama_cpp::hadamard(out, width, hadamard);
  }

  /// Uses `in` as scratch.
  void encode(float* in, std::byte* row) const noexcept {
    llama_cpp::hadamard(in, width, hadamard);
    if (type == GGML_TYPE_F32)
      std::memcpy(row, in, width * sizeof(float));
    else
      ggml_get_type_traits(type)->from_float_ref(in, row, static_cast<std::int64_t>(width));
  }
};

}  // namespace llama_cpp
