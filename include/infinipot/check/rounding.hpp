// How far stored keys may be from what an engine wrote.
#pragma once

#include <concepts>
#include <type_traits>

#include "infinipot/element.hpp"
#include "infinipot/pot/quantize.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// The largest error of a stored channel x of a row: relative * |x| + of_largest * (the row's largest |x|).
struct Rounding {
  double relative = 0;
  double of_largest = 0;
};

/// The rounding of an element type: half a unit in the last place of floats (24, 11 and 8 significant bits);
/// half a step of codes: an int8 step is the largest |x| / 127, an int4 step the range, at most twice that, /
/// 15 (see RowCodec), both a little more for their scale's own rounding to f16.
template <class T>
constexpr Rounding rounding_of() {
  if constexpr (std::same_as<T, f32>) return {.relative = 0x1p-24, .of_largest = 0};
  if constexpr (std::same_as<T, f16>) return {.relative = 0x1p-11, .of_largest = 0};
  if constexpr (std::same_as<T, bf16>) return {.relative = 0x1p-8 / 2, .of_largest = 0};
  if constexpr (std::same_as<T, int8>) return {.relative = 0, .of_largest = 1.01 / 254};
  if constexpr (std::same_as<T, int4>) return {.relative = 0, .of_largest = 1.01 / 15};
  return {};
}

namespace detail {

/// That of a store that says its element type; else as loose as int8.
template <class S>
constexpr Rounding store_rounding() {
  if constexpr (requires { typename S::element; })
    return rounding_of<typename S::element>();
  else
    return rounding_of<int8>();
}

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
