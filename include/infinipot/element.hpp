// Element types of stored keys and values, and their conversion to and from float.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <cstddef>

namespace infinipot {

using f32 = float;
using f16 = Eigen::half;       // IEEE 754 binary16
using bf16 = Eigen::bfloat16;  // the upper half of a binary32

/// A type that a pot can store its keys and values in.
template <class T>
concept Element = std::same_as<T, f32> || std::same_as<T, f16> || std::same_as<T, bf16>;

namespace detail {

template <class T>
using Row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <class T>
using ConstRow = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

/// out[i] = float(in[i]), exact. The ranges may not overlap.
template <Element T>
void to_float(const T* in, std::size_t n, float* out) noexcept {
  const auto size = static_cast<Eigen::Index>(n);
  Row<float>(out, size) = ConstRow<T>(in, size).template cast<float>();
}

/// out[i] = in[i] rounded to nearest even; beyond the type's range it becomes infinite. No overlap.
template <Element T>
void from_float(const float* in, std::size_t n, T* out) noexcept {
  const auto size = static_cast<Eigen::Index>(n);
  Row<T>(out, size) = ConstRow<float>(in, size).template cast<T>();
}

}  // namespace detail
}  // namespace infinipot
