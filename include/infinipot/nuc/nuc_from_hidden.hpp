// NuC straight from hidden states: output matrix product and log-sum-exp fused, by tiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/detail/simd.hpp"
#include "infinipot/element.hpp"
#include "infinipot/nuc/online_nuc.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// An output matrix (vocab, width): one row of weights per token.
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

/// Hidden rows per product, side by side in two packets.
inline constexpr std::size_t block_rows = 2 * packet_size;

/// out[r][i] += sum over k of weights[r][k] * hidden[k][i]. Each hidden row i is summed on its own, in the
/// order of k: no row depends on its neighbours. Not inline: this loop needs nearly all registers.
template <std::size_t... row>
[[gnu::noinline]] void add_products(std::index_sequence<row...>, const float* weights, std::ptrdiff_t stride,
                                    const float* hidden, std::size_t depth, float* out) noexcept {
  Packet left[sizeof...(row)] = {load(out + row * block_rows)...};
  Packet right[sizeof...(row)] = {load(out + row * block_rows + packet_size)...};
  for (std::size_t k = 0; k < depth; ++k) {
    const Packet h0 = load(hidden + k * block_rows);
    const Packet h1 = load(hidden + k * block_rows + packet_size);
    const auto step = [&](std::size_t r) {
      const Packet weight =
          broadcast(weights[static_cast<std::ptrdiff_t>(r) * stride + static_cast<std::ptrdiff_t>(k)]);
      left[r] = multiply_add(weight, h0, left[r]);
      right[r] = multiply_add(weight, h1, right[r]);
    };
    (step(row), ...);
  }
  ((store(out + row * block_rows, left[row]), store(out + row * block_rows + packet_size, right[row])), ...);
}

/// out (block_rows, count) = in (count, block_rows), rows of `out` `stride` floats apart.
inline void transpose_block(const float* in, std::size_t count, float* out, std::size_t stride) noexcept {
  using namespace Eigen::internal;
  // By squares in registers. GCC 12 warns of those of 16 floats a side, see detail/simd.hpp.
  using Side = find_best_packet<float, 8>::type;
  constexpr std::size_t side = unpacket_traits<Side>::size;
  PacketBlock<Side, static_cast<int>(side)> square;
  std::size_t t = 0;
  for (; t + side <= count; t += side)
    for (std::size_t row = 0; row < block_rows; row += side) {
      for (std::size_t i = 0; i < side; ++i) square.packet[i] = ploadu<Side>(in + (t + i) * block_rows + row);
      ptranspose(square);
      for (std::size_t i = 0; i < side; ++i) pstoreu(out + (row + i) * stride + t, square.packet[i]);
    }
  for (; t < count; ++t)
    for (std::size_t row = 0; row < block_rows; ++row) out[row * stride + t] = in[t * block_rows + row];
}

}  // namespace detail

/// NuC of rows of hidden states (after the last norm): nuc(output matrix * row, target), with memory for
/// tiles only, never (rows, vocab) logits. A row's score has the same bits whichever rows are scored with it.
/// Allocates in the constructor only; one object per thread.
///
/// Rows are scored in blocks of two packets, and a few take as long as a whole block: for a single row, a
/// matrix-vector product and nuc() are faster.
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
        logits_(block_rows * token_tile),
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
      const std::size_t rows = (std::min)(row_tile, targets.size() - first);
      pack(hidden + static_cast<std::ptrdiff_t>(first) * row_stride, row_stride, rows);
      online_.start(targets.subspan(first, rows));
      for (std::size_t token = 0; token < output.vocab; token += token_tile)
        add_tile(output, token, (std::min)(token_tile, output.vocab - token));
      for (std::size_t row = 0; row < rows; ++row) nuc[first + row] = online_.nuc(row);
    }
  }

 private:
  // A tile's products (row_tile, token_tile) and the hidden states and weights of depth_tile columns stay in
  // the second-level cache together, and a block's hidden states in the first.
  static constexpr std::size_t block_rows = detail::block_rows;
  static constexpr std::size_t row_tile = 256;
  static constexpr std::size_t token_tile = 256;
  static constexpr std::size_t depth_tile = 256;
  static constexpr std::size_t token_step = detail::packet_size == 16 ? 8 : 4;

  static std::size_t checked(std::size_t width) {
    if (width == 0) detail::invalid("width is 0; it must be at least 1");
    return width;
  }

  std::size_t blocks() const noexcept { return (online_.rows() + block_rows - 1) / block_rows; }

  // hidden_ (blocks, width, block_rows)
  void pack(const float* hidden, std::ptrdiff_t stride, std::size_t rows) noexcept {
    std::fill_n(hidden_.data(), (rows + block_rows - 1) / block_rows * block_rows * width_, 0.0F);
    for (std::size_t row = 0; row < rows; ++row) {
      float* const to = hidden_.data() + row / block_rows * block_rows * width_ + row % block_rows;
      const float* const from = hidden + static_cast<std::ptrdiff_t>(row) * stride;
      for (std::size_t k = 0; k < width_; ++k) to[k * block_rows] = from[k];
    }
  }

  template <Element T>
  void add_tile(const OutputMatrix<T>& output, std::size_t first, std::size_t tokens) noexcept {
    std::fill_n(products_.data(), blocks() * block_rows * token_tile, 0.0F);
    for (std::size_t k = 0; k < width_; k += depth_tile) {
      const std::size_t depth = (std::min)(depth_tile, width_ - k);
      for (std::size_t t = 0; t < tokens; t += token_step)
        add_products(output, first, t, (std::min)(token_step, tokens - t), k, depth);
    }
    for (std::size_t block = 0; block < blocks(); ++block) {
      detail::transpose_block(products_.data() + block * block_rows * token_tile, tokens, logits_.data(),
                              token_tile);
      const std::size_t row = block * block_rows;
      online_.add({logits_.data(), static_cast<std::ptrdiff_t>(token_tile), row,
                   (std::min)(block_rows, online_.rows() - row), first, tokens});
    }
  }

  // products_ (blocks, token_tile, block_rows)
  template <Element T>
  void add_products(const OutputMatrix<T>& output, std::size_t first, std::size_t t, std::size_t count,
                    std::size_t k, std::size_t depth) noexcept {
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
      const float* const hidden = hidden_.data() + (block * width_ + k) * block_rows;
      float* const out = products_.data() + (block * token_tile + t) * block_rows;
      if (count == token_step)
        detail::add_products(std::make_index_sequence<token_step>(), weights, stride, hidden, depth, out);
      else
        for (std::size_t i = 0; i < count; ++i)
          detail::add_products(std::make_index_sequence<1>(),
                               weights + static_cast<std::ptrdiff_t>(i) * stride, stride, hidden, depth,
                               out + i * block_rows);
    }
  }

  std::size_t width_;
  std::vector<float> hidden_;    // (row_tile / block_rows, width, block_rows)
  std::vector<float> weights_;   // (token_step, depth_tile), of elements that must be converted
  std::vector<float> products_;  // (row_tile / block_rows, token_tile, block_rows)
  std::vector<float> logits_;    // (block_rows, token_tile)
  OnlineNuc online_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
