// NuC straight from hidden states: the product with the output matrix and the log-sum-exp in one, by tiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/element.hpp"
#include "infinipot/online_nuc.hpp"
#include "infinipot/shape.hpp"

namespace infinipot {

/// An output matrix (vocab, width): one row of weights for each token.
template <Element T>
struct OutputMatrix {
  const T* data = nullptr;
  std::size_t vocab = 0;
  std::size_t width = 0;
  std::ptrdiff_t row_stride = 0;  ///< elements from one token's row to the next; 0 means width

  std::ptrdiff_t stride() const noexcept {
    return row_stride != 0 ? row_stride : static_cast<std::ptrdiff_t>(width);
  }
  const T* row(std::size_t token) const noexcept {
    return data + static_cast<std::ptrdiff_t>(token) * stride();
  }
};

namespace detail {

/// Hidden rows that a product takes at once, one in each lane of two packets.
inline constexpr std::size_t hidden_lanes = 2 * packet_size;

/// out[r][lane] += sum over k of weights[r][k] * hidden[k][lane]. Each lane is a chain of its own in the
/// order of k, so that no row depends on its neighbours. Not inline: this loop needs nearly all registers.
template <std::size_t... row>
[[gnu::noinline]] void add_products(std::index_sequence<row...>, const float* weights, std::ptrdiff_t stride,
                                    const float* hidden, std::size_t depth, float* out) noexcept {
  Packet left[sizeof...(row)] = {load(out + row * hidden_lanes)...};
  Packet right[sizeof...(row)] = {load(out + row * hidden_lanes + packet_size)...};
  for (std::size_t k = 0; k < depth; ++k) {
    const Packet h0 = load(hidden + k * hidden_lanes);
    const Packet h1 = load(hidden + k * hidden_lanes + packet_size);
    const auto step = [&](std::size_t r) {
      const Packet weight =
          broadcast(weights[static_cast<std::ptrdiff_t>(r) * stride + static_cast<std::ptrdiff_t>(k)]);
      left[r] = multiply_add(weight, h0, left[r]);
      right[r] = multiply_add(weight, h1, right[r]);
    };
    (step(row), ...);
  }
  ((store(out + row * hidden_lanes, left[row]), store(out + row * hidden_lanes + packet_size, right[row])),
   ...);
}

/// out (lanes, count) = in (count, lanes), rows of `out` `stride` floats apart.
inline void transpose_lanes(const float* in, std::size_t count, float* out, std::size_t stride) noexcept {
  constexpr auto side = static_cast<int>(packet_size);
  using Block = Eigen::Matrix<float, side, side, Eigen::RowMajor>;  // Eigen transposes these in registers
  using Stride = Eigen::OuterStride<>;
  std::size_t t = 0;
  for (; t + packet_size <= count; t += packet_size)
    for (std::size_t lane = 0; lane < hidden_lanes; lane += packet_size) {
      Block block = Eigen::Map<const Block, 0, Stride>(in + t * hidden_lanes + lane, Stride(hidden_lanes));
      block.transposeInPlace();
      Eigen::Map<Block, 0, Stride>(out + lane * stride + t, Stride(static_cast<Eigen::Index>(stride))) =
          block;
    }
  for (; t < count; ++t)
    for (std::size_t lane = 0; lane < hidden_lanes; ++lane)
      out[lane * stride + t] = in[t * hidden_lanes + lane];
}

}  // namespace detail

/// NuC of rows of hidden states (after the last norm), as nuc(output matrix * row, target) would be, with
/// memory for tiles only: no (rows, vocab) logits exist. A row's score is the same bits whichever rows are
/// scored with it. Allocates in the constructor only; one object per thread.
///
/// Rows are worked on in blocks of two packets, so a few rows take as long as a whole block: for one row
/// alone, a matrix-vector product and nuc() are faster.
///
/// For an output matrix in another form (quantised, packed, split among threads) use OnlineNuc and the
/// engine's own product.
class NucFromHidden {
 public:
  /// For rows of `width` floats. Throws std::invalid_argument if it is 0.
  explicit NucFromHidden(std::size_t width)
      : width_(checked(width)),
        hidden_(row_tile * width),
        weights_(token_step * depth_tile),
        products_(row_tile * token_tile),
        logits_(detail::hidden_lanes * token_tile),
        online_(row_tile) {}

  std::size_t width() const noexcept { return width_; }

  /// nuc[r] = -log softmax(output * hidden row r)[targets[r]], nats, for all targets.size() rows, which are
  /// `row_stride` floats apart. >= 0; +inf for a token whose logit is -inf; NaN if a logit is NaN or +inf, or
  /// if none is above -inf. Preconditions: output.width == width(), 0 <= target < output.vocab, nuc is as
  /// long as targets.
  template <Element T>
  void score(const float* hidden, std::ptrdiff_t row_stride, const OutputMatrix<T>& output,
             std::span<const Token> targets, std::span<float> nuc) noexcept {
    for (std::size_t first = 0; first < targets.size(); first += row_tile) {
      const std::size_t rows = std::min(row_tile, targets.size() - first);
      pack(hidden + static_cast<std::ptrdiff_t>(first) * row_stride, row_stride, rows);
      online_.start(targets.subspan(first, rows));
      for (std::size_t token = 0; token < output.vocab; token += token_tile)
        add_tile(output, token, std::min(token_tile, output.vocab - token));
      for (std::size_t row = 0; row < rows; ++row) nuc[first + row] = online_.nuc(row);
    }
  }

 private:
  // A tile's products (row_tile, token_tile) and the hidden states and weights of depth_tile columns stay in
  // the second-level cache together, and a lane block's hidden states in the first.
  static constexpr std::size_t row_tile = 256;
  static constexpr std::size_t token_tile = 256;
  static constexpr std::size_t depth_tile = 256;
  static constexpr std::size_t token_step = detail::packet_size == 16 ? 8 : 4;

  static std::size_t checked(std::size_t width) {
    if (width == 0) detail::invalid("width is 0; it must be at least 1");
    return width;
  }

  std::size_t blocks() const noexcept {
    return (online_.rows() + detail::hidden_lanes - 1) / detail::hidden_lanes;
  }

  // hidden_ (blocks, width, hidden_lanes)
  void pack(const float* hidden, std::ptrdiff_t stride, std::size_t rows) noexcept {
    constexpr std::size_t lanes = detail::hidden_lanes;
    std::fill_n(hidden_.data(), (rows + lanes - 1) / lanes * lanes * width_, 0.0F);
    for (std::size_t row = 0; row < rows; ++row) {
      float* const to = hidden_.data() + row / lanes * lanes * width_ + row % lanes;
      const float* const from = hidden + static_cast<std::ptrdiff_t>(row) * stride;
      for (std::size_t k = 0; k < width_; ++k) to[k * lanes] = from[k];
    }
  }

  template <Element T>
  void add_tile(const OutputMatrix<T>& output, std::size_t first, std::size_t tokens) noexcept {
    constexpr std::size_t lanes = detail::hidden_lanes;
    std::fill_n(products_.data(), blocks() * lanes * token_tile, 0.0F);
    for (std::size_t k = 0; k < width_; k += depth_tile) {
      const std::size_t depth = std::min(depth_tile, width_ - k);
      for (std::size_t t = 0; t < tokens; t += token_step)
        add_products(output, first, t, std::min(token_step, tokens - t), k, depth);
    }
    for (std::size_t block = 0; block < blocks(); ++block) {
      detail::transpose_lanes(products_.data() + block * lanes * token_tile, tokens, logits_.data(),
                              token_tile);
      const std::size_t row = block * lanes;
      online_.add({logits_.data(), static_cast<std::ptrdiff_t>(token_tile), row,
                   std::min(lanes, online_.rows() - row), first, tokens});
    }
  }

  // products_ (blocks, token_tile, hidden_lanes)
  template <Element T>
  void add_products(const OutputMatrix<T>& output, std::size_t first, std::size_t t, std::size_t count,
                    std::size_t k, std::size_t depth) noexcept {
    constexpr std::size_t lanes = detail::hidden_lanes;
    const float* weights = nullptr;
    std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(depth_tile);
    if constexpr (std::same_as<T, f32>) {
      weights = output.row(first + t) + k;
      stride = output.stride();
    } else {
      for (std::size_t i = 0; i < count; ++i)
        detail::to_float(output.row(first + t + i) + k, depth, weights_.data() + i * depth_tile);
      weights = weights_.data();
    }
    for (std::size_t block = 0; block < blocks(); ++block) {
      const float* const hidden = hidden_.data() + (block * width_ + k) * lanes;
      float* const out = products_.data() + (block * token_tile + t) * lanes;
      if (count == token_step)
        detail::add_products(std::make_index_sequence<token_step>(), weights, stride, hidden, depth, out);
      else
        for (std::size_t i = 0; i < count; ++i)
          detail::add_products(std::make_index_sequence<1>(),
                               weights + static_cast<std::ptrdiff_t>(i) * stride, stride, hidden, depth,
                               out + i * lanes);
    }
  }

  std::size_t width_;
  std::vector<float> hidden_;    // (row_tile / hidden_lanes, width, hidden_lanes)
  std::vector<float> weights_;   // (token_step, depth_tile), of elements that must be converted
  std::vector<float> products_;  // (row_tile / hidden_lanes, token_tile, hidden_lanes)
  std::vector<float> logits_;    // (hidden_lanes, token_tile)
  OnlineNuc online_;
};

}  // namespace infinipot
